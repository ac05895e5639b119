"""Whether a model is better than another on the same samples, beyond chance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

QUANTILES = (3.08, 1.89, 1.64, 1.53, 1.48, 1.44, 1.41, 1.40, 1.38, 1.37)
"""Student's t that is exceeded by chance once in ten times, for 1, 2, ... degrees of freedom (Student, 1908)."""
FEW_GAIN, FEW = 0.5, 3
"""Fewer samples than this choose a candidate only if it leaves less than this share of the error."""


def is_better(before: NDArray[np.float64], after: NDArray[np.float64]) -> bool:
    """Whether squared errors became smaller in sum, and their roots by more than chance explains (paired t-test).

    The roots are tested since a few samples may hold nearly all of a sum of squares.

    Args:
        before: Squared errors, one a sample; or other losses, of which the least counts as zero where it is negative.
        after: The same of another model.
    """
    if not len(after) or not np.isfinite(after).all():
        return False
    if not np.isfinite(before).all():
        return True
    least = min(0.0, float(before.min()), float(after.min()))
    before, after = before - least, after - least
    if not after.sum() < (1 if len(after) >= FEW else FEW_GAIN) * before.sum():
        return False
    if len(after) == 1:
        return True
    gain = np.sqrt(before) - np.sqrt(after)
    deviation = float(gain.std(ddof=1)) / np.sqrt(len(gain))
    return bool(gain.mean() > QUANTILES[min(len(gain) - 1, len(QUANTILES)) - 1] * deviation)
