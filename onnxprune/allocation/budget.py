"""A budget met at the least predicted damage.

Each group has a curve of damage against removed units; a cost is a function of how many units of each group are kept.
Units are removed one segment of the curve's lower convex hull at a time, the least damage per saved cost first: the
greedy form of the Lagrangian optimum (Everett, "Generalized Lagrange multiplier method for solving problems of optimum
allocation of resources", Operations Research 1963), which it equals while costs separate. Costs couple, because a layer
shrinks on both sides, so savings are computed again after every removal. The last segment is cut short.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.allocation.counts import Limits
from onnxprune.allocation.refine import cheapest, refine
from onnxprune.allocation.target import Curve, Target, excess, missed


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
    removed = refine(curves, steps, targets, None)
    if removed is None:
        removed = _greedy(curves, paths, targets)
    met = not missed(targets, removed)
    if not met:
        removed = min([removed, cheapest(curves, steps, targets)], key=lambda one: excess(targets, one))
    return Allocation([int(r) for r in removed], met, [t.cost.left(removed) for t in targets])


def _greedy(curves: Sequence[Curve], paths: Sequence[Sequence[int]], targets: Sequence[Target]) -> NDArray[np.int64]:
    """Removes one segment of a convex hull after the other until every target is met, or nothing more can go."""
    removed = np.zeros(len(paths), dtype=np.int64)
    at = [0] * len(paths)
    while short := missed(targets, removed):
        best, best_end, rate = -1, 0, np.inf
        for g, path in enumerate(paths):
            if at[g] + 1 >= len(path):
                continue
            end = _segment_end(curves[g], path, at[g])
            saving = _saving(short, removed, g, path[end] - path[at[g]])
            damage = curves[g][path[end]] - curves[g][path[at[g]]]
            if saving > 0 and damage / saving < rate:
                best, best_end, rate = g, end, damage / saving
        if best < 0:
            break
        if best_end > at[best] + 1 and not missed(targets, _with(removed, best, paths[best][best_end])):
            best, best_end = _cheapest_end(curves, paths, at, targets, removed)
        at[best] = best_end
        removed[best] = paths[best][best_end]
    return removed


def _with(removed: NDArray[np.int64], group: int, count: int) -> NDArray[np.int64]:
    changed: NDArray[np.int64] = removed.copy()
    changed[group] = count
    return changed


def _segment_end(curve: Curve, path: Sequence[int], start: int) -> int:
    """The step at which the first segment of the curve's lower convex hull from `start` on ends.

    On a convex curve that is the next step; where a step costs more than those after it, the segment spans them.
    """
    slopes = (curve[path[start + 1 :]] - curve[path[start]]) / (np.array(path[start + 1 :]) - path[start])
    least = slopes.min()
    return start + 1 + int(np.argmax(slopes <= least + 1e-9 * abs(least)))  # of equal slopes the first


def _cheapest_end(
    curves: Sequence[Curve],
    paths: Sequence[Sequence[int]],
    at: Sequence[int],
    targets: Sequence[Target],
    removed: NDArray[np.int64],
) -> tuple[int, int]:
    """The group, and its step, with which every target is met at the least damage once no whole segment is needed."""
    ends = []
    for g, path in enumerate(paths):
        for step in range(at[g] + 1, len(path)):
            if not missed(targets, _with(removed, g, path[step])):
                ends.append((float(curves[g][path[step]] - curves[g][path[at[g]]]), g, step))
                break
    return min(ends)[1:]


def _saving(targets: Sequence[Target], removed: NDArray[np.int64], group: int, more: int) -> float:
    """What removing `more` units saves, as a share of what is still too much, summed over the targets."""
    total = 0.0
    for t in targets:
        over = t.cost.left(removed) - t.limit
        total += t.cost.saving(removed, group, more) / over
    return total
