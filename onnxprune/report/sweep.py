"""Variants of one pruned model side by side: as data, and as CSV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnxprune import __version__
from onnxprune.common.text import plural
from onnxprune.report.csv_text import csv_text
from onnxprune.report.entries import Count
from onnxprune.report.front import front
from onnxprune.report.json_data import JsonValue

SCHEMA = 1
"""Version of the JSON data: keys may be added to it; one that changes its meaning or goes makes it another."""
UNKNOWN = Count(None, None)


@dataclass(frozen=True)
class Variant(JsonValue):
    """One variant: what it was asked for, what it costs, and what it lost.

    Attributes:
        name: The amount and the criterion, in words.
        options: The options of a run that makes it, as in a report; a run knows nothing of `repair_samples`.
        importance: The criterion that ranked channels; None where it failed.
        params: Parameters before and after.
        macs: MACs of one run.
        bytes: Size of the model with its data.
        latency: Median time of a run of it, in seconds; None where it was not measured.
        latency_left: Share of the time of the original, both measured in turns.
        error: Squared error of the outputs on held-out samples relative to their variance; None without data.
        agreement: Share of the choices that equal the original's; None where no output chooses, or without data.
        metric_name: Name of the metric; None where there is none.
        metric: The metric on held-out samples.
        metric_before: That of the original.
        drop: How much of the metric is lost, in its unit.
        drift: Largest relative drift of an output (root mean square); None where that has no meaning.
        on: The samples that accuracy was measured on, in words; None without data.
        samples: How many these are.
        repair_samples: Samples that its repair learned from at most; None where that was all that a run would take.
        verified: Whether it was run beside the original.
        missed: Targets that it misses.
        gates_missed: Gates that it misses; such a model is not written.
        failed: Why there is no such variant; None where there is one.
        model: File that it was written to, in the folder of the sweep; None where it was not.
        seconds: Time that it took.
        key: Checksum of model, data and options, by which a later sweep recognises it; None where there is none.
    """

    name: str
    options: dict[str, Any]
    importance: str | None = None
    params: Count = UNKNOWN
    macs: Count = UNKNOWN
    bytes: Count = UNKNOWN
    latency: float | None = None
    latency_left: float | None = None
    error: float | None = None
    agreement: float | None = None
    metric_name: str | None = None
    metric: float | None = None
    metric_before: float | None = None
    drop: float | None = None
    drift: float | None = None
    on: str | None = None
    samples: int = 0
    repair_samples: int | None = None
    verified: bool = False
    missed: list[str] = field(default_factory=list)
    gates_missed: list[str] = field(default_factory=list)
    failed: str | None = None
    model: str | None = None
    seconds: float = 0.0
    key: str | None = None

    @property
    def writable(self) -> bool:
        """Whether there is a model, and it is within the gates."""
        return self.failed is None and not self.gates_missed


@dataclass(frozen=True)
class SweepReport(JsonValue):
    """The variants of a sweep.

    Attributes:
        model: File name of the original; None for a model in memory.
        asked: How many variants were asked for; there are fewer after an interruption.
        variants: The variants that are done, in the order that they were asked for.
        cost: What variants are compared by: ``latency``, ``MACs`` or ``parameters``.
        loss: What they are compared by besides, the first that is known and in which they differ: ``drop`` of the
            metric, ``choices`` that changed, ``error``, ``drift``.
        front: Names of the variants that no other one, nor the original, is better than in both.
        best: Name of the one of least cost that is within the gates; None without gates, or where none is.
        schema: Version of the JSON data (`SCHEMA`).
        version: Version of onnxprune that wrote it.
    """

    model: str | None
    asked: int
    variants: list[Variant]
    cost: str = "parameters"
    loss: str = "drift"
    front: list[str] = field(default_factory=list)
    best: str | None = None
    schema: int = SCHEMA
    version: str = __version__

    def __repr__(self) -> str:
        done = "" if len(self.variants) == self.asked else f" of {self.asked}"
        best = "" if self.best is None else f", best: {self.best!r}"
        return f"SweepReport({len(self.variants)}{done} variants, {len(self.front)} on the front{best})"

    @property
    def complete(self) -> bool:
        """Whether all variants are done."""
        return len(self.variants) == self.asked

    def to_csv(self) -> str:
        """A line a variant, as CSV (RFC 4180)."""
        return csv_text(COLUMNS, [_line(variant, variant.name in self.front) for variant in self.variants])


COLUMNS = (
    *("variant", "importance", "params_before", "params", "macs_before", "macs", "bytes_before", "bytes", "latency"),
    *("latency_left", "error", "agreement", "metric_before", "metric", "drop", "drift", "front", "missed", "failed"),
    *("model", "seconds"),
)


def _line(v: Variant, on_front: bool) -> list[Any]:
    counts = [n for pair in (v.params, v.macs, v.bytes) for n in (pair.before, pair.after)]
    accuracy = [v.error, v.agreement, v.metric_before, v.metric, v.drop, v.drift]
    missed = " ".join([*v.missed, *v.gates_missed])
    ends = [int(on_front), missed, v.failed, v.model, v.seconds]
    return [v.name, v.importance, *counts, v.latency, v.latency_left, *accuracy, *ends]


def compared(report: SweepReport, *, gated: bool) -> SweepReport:
    """The report with what its variants can be compared by, the front and the best.

    Args:
        report: The variants.
        gated: Whether gates say which variants are good enough.
    """
    made = [v for v in report.variants if v.failed is None]
    cost = next(name for name in COSTS if all(COSTS[name](v) is not None for v in made))
    loss = _loss(made)
    pairs = [(COSTS[cost](v), LOSSES[loss](v)) for v in made]
    known = [i for i, (_, lost) in enumerate(pairs) if lost is not None]
    points = [(float(pairs[i][0] or 0), float(pairs[i][1] or 0)) for i in known]
    found = [made[known[i]].name for i in front(points, (1.0, 0.0))]
    good = [v for v in made if gated and v.writable]
    best = min(good, key=lambda v: COSTS[cost](v) or 0.0).name if good else None
    return SweepReport(**{**vars(report), "cost": cost, "loss": loss, "front": found, "best": best})


def _loss(variants: Sequence[Variant]) -> str:
    """The first measure of accuracy that is known of all variants and differs between them, else the first known."""
    values = {name: {of(v) for v in variants} for name, of in LOSSES.items()}
    known = [name for name, found in values.items() if variants and None not in found]
    return next((name for name in known if len(values[name]) > 1), next(iter(known), "drift"))


def left(pair: Count) -> float | None:
    """Share that is left; None where it cannot be counted."""
    return None if pair.before is None or pair.after is None else pair.after / max(pair.before, 1)


COSTS: dict[str, Callable[[Variant], float | None]] = {
    "latency": lambda v: v.latency_left,
    "MACs": lambda v: left(v.macs),
    "parameters": lambda v: 1.0 if left(v.params) is None else left(v.params),
}
"""What variants can be compared by, as shares of the original's, in the order of preference."""
LOSSES: dict[str, Callable[[Variant], float | None]] = {
    "drop": lambda v: v.drop,
    "choices": lambda v: None if v.agreement is None else 1 - v.agreement,
    "error": lambda v: v.error,
    "drift": lambda v: v.drift,
}
"""What variants lose, 0 for the original, in the order of preference."""


def counted(report: SweepReport) -> str:
    """How many variants are done, in words."""
    done = plural(len(report.variants), "variant")
    return done if report.complete else f"{done} of {report.asked}"
