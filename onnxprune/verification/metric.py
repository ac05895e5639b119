"""Measures a metric of a model and of its pruned versions on the same samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import InputError
from onnxprune.extensions.metrics import Metric
from onnxprune.extensions.points import call
from onnxprune.model.model import Model
from onnxprune.runtime.io_slices import WHOLE, Batch, IoSlices
from onnxprune.runtime.session import session
from onnxprune.verification.decisions import Estimate
from onnxprune.verification.metric_loss import Drop, MetricLoss, normal_drop, paired_drop, unmoved_drop

Array = NDArray[Any]
Floats = NDArray[np.float64]
Outputs = dict[str, Any]

RESAMPLES = 100
"""Bootstrap resamples of the samples for a metric that is no mean over them."""


@dataclass(frozen=True)
class LabelledBatches:
    """Samples to measure a metric on.

    Attributes:
        batches: Starts a pass; yields inputs by name with the number of samples in them.
        labels: One entry for each sample; None without labels.
    """

    batches: Callable[[], Iterable[tuple[Batch, int]]]
    labels: Array | None


class MetricMeasurement:
    """Measures a metric of pruned models on some samples; the original is run once.

    Attributes:
        metric: The metric.
        unresolved: What a model that changes nothing on these samples may lose on others; None where not finite.

    Args:
        metric: The metric.
        original: The model before pruning.
        samples: The samples.
        seed: Seed of the bootstrap.

    Raises:
        InputError: The metric does not fit the outputs or the labels.
        RunError: onnxruntime does not take the model or the inputs.
    """

    def __init__(self, metric: Metric, original: Model, samples: LabelledBatches, *, seed: int = 0) -> None:
        if metric.needs_labels and samples.labels is None:
            raise InputError(
                f"metric {metric.name} needs labels, and the calibration data have none",
                "add an array of them named labels, or give images in a folder for each class",
            )
        names = [o.name for o in original.proto.graph.output]
        if metric.output is not None and metric.output not in names:
            raise InputError(f"metric {metric.name}: no output {metric.output!r}", f"there are {', '.join(names)}")
        self.metric, self._samples, self._seed = metric, samples, seed
        bound = metric.bind if samples.labels is not None else None
        self._function = metric.function if bound is None else bound(samples.labels)
        self._by_batch = metric.per_sample and samples.labels is not None
        self._original = _collect(self, original, WHOLE)
        self._same = self._loss(self._original, self._original)
        self.unresolved = self._same.at_most

    def of(self, pruned: Model, io_slices: IoSlices = WHOLE) -> MetricLoss:
        """Measures the metric of a pruned model.

        Args:
            pruned: The model.
            io_slices: What its inputs and outputs lost.
        """
        return self._loss(self._original, _collect(self, pruned, io_slices))

    def unchanged(self) -> MetricLoss:
        """The metric of a model that is the original."""
        return replace(self._same, drop=Estimate(0.0, 0.0, 0.0), at_most=0.0)

    def values(self, outputs: Outputs, labels: Any, reference: Outputs) -> float | Floats:
        """Calls the function.

        Args:
            outputs: Outputs of the model to evaluate.
            labels: Labels; None without any.
            reference: Outputs of the original on the same samples, which take the place of labels.

        Returns:
            The metric, or its value for each sample.
        """
        second = reference if labels is None else labels
        made = np.asarray(call("metric", self.metric.name, self._function, outputs, second))
        count = _count(outputs)
        if made.dtype.kind not in "biuf" or made.shape not in ((), (1,), (count,)):
            raise InputError(
                f"metric {self.metric.name} must give a number, or one for each of the {count} samples, not "
                f"{made.dtype} of shape {made.shape}"
            )
        each = made.shape == (count,) and (count > 1 or self._by_batch)
        return made.astype(np.float64) if each else float(made.reshape(()))

    def _loss(self, before: _Collected, after: _Collected) -> MetricLoss:
        sign = 1.0 if self.metric.higher_is_better else -1.0
        labels, count = self._samples.labels, before.count
        old, new = (self._computed(some, before) for some in (before, after))
        if isinstance(old, float) or isinstance(new, float):
            means = [_mean(old), _mean(new)]
            drop, at_most = self._bootstrapped(before, after, sign)
        else:
            known = ~(np.isnan(old) & np.isnan(new))  # a sample without any position that counts
            old, new, count = old[known], new[known], int(known.sum())
            means = [_mean(old), _mean(new)]
            drop, at_most = paired_drop(old, new, sign)
        first, second = (m if math.isfinite(m) else None for m in means)
        name, higher = self.metric.name, self.metric.higher_is_better
        return MetricLoss(name, higher, first, second, drop, at_most, count, labelled=labels is not None)

    def _computed(self, some: _Collected, original: _Collected) -> float | Floats:
        """The metric of collected outputs, or its value for each sample."""
        if self._by_batch:
            return some.each
        return self.values(some.outputs, self._samples.labels, original.outputs)

    def _bootstrapped(self, before: _Collected, after: _Collected, sign: float) -> Drop:
        """The drop of a metric of all samples together, with the standard error of its bootstrap (Efron, 1979)."""
        rng = np.random.default_rng([self._seed, before.count])

        def both(index: NDArray[np.intp] | None) -> tuple[float, float]:
            labels = None if self._samples.labels is None else _taken(self._samples.labels, index)
            old, new = ({k: _taken(v, index) for k, v in c.outputs.items()} for c in (before, after))
            return _mean(self.values(old, labels, old)), _mean(self.values(new, labels, old))

        first, second = both(None)
        mean = sign * (first - second)
        resamples = (rng.integers(0, before.count, before.count) for _ in range(RESAMPLES))
        drops = np.array([sign * (old - new) for old, new in map(both, resamples)])
        drops = drops[np.isfinite(drops)]
        if not math.isfinite(mean) or len(drops) < RESAMPLES / 2:
            return None, None
        if mean == 0 and not drops.any() and 0 <= first <= 1:
            return unmoved_drop(before.count)
        return normal_drop(mean, float(drops.std(ddof=1)), before.count)


class _Collected:
    """What is kept of a model's outputs: values of the metric for each sample, or the outputs."""

    def __init__(self, each: Floats, outputs: Outputs, count: int) -> None:
        self.each, self.outputs, self.count = each, outputs, count


def _collect(measurement: MetricMeasurement, model: Model, io_slices: IoSlices) -> _Collected:
    """Runs a model over the samples."""
    metric, samples, labels = measurement.metric, measurement._samples, measurement._samples.labels
    names = [o.name for o in model.proto.graph.output]
    wanted = names if metric.output is None else [metric.output]
    sizes: list[int] = []

    def feeds() -> Iterable[Batch]:
        for batch, size in samples.batches():
            sizes.append(size)
            yield io_slices.feeds(batch)

    each: list[Floats] = []
    kept: dict[str, list[Array]] = {name: [] for name in wanted}
    start = 0
    for i, arrays in enumerate(session(model).each(feeds(), wanted)):
        size = sizes[i]
        outputs = {n: _by_sample(np.asarray(a), size, n, metric.name) for n, a in zip(wanted, arrays, strict=True)}
        if measurement._by_batch and labels is not None:
            found = measurement.values(outputs, labels[start : start + size], outputs)
            if isinstance(found, float):
                raise InputError(f"metric {metric.name} was added as one of single samples, and gives one number")
            each.append(found)
        else:
            for name, array in outputs.items():
                kept[name].append(array)
        start += size
    return _Collected(_joined(each), {n: _joined(parts) for n, parts in kept.items() if parts}, start)


def _by_sample(array: Array, count: int, name: str, metric: str) -> Array:
    """The output of a batch with samples along axis 0."""
    if array.ndim and len(array) == count:
        return array
    if count == 1:
        return array[None]
    raise InputError(
        f"metric {metric}: output {name!r} has no axis of samples in front: shape {array.shape} for {count} samples",
        "name another output, as in top1:OUTPUT",
    )


def _joined(parts: Sequence[Array]) -> Any:
    """Arrays joined along axis 0; a list of single samples where they differ in shape."""
    if len({part.shape[1:] for part in parts}) > 1:
        return [sample for part in parts for sample in part]
    return np.concatenate(parts) if parts else np.zeros(0)


def _count(outputs: Outputs) -> int:
    return len(next(iter(outputs.values())))


def _taken(values: Any, index: NDArray[np.intp] | None) -> Any:
    """Some samples, with repetitions; all for None."""
    if index is None:
        return values
    return values[index] if isinstance(values, np.ndarray) else [values[i] for i in index]


def _mean(values: float | Floats) -> float:
    return float(np.mean(values)) if np.size(values) else math.nan
