"""Indices of the original's values that a pruned model still has.

A layer is fitted to what the original computed at the same indices. Not only features can be missing: a layer that sums
over time, space or tokens leaves the channels among its rows, and these lose indices with the channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.runtime.staged_run import LazyArrays

Array = NDArray[Any]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class KeptAxis:
    """What is kept of an axis that lost indices.

    Attributes:
        factors: Sizes of the digits that its index is made of, outermost first, None for a free one: the length alone
            where it is static, ``(None, 8)`` where a free batch is merged with 8 heads.
        kept: Ascending indices that are kept, of the fixed digits together.
    """

    factors: tuple[int | None, ...]
    kept: Index

    def indices(self, length: int) -> Index | None:
        """Returns the kept indices of an axis of this length at run time; None where the digits do not tell them."""
        fixed = math.prod(n for n in self.factors if n is not None)
        free = [i for i, n in enumerate(self.factors) if n is None]
        if not free:
            return self.kept if length == fixed else None
        if len(free) > 1 or length % fixed:
            return None
        sizes = [length // fixed if n is None else n for n in self.factors]
        digits = np.moveaxis(np.arange(length).reshape(sizes), free[0], 0).reshape(-1, fixed)
        return np.sort(digits[:, self.kept], axis=None)


@dataclass(frozen=True)
class KeptIndices:
    """What the values of a pruned model have of the original's, axis by axis.

    Attributes:
        layers: Names of the linear layers, recurrent layers and normalizations whose features are known; only these can
            be refitted.
        axes: Name of a value -> axis -> what is kept; only axes that lost an index are listed.
    """

    layers: frozenset[str] = frozenset()
    axes: Mapping[str, Mapping[int, KeptAxis]] = field(default_factory=dict)

    def along(self, name: str, axis: int, length: int) -> Index:
        """Returns the kept indices of one axis.

        Args:
            name: Name of the value.
            axis: The axis, not negative.
            length: Its length in the original.
        """
        known = self.axes.get(name, {}).get(axis)
        kept = None if known is None else known.indices(length)
        return np.arange(length) if kept is None else kept

    def rows(self, name: str, array: Array, feature_axis: int) -> Array:
        """Returns a value of the original without the removed indices of all axes but one.

        Args:
            name: Name of the value.
            array: The value; any shape.
            feature_axis: The axis that stays whole; negative where it counts from the end.
        """
        for axis, known in self.axes.get(name, {}).items():
            kept = known.indices(array.shape[axis]) if axis < array.ndim else None
            if axis != feature_axis % array.ndim and kept is not None:
                array = array.take(kept, axis=axis)
        return array

    def all_rows(self, name: str, arrays: Sequence[Array], feature_axis: int) -> Sequence[Array]:
        """Returns `rows` of each array, sliced when it is read."""
        lost = self.axes.get(name, {})
        if not arrays or all(axis == feature_axis % arrays[0].ndim for axis in lost):
            return arrays
        return _Rows(self, name, arrays, feature_axis)


@dataclass(frozen=True)
class _Rows(LazyArrays):
    kept: KeptIndices
    name: str
    whole: Sequence[Array]
    feature_axis: int

    def __len__(self) -> int:
        return len(self.whole)

    def _at(self, index: int) -> Array:
        return self.kept.rows(self.name, self.whole[index], self.feature_axis)
