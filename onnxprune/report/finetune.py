"""The report of a fine-tuning: as data and as a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from onnxprune import __version__
from onnxprune.common.text import plural, printable
from onnxprune.extensions.patterns import CHANNELS
from onnxprune.report.json_data import JsonValue
from onnxprune.report.metric import MetricReport, metric_lines, number
from onnxprune.report.tables import Part
from onnxprune.training.finetune import Training

SCHEMA = 1


@dataclass(frozen=True)
class FineTuningReport(JsonValue):
    """What a fine-tuning did.

    Attributes:
        training: What was trained, and what held-back samples say of it.
        metric: The metric before and after, on samples that neither the training nor the choice of weights has seen;
            None without labels.
        teacher: The same metric of the teacher; None where there is none.
        verified: Whether the result runs and keeps its interface.
        options: The options of the run.
        warnings: What the reader should know.
        seconds: Seconds of each stage.
    """

    training: Training
    metric: MetricReport | None
    teacher: float | None
    verified: bool
    options: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    schema: int = SCHEMA
    version: str = __version__


def finetuned(report: FineTuningReport, model: str, output: str | None) -> list[Part]:
    """What is printed of a fine-tuning."""
    training = report.training
    parts: list[Part] = [f"{printable(model)} -> {printable(output)}" if output else printable(model)]
    if training.skipped is not None:
        return [*parts, f"nothing was trained: {training.skipped}"]
    steps = "" if training.rate is None else f", steps of at most {training.rate:.2g} of their size"
    parts.append(
        f"{plural(training.weights, 'weight')} trained on {plural(training.samples, 'sample')}, "
        f"{plural(training.epochs, 'epoch')}{steps}"
    )
    taken = f"of epoch {training.best} are taken" if training.best is not None else "are not surely better: as it was"
    parts.append(
        f"loss ({training.loss}) on {training.judges} held-back samples: {training.before:.4g} before, "
        f"{training.after:.4g} after; the weights {taken}"
    )
    if training.pruned is not None:
        what = "prunable channels went" if report.options["pattern"] == CHANNELS else "elements of the weights are zero"
        parts.append(f"{training.pruned:.1%} of the {what}, in {plural(int(report.options['steps']), 'step')}")
    if report.metric is not None:
        parts += metric_lines(report.metric)
        if report.teacher is not None:
            parts.append(f"{report.metric.name} of the teacher: {number(report.metric.name, report.teacher)}")
    for why, count in training.untrained.items():
        parts.append(f"{plural(count, 'weight')} not trained: {printable(why)}")
    return parts
