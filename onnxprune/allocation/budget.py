"""A budget met at the least predicted damage.

Each group has a curve of damage against removed units; a cost is a function of how many units of each group stay.
Units go one hull segment of a curve at a time, the cheapest damage per saved cost first (the greedy form of the
Lagrangian optimum, which it equals while curves are convex and costs separate). Costs couple, because a layer shrinks
on both sides, so savings are taken anew after every removal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.allocation.counts import Limits
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


@dataclass(frozen=True)
class Allocation:
    """How many units go from each group, and whether that meets every target."""

    removed: list[int]
    met: bool
    left: list[float]


def allocate(curves: Sequence[Curve], units: Sequence[int], targets: Sequence[Target], limits: Limits) -> Allocation:
    """Least summed damage that meets every target, to within one unit (or one multiple of `limits.round_to`).

    Args:
        curves: Damage curve of each group; its length bounds how many units may go.
        units: Units of each group.
        targets: What must be met.
        limits: What each group keeps.
    """
    steps = [_steps(curve, n, limits) for curve, n in zip(curves, units, strict=True)]
    removed = np.zeros(len(units), dtype=np.int64)
    at = [0] * len(units)
    while short := [t for t in targets if t.cost.left(removed) > t.limit]:
        best, rate = -1, np.inf
        for g, path in enumerate(steps):
            if at[g] + 1 >= len(path):
                continue
            saving = _saving(short, removed, g, path[at[g] + 1] - path[at[g]])
            damage = curves[g][path[at[g] + 1]] - curves[g][path[at[g]]]
            if saving > 0 and damage / saving < rate:
                best, rate = g, damage / saving
        if best < 0:
            break
        at[best] += 1
        removed[best] = steps[best][at[best]]
    return Allocation([int(r) for r in removed], not short, [t.cost.left(removed) for t in targets])


def _saving(targets: Sequence[Target], removed: NDArray[np.int64], group: int, more: int) -> float:
    """What removing `more` units saves, as a share of what is still too much, summed over the targets."""
    total = 0.0
    for t in targets:
        over = t.cost.left(removed) - t.limit
        total += t.cost.saving(removed, group, more) / over
    return total


def _steps(curve: Curve, units: int, limits: Limits) -> list[int]:
    """Counts of removed units at which a group may stop: multiples of the rounding."""
    return sorted({units - limits.kept(units, k) for k in range(len(curve))} & set(range(len(curve))) | {0})
