"""Models side by side, the first as the reference: as data and as a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from onnxprune.common.text import count, duration, percent, plural, printable, short
from onnxprune.report.json_data import OMIT_NONE, JsonValue
from onnxprune.report.metric import interval, number
from onnxprune.report.tables import Part, table
from onnxprune.report.tables import number as rounded
from onnxprune.report.warnings import interval as share
from onnxprune.verification.decisions import Decisions
from onnxprune.verification.drift import Drift
from onnxprune.verification.latency import Timing
from onnxprune.verification.metric_loss import MetricLoss
from onnxprune.verification.neighbours import Neighbours

OUTPUTS = 5
"""Outputs whose drift is shown."""


@dataclass(frozen=True)
class ComparedModel:
    """One of the models.

    Attributes:
        model: Its file name, or what else it was given as.
        params: Its parameters; None where they cannot be counted, and so for the next two.
        macs: Multiplications and additions of one run.
        bytes: Its size with its data.
        latency: Times of a run.
        speed: Time of a run over that of the first model, from alternating runs; 1 for the first.
        drift: How far each output is from the first model's; empty for the first.
        decisions: The output that chooses classes and is expected to lose most: choices equal to the first model's, and
            accuracy lost, estimated from its probabilities. None without data, and for the first.
        metric: The metric, and what is lost of it; None without labels where none was asked for.
        neighbours: The output that holds embeddings and keeps the fewest nearest neighbours; None where none does.
    """

    model: str
    params: int | None
    macs: int | None
    bytes: int | None
    latency: Timing
    speed: float
    drift: dict[str, Drift]
    decisions: Decisions | None = None
    metric: MetricLoss | None = None
    neighbours: Neighbours | None = field(default=None, metadata=OMIT_NONE)


@dataclass(frozen=True)
class ComparisonReport(JsonValue):
    """Models side by side.

    Attributes:
        models: The models; the first is the reference.
        on: The inputs that outputs were compared on, in words.
        samples: Number of calibration samples; None for synthetic inputs.
        runs: Timed runs of each.
        threads: Threads for one operator; 0 is onnxruntime's default.
    """

    models: list[ComparedModel]
    on: str
    samples: int | None
    runs: int
    threads: int


def compared(report: ComparisonReport) -> list[Part]:
    """The table of `compare`: a column for each model, with the share of the first one."""
    models = report.models
    legend = "\n".join(f"[{i + 1}] {printable(m.model)}" for i, m in enumerate(models))
    titles = ["", *(f">[{i + 1}]" for i in range(len(models)))]
    how = "default threads" if report.threads == 0 else plural(report.threads, "thread")
    rows = [
        _counts("parameters", models, lambda m: m.params),
        _counts("MACs", models, lambda m: m.macs),
        _counts("bytes", models, lambda m: m.bytes, "B"),
        [f"time of a run, {how}", *(f"{duration(m.latency.wall)} ({percent(m.speed, 1)})" for m in models)],
        ["processor time", *(duration(m.latency.cpu) for m in models)],
    ]
    samples = "" if report.samples is None else f"{report.samples} "
    return [legend, table(titles, rows), f"On {samples}{report.on}:", table(titles, _quality(models))]


def _quality(models: list[ComparedModel]) -> list[list[str]]:
    """Rows on the outputs: the metric, choices, accuracy, and drift."""
    rows = []
    metric = models[0].metric
    if metric is not None:
        values = [m.metric.after if m.metric is not None else None for m in models]
        better = "" if metric.higher_is_better else " (lower is better)"
        rows.append([f"{short(metric.name)}{better}", *("-" if v is None else number(metric.name, v) for v in values)])
        drops = [m.metric.drop if m.metric is not None else None for m in models[1:]]
        rows.append(["- lost", "", *("-" if d is None else interval(metric.name, d) for d in drops)])
    if any(m.decisions is not None for m in models):
        known = [m.decisions for m in models[1:]]
        rows.append(["equal choices", "", *("-" if d is None else share(d.agreement) for d in known)])
        rows.append(["accuracy lost, estimated", "", *("-" if d is None else share(d.lost) for d in known)])
    if any(m.neighbours is not None for m in models):
        near = [m.neighbours for m in models[1:]]
        rows.append(["same nearest sample", "", *("-" if n is None else share(n.same) for n in near)])
    for name in list(models[-1].drift)[:OUTPUTS]:
        drifts = [m.drift[name] for m in models[1:]]
        what = "equal classes" if any(d.equal is not None for d in drifts) else "drift (rel rms)"
        rows.append([f"{what} of {short(name)}", "", *(_moved(d) for d in drifts)])
    return rows


def _moved(drift: Drift) -> str:
    return rounded(drift.rel_rms) if drift.equal is None else percent(drift.equal, 1)


def _counts(
    title: str, models: list[ComparedModel], value: Callable[[ComparedModel], int | None], unit: str = ""
) -> list[str]:
    first = value(models[0])
    cells = []
    for model in models:
        known = value(model)
        part = f" ({percent(known, first)})" if known is not None and first else ""
        cells.append("unknown" if known is None else f"{count(known, unit)}{part}")
    return [title, *cells]
