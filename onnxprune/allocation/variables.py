"""The numbers that an allocation chooses: one a group, or one for several groups that stay alike; others are fixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxprune.allocation.counts import Limits
from onnxprune.allocation.target import Curve, lefts
from onnxprune.cost.cost_model import CostModel, Removed


@dataclass(frozen=True)
class Variables:
    """Which groups each number is for.

    Attributes:
        fixed: Removed units of each group; of those that a variable is for, 0. Shape (groups,).
        members: Positions of the groups of each variable, which have the same number of units.
    """

    fixed: Removed
    members: Sequence[Sequence[int]]

    @classmethod
    def of(cls, fixed: Removed, free: Sequence[int], alike: Sequence[Sequence[int]]) -> Variables:
        """A variable for each free group, or for those of them that are to lose as many units as each other."""
        open_ = set(free)
        sets = [kept for some in alike if len(kept := [i for i in some if i in open_]) > 1]
        first = {some[0]: some for some in sets}
        others = {i for some in sets for i in some[1:]}
        return cls(fixed, [first.get(i, [i]) for i in free if i not in others])

    @property
    def plain(self) -> bool:
        """Whether every group has a variable of its own."""
        return all(len(some) == 1 for some in self.members) and len(self.members) == len(self.fixed)

    def all(self, removed: Removed) -> Removed:
        """Removed units of all groups, given those of each variable; shape (groups,)."""
        whole: Removed = self.fixed.copy()
        for some, count in zip(self.members, removed, strict=True):
            whole[list(some)] = count
        return whole

    def curves(self, curves: Sequence[Curve]) -> list[Curve]:
        """The damage of each variable: the sum of its groups', as far as all of them can go."""
        found = []
        for some in self.members:
            most = min(len(curves[i]) for i in some)
            found.append(np.sum([curves[i][:most] for i in some], axis=0))
        return found

    def limits(self, limits: Sequence[Limits]) -> list[Limits]:
        """What the groups of each variable keep: as many as the one that keeps most, with the widths of all."""
        found = []
        for some in self.members:
            widths = tuple(dict.fromkeys(width for i in some for width in limits[i].widths))
            least = max(limits[i].min_channels for i in some)
            found.append(replace(limits[some[0]], min_channels=least, widths=widths))
        return found


class CostOfVariables:
    """A `CostModel` of the variables.

    Args:
        cost: The cost, as a function of all groups.
        variables: The variables.
    """

    def __init__(self, cost: CostModel, variables: Variables) -> None:
        self._cost, self._variables = cost, variables

    def left(self, removed: Removed) -> float:
        """See `CostModel`."""
        return self._cost.left(self._variables.all(removed))

    def saving(self, removed: Removed, group: int, more: int) -> float:
        """See `CostModel`."""
        whole, some = self._variables.all(removed), self._variables.members[group]
        if len(some) == 1:
            return self._cost.saving(whole, some[0], more)
        fewer = removed.copy()
        fewer[group] += more
        return self._cost.left(whole) - self.left(fewer)

    def lefts(self, removed: Removed, group: int, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `target.lefts`."""
        some, trial = self._variables.members[group], removed.copy()
        if len(some) == 1:
            return lefts(self._cost, self._variables.all(removed), some[0], counts)
        found = []
        for count in counts:
            trial[group] = count
            found.append(self.left(trial))
        return np.array(found)
