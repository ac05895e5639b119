"""Bisection for the smallest model that still passes the gates."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

MAX_RUNS = 8
"""Maximum number of attempts, the unpruned model not counted."""

Trial = TypeVar("Trial")


def furthest_good(
    attempt: Callable[[float], Trial],
    good: Callable[[Trial], bool],
    same: Callable[[float, float], bool],
    runs: int = MAX_RUNS,
) -> Trial:
    """Returns the good attempt with the largest share that bisection finds.

    Share 1 is tried first. Then the interval between the largest good share and the smallest bad one is halved, until
    no further model lies between them or all runs are used. Quality need not be monotonic, so larger good shares may
    exist.

    Args:
        attempt: Makes the model for a share from 0 (unpruned) to 1 (pruned the most).
        good: Whether a model is good enough.
        same: Whether two shares give the same model.
        runs: Maximum number of attempts, the unpruned model not counted.

    Returns:
        The best attempt; the unpruned model if no other is good.
    """
    found = attempt(1.0)
    if good(found):
        return found
    best: Trial | None = None
    low, high = 0.0, 1.0
    for _ in range(runs - 1):
        share = _midpoint(low, high, same)
        if share is None:
            break
        found = attempt(share)
        if good(found):
            low, best = share, found
        else:
            high = share
    return attempt(0.0) if best is None else best


def _midpoint(low: float, high: float, same: Callable[[float, float], bool]) -> float | None:
    """Returns a share between two shares that gives a model other than theirs, None if there is none."""
    while high - low > 1e-3:
        share = (low + high) / 2
        if same(share, low):
            low = share
        elif same(share, high):
            high = share
        else:
            return share
    return None
