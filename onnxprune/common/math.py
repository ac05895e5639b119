"""Arithmetic that several packages share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_EXACT = 22
"""The largest power of ten that is a double."""


def share(ratio: float, units: int) -> int:
    """``floor(ratio * units)``, safe against 0.29 * 100 = 28.999..."""
    return math.floor(ratio * units + 1e-9)


def rounded(values: NDArray[np.floating[Any]], digits: int = 6) -> NDArray[np.float64]:
    """Numbers with so many significant decimal digits, each the double that its decimal number is read as.

    An integer times or by a power of ten is such a double where both are exact, so no number is written as text, which
    takes ten times as long. What is not finite stays.
    """
    found = values.astype(np.float64)
    at = np.flatnonzero(np.isfinite(found) & (found != 0))
    shift = digits - 1 - np.floor(np.log10(np.abs(found[at]))).astype(int)
    exact = np.abs(shift) <= _EXACT
    for i in at[~exact]:
        found[i] = float(f"{found[i]:.{digits}g}")
    at, shift = at[exact], shift[exact]
    up, down = 10.0 ** np.maximum(shift, 0), 10.0 ** np.maximum(-shift, 0)
    found[at] = np.rint(found[at] * up / down) / up * down
    return found
