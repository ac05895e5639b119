"""Searches for the allocation that meets targets at the least damage, also where costs grow in steps.

Coordinate descent on damage plus a multiple of the costs, for the smallest multiple that meets the targets (Everett,
"Generalized Lagrange multiplier method for solving problems of optimum allocation of resources", Operations Research
1963), is followed by exchanges: one group gets units back and another one loses some, as long as that lowers the damage
and the targets stay met.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxprune.allocation.target import Curve, Target, damage_of, lefts, missed

Removed = NDArray[np.int64]
Steps = Sequence[NDArray[np.int64]]

MULTIPLES = 14
"""Multiples of the costs that are tried on the way to the smallest that suffices."""
ROUNDS = 4
"""Rounds over all groups for one multiple, at most."""
STRIDES = (1, 2, 4, 8)
"""Every how many steps of each group coordinate descent sees: with fewer it is stopped by fewer of them."""
BACK = (1, 2, 3, 4, 8, 16)
"""How many steps of a group are given back at once."""
EVALUATIONS = 10_000
"""Evaluations of costs by exchanges, after which no further round begins."""


def refine(curves: Sequence[Curve], steps: Steps, targets: Sequence[Target]) -> Removed | None:
    """The allocation of the least damage that is found among those that meet the targets.

    Args:
        curves: Damage curve of each group.
        steps: Counts of removed units at which each group may stop, ascending from 0.
        targets: What must be met.

    Returns:
        Removed units of each group; None if no allocation was found that meets the targets.
    """
    coarse = [descend(curves, [path[::stride] for path in steps], targets) for stride in STRIDES]
    starts = {tuple(one.tolist()): one for one in coarse if one is not None}
    found = [exchange(curves, steps, targets, one) for one in starts.values()]
    return min(found, key=lambda removed: damage_of(curves, removed), default=None)


def descend(curves: Sequence[Curve], steps: Steps, targets: Sequence[Target]) -> Removed | None:
    """The best of the allocations that minimise damage plus a multiple of the costs; None if none meets the targets."""
    losses = [curve[path] for curve, path in zip(curves, steps, strict=True)]
    total = float(sum(loss[-1] for loss in losses))
    low, high, best = 0.0, 4.0 * max(total, 1e-30), None
    removed = np.zeros(len(steps), dtype=np.int64)
    for i in range(MULTIPLES):
        multiple = high if i == 0 else (low * high) ** 0.5 if low else high * 1e-2
        removed = _descended(losses, steps, targets, removed, multiple)
        if i == 0 and missed(targets, removed):
            removed = cheapest(curves, steps, targets)
            if missed(targets, removed):
                return None
        elif missed(targets, removed):
            low = multiple
            continue
        high = multiple
        if best is None or damage_of(curves, removed) < damage_of(curves, best):
            best = removed
    return best


def cheapest(curves: Sequence[Curve], steps: Steps, targets: Sequence[Target]) -> Removed:
    """The allocation that costs least, as far as coordinate descent finds it, where no target can be met."""
    losses = [curve[path] for curve, path in zip(curves, steps, strict=True)]
    start = np.array([path[-1] for path in steps], dtype=np.int64)
    return _descended(losses, steps, targets, start, 1e6 * max(damage_of(curves, start), 1e-30))


def _descended(
    losses: Sequence[Curve], steps: Steps, targets: Sequence[Target], start: Removed, multiple: float
) -> Removed:
    removed: Removed = start.copy()
    for _ in range(ROUNDS):
        before = removed.copy()
        for g, path in enumerate(steps):
            if len(path) > 1:
                cost = sum(lefts(t.cost, removed, g, path) / t.limit for t in targets)
                removed[g] = path[int(np.argmin(losses[g] + multiple * cost))]
        if np.array_equal(before, removed):
            break
    return removed


def exchange(curves: Sequence[Curve], steps: Steps, targets: Sequence[Target], start: Removed) -> Removed:
    """Lowers the damage by giving units back, alone or against units of another group, while the targets stay met."""
    removed: Removed = start.copy()
    spent, improved = 0, True
    while improved and spent < EVALUATIONS:
        improved = False
        damages = [float(curve[n]) for curve, n in zip(curves, removed, strict=True)]
        for g in np.argsort(damages, kind="stable")[::-1].tolist():  # where most can be won, if time runs out
            if spent >= EVALUATIONS:
                break
            path = steps[g]
            better, evaluations = _best_exchange(curves, steps, targets, removed, g, path[path < removed[g]])
            spent += evaluations
            if better is not None:
                removed, improved = better, True
    return removed


def _best_exchange(
    curves: Sequence[Curve], steps: Steps, targets: Sequence[Target], removed: Removed, g: int, fewer: NDArray[np.int64]
) -> tuple[Removed | None, int]:
    """The best way to give units of one group back, None if none helps, and how many evaluations that took."""
    best, gain, spent = None, 1e-9 * damage_of(curves, removed), 0
    for back in (int(fewer[-k]) for k in BACK if k <= len(fewer)):
        given = float(curves[g][removed[g]] - curves[g][back])
        if given <= gain:
            continue
        trial = removed.copy()
        trial[g] = back
        spent += 1
        left = [t.cost.left(trial) for t in targets]
        if all(now <= t.limit for now, t in zip(left, targets, strict=True)):
            best, gain = trial, given
            continue
        for h, other in enumerate(steps):
            more = other[other > trial[h]]
            lost = curves[h][more] - curves[h][trial[h]]
            more, lost = more[lost < given - gain], lost[lost < given - gain]
            if h == g or not len(more):
                continue
            spent += 1
            enough = _met(targets, left, trial, h, more)
            if enough.any():
                k = int(np.argmin(np.where(enough, lost, np.inf)))
                best, gain = trial.copy(), given - float(lost[k])
                best[h] = more[k]
    return best, spent


def _met(
    targets: Sequence[Target], left: Sequence[float], removed: Removed, group: int, counts: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether each of some counts of one group meets the targets, given what is left of each without any of them."""
    found = np.ones(len(counts), dtype=bool)
    for t, now in zip(targets, left, strict=True):
        at = lefts(t.cost, removed, group, np.concatenate([[removed[group]], counts]))
        found &= now - (at[0] - at[1:]) <= t.limit
    return found
