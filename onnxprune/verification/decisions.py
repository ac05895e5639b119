"""What a model decides on samples beside what its original decides: equal choices, and accuracy that is lost.

What is lost is estimated from the original's own probabilities: where the pruned model chooses another
class, accuracy is expected to fall by the probability of the class that the original chose, less that of the new one.
That is exact where the original is calibrated (Guo et al., "On calibration of modern neural networks", ICML 2017), and
too high where it is overconfident.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.verification.output_sums import class_axis_if_any

Array = NDArray[Any]
Floats = NDArray[np.float64]

NORMAL_95 = 1.96
"""Standard errors on both sides of a mean that make an interval of 95%."""
RULE_OF_THREE = 3.0
"""What never happens in n samples has a probability below this over n, with 95% (Hanley and Lippman-Hand, 1983)."""
ROUNDING = 1e-3
"""What a probability that was computed in half precision may be above 1."""
TOLERATED, DOUBT = 0.01, 1.28
"""A report warns where accuracy is lost beyond the first by so many standard errors: by chance once in ten times."""
STANDS_OUT = 0.5
"""Scores choose a class where the largest is ahead of the next by this share of their standard deviation, in the median
of the samples. Of numbers that choose nothing (an embedding, say) it is ahead by about 0.2."""


@dataclass(frozen=True)
class Estimate:
    """A mean over samples and its interval of 95%.

    Attributes:
        mean: Mean over the samples.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    mean: float
    low: float
    high: float

    @property
    def beyond_doubt(self) -> bool:
        """Whether a loss is more than `TOLERATED`, so far as chance allows to say so."""
        error = (self.high - self.low) / (2 * NORMAL_95)
        return self.mean - DOUBT * error > TOLERATED


def share_estimate(values: Floats) -> Estimate:
    """The mean of shares, 0 to 1, one a sample, with Wilson's score interval (Wilson, 1927)."""
    n, p, z = len(values), float(values.mean()), NORMAL_95
    centre, width = (p + z * z / (2 * n)), z * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    scale = 1 + z * z / n
    return Estimate(p, max(0.0, (centre - width) / scale), min(1.0, (centre + width) / scale))


def loss_estimate(values: Floats) -> Estimate:
    """The mean of what each sample loses, -1 to 1, with a normal interval."""
    n, mean = len(values), float(values.mean())
    error = float(values.std(ddof=1)) / float(np.sqrt(n)) if n > 1 else 1.0
    if not values.any():
        return Estimate(0.0, 0.0, min(1.0, RULE_OF_THREE / n))
    return Estimate(mean, max(-1.0, mean - NORMAL_95 * error), min(1.0, mean + NORMAL_95 * error))


def ratio_estimate(parts: Floats, wholes: Floats) -> Estimate:
    """A sum of parts over one of wholes, both one a sample, with a normal interval of the linearised ratio."""
    n, whole = int((wholes > 0).sum()), float(wholes.sum())
    ratio = float(parts.sum()) / whole
    if n < 2:
        return Estimate(ratio, 0.0, 1.0)
    rest = parts - ratio * wholes
    width = NORMAL_95 * float(np.sqrt(np.square(rest).sum() * n / (n - 1))) / whole
    if not rest.any():  # all alike: as rare as what was not seen once
        width = RULE_OF_THREE / n
    return Estimate(ratio, max(0.0, ratio - width), min(1.0, ratio + width))


def class_mean_estimate(parts: Floats, wholes: Floats, counted: NDArray[np.bool_]) -> Estimate:
    """The mean over classes of a sum of parts over one of wholes, with a jackknife interval over the samples.

    Leaving a sample out may leave a class without any, which a linearised ratio does not notice (Efron, "The jackknife,
    the bootstrap and other resampling plans", 1982).

    Args:
        parts: Shape (samples, classes).
        wholes: The same shape.
        counted: Classes that count, shape (classes,).
    """
    n, parts, wholes = len(parts), parts[:, counted], wholes[:, counted]

    def means(part: Floats, whole: Floats) -> Floats:
        ratios = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
        found: Floats = ratios.sum(axis=-1) / np.maximum((whole > 0).sum(axis=-1), 1)
        return found

    mean = float(means(parts.sum(axis=0), wholes.sum(axis=0)))
    if n < 2:
        return Estimate(mean, 0.0, 1.0)
    without = means(parts.sum(axis=0) - parts, wholes.sum(axis=0) - wholes)
    width = NORMAL_95 * float(np.sqrt((n - 1) / n * np.square(without - without.mean()).sum()))
    if not np.ptp(without):
        width = RULE_OF_THREE / n
    return Estimate(mean, max(0.0, mean - width), min(1.0, mean + width))


@dataclass(frozen=True)
class Decisions:
    """What is known of one output that chooses classes.

    Attributes:
        output: Name of the output.
        agreement: Share of the choices that are the same; for an output that chooses at many positions, F1 of what is
            found there besides the background, the original's choices being the truth; for a map of classes the mean
            over the classes of the intersection over the union.
        lost: Accuracy that is lost, as a share of the choices, estimated from the original's probabilities.
        positions: Whether the output chooses at many positions of a sample.
        by_class: Whether it is a map of classes, each of which counts alike, however few positions it has.
    """

    output: str
    agreement: Estimate
    lost: Estimate
    positions: bool = False
    by_class: bool = False


class DecisionSums:
    """Collects the choices of one output, batch by batch."""

    def __init__(self, name: str, *, scores: bool, axis: int | None = None) -> None:
        """Begins without a sample.

        Args:
            name: Name of the output.
            scores: Whether the graph says that the output holds scores of classes; else its values must look so.
            axis: Axis of the classes; None for the likeliest.
        """
        self._name, self._known, self._axis = name, scores, axis
        self._same: list[Floats] = []
        self._lost: list[Floats] = []
        self._ahead: list[Floats] = []
        self._usable = True

    def add(self, a: Array, b: Array) -> None:
        """Adds a batch of the original's output and of the pruned model's; samples along the first axis."""
        self._usable &= a.shape == b.shape and a.ndim > 0
        if not self._usable or not a.shape[0]:
            return
        if a.dtype.kind in "biuOUS":
            same = (a == b).reshape(len(a), -1).mean(axis=1)
            self._add(same, 1 - same, np.full(len(a), np.inf if self._known else 0.0))
            return
        axis = class_axis_if_any(a.shape) if self._axis is None else self._axis % a.ndim
        several = sum(length != 1 for length in a.shape[1:]) > 1
        if not axis or a.shape[axis] < 2 or (several and not self._known):  # axis 0 is that of the samples
            self._usable = False
            return
        before = _finite(np.moveaxis(a.astype(np.float64), axis, -1))
        p, chosen = probabilities(before, -1), before.argmax(axis=-1)
        after = np.moveaxis(b.astype(np.float64), axis, -1)
        other = _finite(after).argmax(axis=-1)
        chooses = ~np.isnan(after).all(axis=-1)
        lost = _taken(p, chosen) - np.where(chooses, _taken(p, other), 0.0)
        other = np.where(chooses, other, -1)  # which is none of the classes
        top = np.partition(before, -2, axis=-1)
        spread = np.maximum(before.std(axis=-1), 1e-30)
        ahead = (top[..., -1] - top[..., -2]) / spread
        self._add(*(x.reshape(len(a), -1).mean(axis=1) for x in ((chosen == other).astype(float), lost, ahead)))

    def _add(self, same: Floats, lost: Floats, ahead: Floats) -> None:
        self._same.append(same)
        self._lost.append(lost)
        self._ahead.append(ahead)

    def decisions(self) -> Decisions | None:
        """What was found; None where the output chooses no class."""
        if not self._usable or not self._same:
            return None
        same, lost, ahead = (np.concatenate(x) for x in (self._same, self._lost, self._ahead))
        if not self._known and float(np.median(ahead)) < STANDS_OUT:
            return None
        return Decisions(self._name, share_estimate(same), loss_estimate(lost))


def _finite(scores: Floats) -> Floats:
    """Scores with those that are masked by infinities, or not known, at the ends of what occurs."""
    known = scores[np.isfinite(scores)]
    if known.size == scores.size:
        return scores
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    return np.nan_to_num(scores, nan=low, neginf=low, posinf=high)


def probabilities(scores: Floats, axis: int) -> Floats:
    """Scores of classes along an axis as probabilities: as they are where all are from 0 to 1, else their softmax.

    Those of several sigmoids are probabilities that do not sum to 1.
    """
    if scores.size and scores.min() >= 0 and scores.max() <= 1 + ROUNDING:
        return scores
    return softmax(scores, axis)


def softmax(scores: Array, axis: int) -> Array:
    """Finite scores along an axis as probabilities, in their own type."""
    powers = np.exp(scores - scores.max(axis=axis, keepdims=True))
    found: Array = powers / powers.sum(axis=axis, keepdims=True)
    return found


def log_softmax(scores: Array, axis: int) -> Array:
    """Logarithms of `softmax`, also where a probability is too small for its type."""
    shifted = scores - scores.max(axis=axis, keepdims=True)
    found: Array = shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
    return found


def _taken(p: Floats, index: NDArray[np.intp]) -> Floats:
    found: Floats = np.take_along_axis(p, index[..., None], axis=-1)[..., 0]
    return found
