"""A budget met at the least predicted damage.

Each group has a curve of damage against removed units; a cost is a function of how many units of each group are kept.
Costs couple, because a layer shrinks on both sides, so the allocation is searched for (`refine`). Where none meets the
targets it is the cheapest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.allocation.counts import Limits
from onnxprune.allocation.refine import cheapest, refine
from onnxprune.allocation.target import Curve, Target


@dataclass(frozen=True)
class Allocation:
    """How many units go from each group, and whether that meets every target."""

    removed: list[int]
    met: bool
    left: list[float]


def allocate(
    curves: Sequence[Curve], units: Sequence[int], targets: Sequence[Target], limits: Sequence[Limits]
) -> Allocation:
    """Least summed damage that meets every target, to within one unit (or one that `limits` allow).

    Args:
        curves: Damage curve of each group; its length bounds how many units may be removed.
        units: Units of each group.
        targets: What must be met.
        limits: What each group keeps.
    """
    paths = [held.removals(n, len(curve) - 1) for curve, n, held in zip(curves, units, limits, strict=True)]
    steps = [np.array(path, dtype=np.int64) for path in paths]
    found = refine(curves, steps, targets)
    removed = cheapest(curves, steps, targets) if found is None else found
    return Allocation([int(n) for n in removed], found is not None, [t.cost.left(removed) for t in targets])
