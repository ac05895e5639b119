"""The package's own metrics: top1, top5, mse, psnr, auc.

Each picks the first output whose shape fits the labels. Axes of length 1 after the axis of samples do not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import DataError, option
from onnxprune.extensions.metrics import Metric, metrics
from onnxprune.verification.decisions import probabilities
from onnxprune.verification.output_sums import class_axis_if_any

Array = NDArray[Any]
Floats = NDArray[np.float64]
Outputs = Mapping[str, Any]


def hits(outputs: Outputs, labels: Array, *, k: int, classes: int | None) -> Floats:
    """Share of the labels of each sample that are among the `k` classes with the largest scores; shape (samples,).

    An output of integers, booleans or strings is the class itself. Of labels for positions, those that are no class
    (negative, or 255 by convention) do not count.

    Args:
        outputs: Outputs by name; scores have one axis more than the labels, the axis of classes.
        labels: Indices of classes of shape (samples,) or (samples, positions, ...), or one-hot in the shape of scores.
        k: How many classes may be chosen.
        classes: Classes that an output has at least; None for any.

    Raises:
        DataError: No output has that form.
    """
    truth = _squeezed(labels)
    for scores in _floats(outputs):
        found = _with_classes_last(scores, truth)
        if found is not None and found[0].shape[-1] > k and (classes is None or found[0].shape[-1] >= classes):
            return _hits_of_scores(*found, k)
    for output in _arrays(outputs):
        if k == 1 and output.dtype.kind in "biuOSU" and output.shape == truth.shape:
            text = output.dtype.kind in "OSU" or truth.dtype.kind in "OSU"
            same = output.astype(str) == truth.astype(str) if text else output == truth
            share: Floats = same.reshape(len(same), -1).mean(axis=1, dtype=np.float64)
            return share
    raise _no_output(f"top{k}", f"scores of more than {k} classes" if k > 1 else "scores of classes", outputs, labels)


def _hits_of_scores(scores: Array, truth: Array, k: int) -> Floats:
    """See `hits`: scores with classes along the last axis, and labels of the shape of the other axes."""
    if truth.dtype.kind not in "iu":
        truth = _whole(truth)
    scores = np.where(np.isnan(scores), -np.inf, scores.astype(np.float64))
    if k == 1:
        right = scores.argmax(axis=-1) == truth
    else:
        best = np.argpartition(-scores, k - 1, axis=-1)[..., :k]
        right = (best == truth[..., None]).any(axis=-1)
    right &= (scores > -np.inf).any(axis=-1)  # scores that are no numbers choose nothing
    if truth.ndim == 1:
        return np.asarray(right, dtype=np.float64)
    counted = ((truth >= 0) & (truth < scores.shape[-1])).reshape(len(truth), -1)
    totals = counted.sum(axis=1)
    shares = (right.reshape(len(right), -1) & counted).sum(axis=1) / np.maximum(totals, 1)
    return np.where(totals > 0, shares, np.nan)


def is_one_hot(labels: Array, axis: int) -> bool:
    """Whether labels are zeros but for a single one along an axis."""
    return bool(((labels == 0) | (labels == 1)).all() and (labels.sum(axis=axis) == 1).all())


def _with_classes_last(scores: Array, truth: Array) -> tuple[Array, Array] | None:
    """Scores with the axis of classes last, and labels as indices; None where the shapes do not belong together."""
    if scores.shape == truth.shape and truth.ndim > 1 and truth.dtype.kind in "biuf":
        axis = class_axis_if_any(scores.shape) or truth.ndim - 1
        return (np.moveaxis(scores, axis, -1), truth.argmax(axis=axis)) if is_one_hot(truth, axis) else None
    if scores.ndim != truth.ndim + 1 or truth.dtype.kind not in "biuf":
        return None
    likely = class_axis_if_any(scores.shape)
    for axis in ([likely] if likely else []) + list(range(1, scores.ndim)):
        if scores.shape[:axis] + scores.shape[axis + 1 :] == truth.shape:
            return np.moveaxis(scores, axis, -1), truth
    return None


def _whole(labels: Array) -> Array:
    """Labels that are floats or booleans as integers."""
    with np.errstate(invalid="ignore"):  # what is no number at all is unequal to whatever it becomes
        found = labels.astype(np.int64)
    if not np.array_equal(found, labels):
        raise DataError(
            "labels are not whole numbers, so that they are no classes", f"{option('metric', 'mse')} compares numbers"
        )
    return found


def _bind_hits(k: int, labels: Array) -> Callable[[Outputs, Array], Floats]:
    """`hits` for outputs that have all classes of the labels, where each sample has one."""
    truth = _squeezed(labels)
    indices = truth.ndim == 1 and truth.dtype.kind in "iuf" and truth.size
    known = truth[np.isfinite(truth)] if indices else truth[:0]
    return partial(hits, k=k, classes=int(known.max()) + 1 if known.size else None)


def squared_errors(outputs: Outputs, labels: Array) -> Floats:
    """Mean squared difference between an output and the labels, which have its shape; shape (samples,)."""
    truth = _squeezed(labels)
    for output in _arrays(outputs):
        if output.shape == truth.shape and output.dtype.kind in "iuf" and truth.dtype.kind in "biuf":
            difference = output.astype(np.float64) - truth.astype(np.float64)
            found: Floats = np.square(difference).reshape(len(difference), -1).mean(axis=1)
            return found
    raise _no_output("mse", "numbers in the shape of the labels", outputs, labels)


def signal_to_noise(outputs: Outputs, labels: Array, *, peak: float = 1.0) -> Floats:
    """Peak signal-to-noise ratio of each sample, ``10 log10(peak^2 / mse)`` in dB; shape (samples,)."""
    error = np.maximum(squared_errors(outputs, labels), np.finfo(np.float64).tiny)
    found: Floats = 10 * np.log10(peak**2 / error)
    return found


def _bind_signal_to_noise(labels: Array) -> Callable[[Outputs, Array], Floats]:
    """`signal_to_noise` with the peak of the labels: 1 for values up to 1, else 255, or the largest above that."""
    numbers = labels.astype(np.float64) if labels.dtype.kind in "biuf" else np.zeros(0)  # texts are refused later
    largest = float(np.abs(numbers[np.isfinite(numbers)]).max(initial=0.0))
    return partial(signal_to_noise, peak=1.0 if largest <= 1 else max(255.0, largest))


def area_under_curve(outputs: Outputs, labels: Array) -> float:
    """Area under the ROC curve; with several classes the mean of each against the rest.

    It is the probability that a sample of the class has a higher score than one of another, ties count half (Hanley and
    McNeil, "The meaning and use of the area under a ROC curve", Radiology 1982). Classes that all samples have, or
    none, do not count.

    Args:
        outputs: Outputs by name: scores of shape (samples,) or (samples, 2) for two classes, or (samples, classes).
        labels: Classes of shape (samples,), or for each class whether the sample has it, shape (samples, classes).

    Returns:
        The area, 0 to 1; NaN where no class counts.

    Raises:
        DataError: No output has that form.
    """
    truth = _squeezed(labels)
    for output in _floats(outputs):
        found = _against_the_rest(output, truth)
        if found is not None:
            areas = [_area(score, member) for score, member in found]
            known = [area for area in areas if area is not None]
            return float(np.mean(known)) if known else float("nan")
    raise _no_output("auc", "a score, or scores of classes, for each sample", outputs, labels)


def _against_the_rest(scores: Array, truth: Array) -> Iterator[tuple[Array, Array]] | None:
    """Scores and membership of each class, each of shape (samples,); None where the shapes do not belong together."""
    if truth.dtype.kind not in "biuf" or len(scores) != len(truth):
        return None
    if scores.shape == truth.shape and truth.ndim == 2:
        return ((scores[:, c], truth[:, c] > 0) for c in range(truth.shape[1]))
    if truth.ndim != 1 or scores.ndim > 2:
        return None
    if scores.ndim == 1 or scores.shape[1] == 2:
        score = scores if scores.ndim == 1 else scores[:, 1] - scores[:, 0]
        return iter([(score, truth == truth.max())]) if len(np.unique(truth)) <= 2 and truth.size else None
    if truth.max(initial=0) >= scores.shape[1]:
        return None
    p = probabilities(scores.astype(np.float64), 1)
    return ((p[:, c], truth == c) for c in range(p.shape[1]))


def _area(score: Array, member: Array) -> float | None:
    """The area under the curve of one class by ranks; None without samples in and out of the class."""
    positive = int(member.sum())
    negative = len(member) - positive
    if not positive or not negative:
        return None
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[member].sum() - positive * (positive + 1) / 2) / (positive * negative))


def _arrays(outputs: Outputs) -> Iterator[Array]:
    """Outputs that are arrays, without axes of length 1."""
    return (_squeezed(value) for value in outputs.values() if isinstance(value, np.ndarray))


def _floats(outputs: Outputs) -> Iterator[Array]:
    return (a for a in _arrays(outputs) if a.dtype.kind == "f")


def _squeezed(array: Array) -> Array:
    """The array without its axes of length 1, but for axis 0."""
    return array.reshape([n for axis, n in enumerate(array.shape) if axis == 0 or n != 1])


def _no_output(name: str, wanted: str, outputs: Outputs, labels: Array) -> DataError:
    shapes = [
        f"{key} {list(v.shape[1:]) if isinstance(v, np.ndarray) else 'of several shapes'}" for key, v in outputs.items()
    ]
    return DataError(
        f"metric {name} needs an output of {wanted}; shapes of a sample are {', '.join(shapes)}, and of its label "
        f"{list(labels.shape[1:])} ({labels.dtype})",
        f"{option('metric', 'module:function')} computes any other",
    )


def _top(k: int) -> Metric:
    function = partial(hits, k=k, classes=None)
    return Metric(f"top{k}", function, per_sample=True, needs_labels=True, bind=partial(_bind_hits, k))


for _metric in (
    _top(1),
    _top(5),
    Metric("mse", squared_errors, higher_is_better=False, per_sample=True, needs_labels=True),
    Metric("psnr", signal_to_noise, per_sample=True, needs_labels=True, bind=_bind_signal_to_noise),
    Metric("auc", area_under_curve, needs_labels=True),
):
    metrics.add(_metric.name, _metric)
