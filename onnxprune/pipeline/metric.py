"""Measures the metric of pruned models on held-out samples, and holds it to the limit that was asked for."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration import Samples
from onnxprune.errors import DataError, InputError, RunError
from onnxprune.extensions.metrics import metrics
from onnxprune.model.model import Model
from onnxprune.options import Checks
from onnxprune.pipeline.data import CalibrationSplit
from onnxprune.report.metric import MAX_DROP, GateReport, MetricReport, drop_gate, rounded_up
from onnxprune.runtime.io_slices import Batch, IoSlices
from onnxprune.verification.estimated_loss import EstimatedLoss
from onnxprune.verification.metric import LabelledBatches, MetricMeasurement
from onnxprune.verification.metric_functions import is_one_hot
from onnxprune.verification.metric_loss import MetricLoss
from onnxprune.verification.output_sums import class_axis_if_any

logger = logging.getLogger(__name__)

DEFAULT = "top1"
"""The metric of labels where none is asked for."""
ENOUGH = 30
"""With fewer samples the original is not suspected of having other labels."""

Measurement = MetricMeasurement | EstimatedLoss


@dataclass(frozen=True)
class MetricEvaluator:
    """Measures a metric on held-out samples.

    Attributes:
        held: On the samples that every model of a run is measured on; None where there is no metric.
        confirmation: On those that confirm the model that a search selected; None where there are none.
        on: The samples in words.
        limit: How much may be lost; None for any.
        warning: Why labels are not used, or cannot be right; None where nothing is wrong.
    """

    held: Measurement | None
    confirmation: Measurement | None
    on: str
    limit: float | None
    warning: str | None = None

    def measure(self, pruned: Model, io_slices: IoSlices, *, changed: bool) -> MetricReport | None:
        """The metric of a pruned model on the samples of every model."""
        return _measured(self.held, pruned, io_slices, self.on, changed=changed)

    def measure_confirmation(self, pruned: Model, io_slices: IoSlices, *, changed: bool) -> MetricReport | None:
        """The metric of a pruned model on the samples that no choice was made with."""
        on = f"{self.on} that the search has not used"
        return _measured(self.confirmation, pruned, io_slices, on, changed=changed)

    def gates(self, found: MetricReport | None) -> dict[str, GateReport]:
        """The verdict on what is lost; empty where there is no limit."""
        if self.limit is None or found is None:
            return {}
        return {MAX_DROP: drop_gate(found, self.limit, found.on)}


NO_METRIC = MetricEvaluator(None, None, "", None)
"""Measures nothing."""


def make_evaluator(
    load: Callable[[], Model], data: CalibrationSplit | None, checks: Checks, seed: int
) -> MetricEvaluator:
    """Chooses the metric and runs the original, so that what does not fit is reported at the start.

    Args:
        load: Loads the original.
        data: The calibration data.
        checks: The metric and the limit.
        seed: Seed of a bootstrap.

    Raises:
        InputError: The metric that was asked for does not fit the outputs or the labels; a limit is asked for, and
            there are too few samples to hold any out, or nothing that tells the accuracy.
    """
    if data is None:
        return NO_METRIC
    if checks.max_drop is not None and not data.held_out:
        raise DataError(
            f"max-drop is measured on held-out samples, and {data.fit.count} are too few to hold any out",
            "give more calibration samples: some hundreds tell a point of accuracy",
        )
    if checks.metric is not None or data.held.labels is not None:
        return _of_metric(load, data, checks, seed)
    if checks.max_drop is None:
        return NO_METRIC
    parts = _parts(data)
    return _checked([EstimatedLoss(load, labelled_batches(part)) for part in parts], parts, data, checks, None)


def _of_metric(load: Callable[[], Model], data: CalibrationSplit, checks: Checks, seed: int) -> MetricEvaluator:
    """See `make_evaluator`, where there are labels or a metric."""
    metric, parts = checks.asked_metric or metrics.get(DEFAULT), _parts(data)
    try:
        measurements = [MetricMeasurement(metric, load(), labelled_batches(part), seed=seed) for part in parts]
    except RunError:
        raise
    except InputError as error:
        if checks.metric is not None or checks.max_drop is not None:
            raise
        return replace(NO_METRIC, warning=f"nothing is measured on the labels: {error.message}")
    wrong = _wrong_labels(measurements[0], data.held.labels)
    if wrong is not None and checks.max_drop is not None:
        raise DataError(wrong, "classes=FILE gives folders their order; preprocessing may be another reason")
    if wrong is not None and checks.metric is None and getattr(data.held, "classes", None) is not None:
        return replace(NO_METRIC, warning=f"names of folders are not used as labels: {wrong}")
    return _checked(measurements, parts, data, checks, wrong)


def _parts(data: CalibrationSplit) -> list[Any]:
    """The samples that the metric is measured on, those of the confirmation last."""
    return [part for part in (data.held, data.confirmation) if part is not None]


def _checked(
    measurements: Sequence[Measurement],
    parts: Sequence[Any],
    data: CalibrationSplit,
    checks: Checks,
    warning: str | None,
) -> MetricEvaluator:
    """The evaluator of measurements on some parts, where these have enough samples for the limit."""
    _check_resolution(measurements, parts, data, checks)
    on = ("held-out " if data.held_out else "") + "calibration samples"
    confirmation = measurements[1] if len(measurements) > 1 else None
    return MetricEvaluator(measurements[0], confirmation, on, checks.max_drop, warning)


def _check_resolution(
    measurements: Sequence[Measurement], parts: Sequence[Any], data: CalibrationSplit, checks: Checks
) -> None:
    """Raises DataError where samples are too few for any model to be within the limit."""
    limit = checks.max_drop
    if limit is None or checks.keep_anyway:
        return
    for measurement, part in zip(measurements, parts, strict=True):
        least, count = measurement.unresolved, part.count
        if least is None or least <= limit:
            continue
        total = count if data.fit.count is None else data.fit.count + sum(p.count for p in parts)
        more = f"give about {rounded_up(1.1 * total * least / limit)} calibration samples" if limit else "allow a drop"
        raise DataError(
            f"max-drop {limit:g} cannot be told with {count} of {total} samples held out: a model that "
            f"changes nothing on them may still lose {least:.2g} on others",
            more,
        )


def labelled_batches(samples: Any) -> LabelledBatches:
    """Samples with their labels, to measure a metric on."""

    def batches() -> Iterator[tuple[Batch, int]]:
        for feeds in samples.batches():
            yield feeds, samples.size(feeds) if isinstance(samples, Samples) else 1

    return LabelledBatches(batches, samples.labels)


def _measured(
    measurement: Measurement | None, pruned: Model, io_slices: IoSlices, on: str, *, changed: bool
) -> MetricReport | None:
    if measurement is None:
        return None
    found: MetricLoss = measurement.of(pruned, io_slices) if changed else measurement.unchanged()
    logger.info("%s", found)
    return MetricReport.of(found, on)


def _kinds(labels: NDArray[Any]) -> int:
    """How many classes occur among labels: indices, of which those that are ignored do not count, texts, or one-hot."""
    if labels.ndim > 1 and labels.dtype.kind in "biuf":
        axis = class_axis_if_any(labels.shape) or labels.ndim - 1
        if is_one_hot(labels, axis):
            return len(np.unique(labels.argmax(axis=axis)))
        labels = labels[(labels >= 0) & (labels != 255)]
    return len(np.unique(labels))


def _wrong_labels(measurement: MetricMeasurement, labels: Any) -> str | None:
    """Why labels cannot be those of the model's classes: the original is no better than chance; None if it is."""
    loss = measurement.unchanged()
    kinds = _kinds(np.asarray(labels))
    if measurement.metric.name.partition(":")[0] != DEFAULT or loss.before is None or kinds < 2:
        return None
    chance = 1 / kinds
    if loss.samples < ENOUGH or loss.before > chance + 2 * math.sqrt(chance * (1 - chance) / loss.samples):
        return None
    return (
        f"the original is right for {100 * loss.before:.1f}% of {loss.samples} held-out samples with {kinds} classes, "
        "which is no better than chance: do the labels belong to the classes of the model?"
    )
