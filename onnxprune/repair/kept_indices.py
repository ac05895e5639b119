"""Indices of the original's values that a pruned model still has.

A layer is fitted to what the original computed at the same indices. Not only features can be missing: a layer that sums
over time, space or tokens leaves the channels among its rows, and these lose indices with the channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class KeptIndices:
    """What the values of a pruned model have of the original's, axis by axis.

    Attributes:
        layers: Names of the linear layers, recurrent layers and normalizations whose features are known; only these can
            be refitted.
        axes: Name of a value -> axis -> length in the original and the ascending indices that are kept; only axes that
            lost an index are listed.
    """

    layers: frozenset[str] = frozenset()
    axes: Mapping[str, Mapping[int, tuple[int, Index]]] = field(default_factory=dict)

    def along(self, name: str, axis: int, length: int) -> Index:
        """Returns the kept indices of one axis.

        Args:
            name: Name of the value.
            axis: The axis, not negative.
            length: Its length in the original.
        """
        before, kept = self.axes.get(name, {}).get(axis, (length, None))
        return np.arange(length) if kept is None or before != length else kept

    def rows(self, name: str, array: Array, feature_axis: int) -> Array:
        """Returns a value of the original without the removed indices of all axes but one.

        Args:
            name: Name of the value.
            array: The value; any shape.
            feature_axis: The axis that stays whole; negative where it counts from the end.
        """
        for axis, (length, kept) in self.axes.get(name, {}).items():
            if axis != feature_axis % array.ndim and axis < array.ndim and array.shape[axis] == length:
                array = array.take(kept, axis=axis)
        return array

    def all_rows(self, name: str, arrays: Sequence[Array], feature_axis: int) -> Sequence[Array]:
        """Returns `rows` of each array, sliced when it is read."""
        if not any(axis != feature_axis % arrays[0].ndim for axis in self.axes.get(name, {})) if arrays else True:
            return arrays
        return _Rows(self, name, arrays, feature_axis)


@dataclass(frozen=True)
class _Rows(Sequence[Array]):
    kept: KeptIndices
    name: str
    whole: Sequence[Array]
    feature_axis: int

    def __len__(self) -> int:
        return len(self.whole)

    @overload
    def __getitem__(self, index: int) -> Array: ...
    @overload
    def __getitem__(self, index: slice) -> list[Array]: ...
    def __getitem__(self, index: int | slice) -> Array | list[Array]:
        if isinstance(index, slice):
            return [self.kept.rows(self.name, array, self.feature_axis) for array in self.whole[index]]
        return self.kept.rows(self.name, self.whole[index], self.feature_axis)
