"""How much of a metric is lost by pruning, and how sure that is.

What is lost is a mean over samples, and the samples are some of many. The interval says how far it may be from what all
would give; the upper bound of the loss is what a limit on it is held to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from onnxprune.verification.decisions import NORMAL_95, RULE_OF_THREE, Estimate

Floats = NDArray[np.float64]

CONFIDENCE = 0.9
"""With this probability what is lost is not above the upper bound that a limit is held to."""
Drop = tuple[Estimate | None, float | None]
"""How much a metric fell, with its interval of 95%, and the upper bound with `CONFIDENCE`; None where not finite."""


@dataclass(frozen=True)
class MetricLoss:
    """A metric before and after pruning.

    Attributes:
        name: Name of the metric.
        higher_is_better: Whether a better model has a higher value.
        before: The metric of the original; None where it is not finite, or not measured.
        after: The same of the pruned model.
        drop: How much worse the pruned model is, in the unit of the metric, with its interval of 95%; below 0 where it
            is better. None where it is not finite.
        at_most: Upper bound of the drop with `CONFIDENCE`.
        samples: Number of samples that it was measured on.
        labelled: Whether it was measured with labels.
    """

    name: str
    higher_is_better: bool
    before: float | None
    after: float | None
    drop: Estimate | None
    at_most: float | None
    samples: int
    labelled: bool


def paired_drop(before: Floats, after: Floats, sign: float = 1.0) -> Drop:
    """How much the mean over samples falls, with an interval of 95%, and its upper bound with `CONFIDENCE`.

    Where each value is 0 or 1 (right or wrong), one sample that is lost and one that is gained are added for the
    interval, which otherwise had no width where nothing changed (Bonett and Price, "Adjusted Wald confidence interval
    for a difference of binomial proportions based on paired data", JEBS 2012).

    Args:
        before: Values of the original; shape (samples,).
        after: Values of the pruned model.
        sign: 1 where higher values are better, else -1.
    """
    difference = sign * (before - after)
    if not len(difference) or not np.isfinite(difference).all():
        return None, None
    mean = float(difference.mean())
    used = difference
    if np.isin(before, (0, 1)).all() and np.isin(after, (0, 1)).all():
        used = np.concatenate([difference, [1.0, -1.0]])
    error = float(used.std(ddof=1)) / math.sqrt(len(used)) if len(used) > 1 else math.inf
    return normal_drop(mean, error, len(used), centre=float(used.mean()))


def normal_drop(mean: float, error: float, count: int, centre: float | None = None) -> Drop:
    """Interval and upper bound around a mean with a standard error of `count` samples; None where there is none."""
    if not math.isfinite(error):
        return None, None
    middle, freedom = mean if centre is None else centre, max(count - 1, 1)
    width, above = (_student(z, freedom) * error for z in (NORMAL_95, NormalDist().inv_cdf(CONFIDENCE)))
    return Estimate(mean, middle - width, middle + width), max(mean, middle + above)


def _student(z: float, freedom: int) -> float:
    """Quantile of Student's t from that of the normal distribution (Abramowitz and Stegun, 26.7.5)."""
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def unseen_share(samples: int) -> float:
    """The largest share of all samples that lose something where none of these does, with `CONFIDENCE`."""
    return float(1 - (1 - CONFIDENCE) ** (1 / max(samples, 1)))


def unmoved_drop(samples: int) -> tuple[Estimate, float]:
    """What is lost of a share, 0 to 1, of all samples together that no drawing of these samples changes."""
    width = min(1.0, RULE_OF_THREE / max(samples, 1))
    return Estimate(0.0, -width, width), unseen_share(samples)


def from_estimate(lost: Estimate, samples: int) -> MetricLoss:
    """Accuracy that is lost without labels, as estimated from the probabilities of the original."""
    if lost.mean == 0 and lost.low == 0:
        at_most = unseen_share(samples)
    else:
        at_most = lost.mean + NormalDist().inv_cdf(CONFIDENCE) * (lost.high - lost.mean) / NORMAL_95
    return MetricLoss("accuracy", True, None, None, lost, at_most, samples, labelled=False)
