"""The variants of a sweep as a table for a terminal."""

from __future__ import annotations

from onnxprune.common.text import duration, percent, plain_percent, printable
from onnxprune.report.metric import number
from onnxprune.report.sensitivity import distinct
from onnxprune.report.sweep import SweepReport, Variant, counted, left
from onnxprune.report.tables import Part, table

NAME = 18
"""Characters of a variant's name in the table."""
LEAST, LITTLE = 1e-4, "<0.01%"
"""An error that is not told exactly, and what stands for it."""
FRONT = "*"
"""Mark of the variants on the front."""
LOSS_WORDS = {
    "drop": "what is lost of {metric}",
    "choices": "how many choices change",
    "error": "the error of the outputs",
    "drift": "the drift of the outputs on synthetic inputs",
}


def tables(report: SweepReport) -> list[Part]:
    """A table for a terminal of 80 columns, and what it means."""
    head = f"{printable(report.model or 'the model')}: {counted(report)}"
    made = [v for v in report.variants if v.failed is None]
    if not made:
        return [head, *_paragraph([f"{v.name}: {v.failed}" for v in report.variants])]
    timed, errors = (any(x is not None for x in values) for values in _optional(made))
    agreed = any(v.agreement is not None for v in made)
    metric = next((v.metric_name for v in made if v.metric_name is not None), None)
    titles = [
        "  variant",
        *(">params", ">MACs", ">bytes"),
        *([">time"] if timed else []),
        *([">error"] if errors else [">drift"]),
        *([">equal"] if agreed else []),
        *([f">{_short(metric)}"] if metric else []),
    ]
    names = distinct([v.name for v in made], NAME)
    rows = [
        [
            f"{FRONT if v.name in report.front else ' '} {name}",
            *(_share(left(pair)) for pair in (v.params, v.macs, v.bytes)),
            *([_share(v.latency_left)] if timed else []),
            _plain(v.error if errors else v.drift),
            *([_share(v.agreement)] if agreed else []),
            *(["-" if v.metric is None else number(metric, v.metric)] if metric else []),
        ]
        for name, v in zip(names, made, strict=True)
    ]
    return [head, table(titles, rows), *_paragraph([*_about(report, made, metric), *_faults(report)])]


def _optional(made: list[Variant]) -> list[list[float | None]]:
    return [[v.latency_left for v in made], [v.error for v in made]]


def _about(report: SweepReport, made: list[Variant], metric: str | None) -> list[str]:
    """What the columns are, and what the front is of."""
    first = next((v for v in made if v.on is not None), made[0])
    lines = [f"params, MACs, bytes{_original(first)}: what is left of the original's"]
    if first.on is not None:
        before = "" if metric is None or first.metric_before is None else _before(metric, first.metric_before)
        of = f"{first.samples} {first.on}{before}"
        lines.append(f"error: squared error of the outputs relative to their variance, on {of}")
    loss = LOSS_WORDS[report.loss].format(metric=metric)
    lines.append(f"{FRONT} no other variant is better in both {report.cost} and {loss}")
    if report.best is not None:
        lines.append(f"within the gates at the least {report.cost}: {report.best}")
    if first.repair_samples is not None:
        lines.append(
            f"repairs learned from {first.repair_samples} samples at most, to be quick: a run of one variant learns "
            "from all of them"
        )
    return lines


def _original(first: Variant) -> str:
    if first.latency is None or not first.latency_left:
        return ""
    return f" and time ({duration(first.latency / first.latency_left)} a run)"


def _before(metric: str, value: float) -> str:
    return f"; {metric} of the original: {number(metric, value)}"


def _faults(report: SweepReport) -> list[str]:
    """Targets and gates that variants miss, and variants that failed."""
    lines = []
    for v in report.variants:
        lines += [f"{v.name} misses {', '.join(v.missed)}"] if v.missed else []
        lines += [f"{v.name}: {line}" for line in v.gates_missed]
    return [*lines, *(f"{v.name} failed: {v.failed}" for v in report.variants if v.failed is not None)]


def _paragraph(lines: list[str]) -> list[Part]:
    return ["\n".join("- " + printable(line) for line in lines)] if lines else []


def _short(metric: str) -> str:
    return printable(metric.partition(":")[0])[:8]


def _share(value: float | None) -> str:
    if value is None:
        return "-"
    shown = percent(value, 1)
    return "100%" if shown == "100.0%" else shown


def _plain(value: float | None) -> str:
    if value is None:
        return "-"
    return LITTLE if 0 < value < LEAST else plain_percent(value)
