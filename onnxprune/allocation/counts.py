"""How many units of each group are removed, and which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune._math import share
from onnxprune.coupling.groups import Group
from onnxprune.importance.magnitude import Scores


@dataclass(frozen=True)
class Limits:
    """What a group must keep.

    Attributes:
        min_channels: At least so many units.
        round_to: A multiple of this many, rounded up.
    """

    min_channels: int = 1
    round_to: int = 1

    def kept(self, units: int, remove: int) -> int:
        """Units that are kept when the removal of `remove` of `units` is asked for."""
        keep = max(units - remove, min(self.min_channels, units))
        return min(units, -(-keep // self.round_to) * self.round_to)


def uniform(groups: Sequence[Group], ratio: float, limits: Limits) -> list[int]:
    """Units to remove from each group: ``floor(ratio * n)`` of n."""
    return [g.units - limits.kept(g.units, share(ratio, g.units)) for g in groups]


def ranked(groups: Sequence[Group], scores: Sequence[Scores], ratio: float, limits: Limits) -> list[int]:
    """Units to remove from each group when the lowest ``floor(ratio * n)`` of all n are to be removed.

    What `limits` keep in one group is compensated by the next lowest of the others.
    """
    target = share(ratio, sum(g.units for g in groups))
    owner = np.repeat(np.arange(len(groups)), [g.units for g in groups])
    order = np.argsort(np.concatenate(scores), kind="stable") if len(groups) else np.empty(0, np.int64)
    room = [g.units - limits.kept(g.units, g.units) for g in groups]
    removed = [0] * len(groups)
    for i in owner[order]:
        if target == 0:
            break
        if removed[i] < room[i]:
            removed[i] += 1
            target -= 1
    return [g.units - limits.kept(g.units, n) for g, n in zip(groups, removed, strict=True)]


def weakest(scores: Scores, count: int) -> NDArray[np.int64]:
    """Positions of the `count` lowest scores, in ascending position; equal ones go from the front."""
    return np.sort(np.argsort(scores, kind="stable")[:count])
