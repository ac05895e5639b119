"""Arithmetic that several packages share."""

from __future__ import annotations

import math


def share(ratio: float, units: int) -> int:
    """``floor(ratio * units)``, safe against 0.29 * 100 = 28.999..."""
    return math.floor(ratio * units + 1e-9)
