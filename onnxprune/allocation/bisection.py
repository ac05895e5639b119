"""The smallest model that is still good enough, by bisection."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

RUNS = 8
"""Models that are made at most, besides the whole one."""

Trial = TypeVar("Trial")


def smallest(
    attempt: Callable[[float], Trial],
    good: Callable[[Trial], bool],
    same: Callable[[float, float], bool],
    runs: int = RUNS,
) -> Trial:
    """The furthest of some trials that is good.

    The furthest of all comes first. Then the interval between the last good one and the first bad one is halved until
    nothing lies between them or all runs are spent. Nothing says that what is further is worse, so there may be good
    ones beyond that were not tried.

    Args:
        attempt: Makes the model at a share of the way, 0 (whole) to 1 (furthest).
        good: Tells whether it is good enough.
        same: Tells whether two shares lead to one model.
        runs: Models to make at most, the whole one not counted.

    Returns:
        The furthest good trial; the whole model where no other is good.
    """
    found = attempt(1.0)
    if good(found):
        return found
    best: Trial | None = None
    low, high = 0.0, 1.0
    for _ in range(runs - 1):
        share = _between(low, high, same)
        if share is None:
            break
        found = attempt(share)
        if good(found):
            low, best = share, found
        else:
            high = share
    return attempt(0.0) if best is None else best


def _between(low: float, high: float, same: Callable[[float, float], bool]) -> float | None:
    """A share halfway that leads to a model of its own, None where there is none."""
    while high - low > 1e-3:
        share = (low + high) / 2
        if same(share, low):
            low = share
        elif same(share, high):
            high = share
        else:
            return share
    return None
