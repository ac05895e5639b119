"""What an allocation must meet, and what it costs in damage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.cost.cost_model import CostModel

Curve = NDArray[np.float64]
"""Damage after removing 0, 1, 2, ... units; ascending."""


@dataclass(frozen=True)
class Target:
    """What must be met.

    Attributes:
        cost: Cost as a function of removed units.
        limit: Most that may be left of it, in its own unit.
    """

    cost: CostModel
    limit: float


def missed(targets: Sequence[Target], removed: NDArray[np.int64]) -> list[Target]:
    """The targets that so much removal does not meet."""
    return [t for t in targets if t.cost.left(removed) > t.limit]


def damage_of(curves: Sequence[Curve], removed: NDArray[np.int64]) -> float:
    """Summed damage of an allocation."""
    return float(sum(curve[n] for curve, n in zip(curves, removed.tolist(), strict=True)))


def lefts(cost: CostModel, removed: NDArray[np.int64], group: int, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """What is left of a cost for several counts of removed units of one group, up to a number common to all of them.

    Args:
        cost: The cost.
        removed: Removed units of each group.
        group: The group.
        counts: Counts for it; shape (n,).

    Returns:
        Shape (n,).
    """
    own = getattr(cost, "lefts", None)
    if own is not None:
        found: NDArray[np.float64] = own(removed, group, counts)
        return found
    base = removed.copy()
    base[group] = 0
    return -np.array([cost.saving(base, group, int(n)) for n in counts])
