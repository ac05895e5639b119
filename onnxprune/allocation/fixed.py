"""Costs of a model some groups of which have a fixed width, as functions of the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxprune.allocation.target import lefts
from onnxprune.cost.cost_model import CostModel, Removed


class PartlyFixed:
    """A `CostModel` of the groups that are free.

    Args:
        cost: The cost, as a function of all groups.
        fixed: Removed units of each group; those of the free ones do not count. Shape (groups,).
        free: Positions of the free groups among all, ascending.
    """

    def __init__(self, cost: CostModel, fixed: Removed, free: Sequence[int]) -> None:
        self._cost, self._fixed, self._free = cost, fixed, list(free)

    def all(self, removed: Removed) -> Removed:
        """Removed units of all groups; shape (groups,)."""
        whole: Removed = self._fixed.copy()
        whole[self._free] = removed
        return whole

    def left(self, removed: Removed) -> float:
        """See `CostModel`."""
        return self._cost.left(self.all(removed))

    def saving(self, removed: Removed, group: int, more: int) -> float:
        """See `CostModel`."""
        return self._cost.saving(self.all(removed), self._free[group], more)

    def lefts(self, removed: Removed, group: int, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `target.lefts`."""
        return lefts(self._cost, self.all(removed), self._free[group], counts)
