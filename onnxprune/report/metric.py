"""The metric of a run in its report, and in words."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnxprune.report.json_data import OMIT_NONE
from onnxprune.verification.decisions import Estimate
from onnxprune.verification.metric_loss import CONFIDENCE, MetricLoss

MAX_DROP = "max-drop"
"""Name of the gate that limits how much of a metric is lost."""
SURE = f"{100 * CONFIDENCE:.0f}%"
SHARES = ("top1", "top5", "auc", "accuracy")
"""Metrics that are shares of 1, shown in percent."""


@dataclass(frozen=True)
class MetricReport(MetricLoss):
    """A metric before and after.

    Attributes:
        on: The samples in words.
    """

    on: str = ""

    @classmethod
    def of(cls, loss: MetricLoss, on: str) -> MetricReport:
        """The report of what was measured on some samples."""
        return cls(**vars(loss), on=on)


@dataclass(frozen=True)
class GateReport:
    """A gate: limit, measurement (None where outputs cannot be compared), its inputs, and verdict.

    Attributes:
        asked: The limit.
        measured: What was measured; of `MAX_DROP` the mean drop.
        met: Whether it holds; of `MAX_DROP` for the upper bound of the drop.
        on: The inputs in words.
        metric: Of `MAX_DROP` the name of the metric.
        at_most: Of `MAX_DROP` the upper bound of the drop.
        samples: Of `MAX_DROP` the number of samples.
    """

    asked: float
    measured: float | None
    met: bool
    on: str
    metric: str | None = field(default=None, metadata=OMIT_NONE)
    at_most: float | None = field(default=None, metadata=OMIT_NONE)
    samples: int | None = field(default=None, metadata=OMIT_NONE)


def drop_gate(loss: MetricLoss, limit: float, on: str) -> GateReport:
    """Holds what is lost to a limit: the upper bound must be within it, not only the mean.

    The mean alone may be within the limit by luck, the more so the fewer samples there are.
    """
    mean = None if loss.drop is None else loss.drop.mean
    met = loss.at_most is not None and loss.at_most <= limit
    return GateReport(limit, mean, met, on, loss.name, loss.at_most, loss.samples)


def drop_line(gate: GateReport) -> str:
    """Why a limit on the drop is missed: by how much, how sure that is, and how many samples would settle it."""
    name = gate.metric or ""
    if gate.measured is None or gate.at_most is None:
        return f"{MAX_DROP} is missed: the drop of {name} on {gate.samples} {gate.on} is not finite"
    mean, bound, limit = (number(name, value) for value in (gate.measured, gate.at_most, gate.asked))
    line = (
        f"{MAX_DROP} is missed: {name} falls by {mean} on {gate.samples} {gate.on}, by at most {bound} with {SURE} "
        f"confidence; at most {limit} asked"
    )
    if gate.measured < gate.asked and gate.samples is not None:
        more = gate.samples * ((gate.at_most - gate.measured) / (gate.asked - gate.measured)) ** 2
        line += f". About {rounded_up(more)} held-out samples could tell whether it is within that"
    return line


def rounded_up(count: float) -> int:
    """The next number with two significant digits."""
    unit = 1
    while count / unit >= 100:
        unit *= 10
    return -int(-count // unit) * unit


def number(name: str, value: float) -> str:
    """A value or a difference of a metric: a share in percent, anything else with four significant digits."""
    return f"{100 * value:.2f}%" if is_share(name) else f"{value:.4g}"


def is_share(name: str) -> bool:
    """Whether a metric is a share of 1."""
    return name.partition(":")[0] in SHARES


def interval(name: str, drop: Estimate) -> str:
    """A difference of a metric with its interval of 95%."""
    return f"{number(name, drop.mean)} ({number(name, drop.low)} to {number(name, drop.high)})"


def metric_lines(report: MetricReport) -> list[str]:
    """The metric before and after, and what is lost."""
    if not report.labelled and report.before is None and report.name == "accuracy":
        return []  # the estimate is in the lines on decisions
    before, after = ("not finite" if v is None else number(report.name, v) for v in (report.before, report.after))
    head = f"{report.name} on {report.samples} {report.on}: {before} before, {after} after"
    if report.drop is None or report.at_most is None:
        return [head]
    better = "" if report.higher_is_better else " (lower is better)"
    lost = f"lost: {interval(report.name, report.drop)}, at most {number(report.name, report.at_most)} with {SURE}"
    return [f"{head}{better}; {lost} confidence"]
