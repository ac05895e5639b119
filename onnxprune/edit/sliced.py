"""Values without some of their indices, made block by block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.model.values import Array, Values, stretches

_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_SHORT = 32
"""Mean length of runs of kept indices from which each run is copied by itself."""


class Sliced(Values):
    """What is left of values once indices are removed."""

    def __init__(self, source: Values, removal: Mapping[int, Sequence[int]]) -> None:
        """Slices nothing yet.

        Args:
            source: The values.
            removal: Axis -> indices to remove.
        """
        shape = list(source.shape)
        self._source = source
        self._kept: dict[int, _Kept] = {}
        for axis, indices in removal.items():
            stays = np.ones(shape[axis], dtype=bool)
            stays[list(indices)] = False
            self._kept[axis] = _Kept(np.flatnonzero(stays))
            shape[axis] = int(np.count_nonzero(stays))
        super().__init__(shape, source.dtype)

    def parts(self, rows: int) -> Iterator[Array]:
        """See `Values`."""
        first, rest = self._kept.get(0), [(a, k) for a, k in self._by_effect() if a != 0]
        at = 0
        for block in self._source.blocks():
            begin, at = at, at + len(block)
            if first is not None:
                own = first.indices[slice(*np.searchsorted(first.indices, (begin, at)))] - begin
                block = _Kept(own).of(block, 0)
            for axis, kept in rest:
                block = kept.of(block, axis)
            if len(block):
                yield block

    def array(self) -> Array:
        """See `Values`."""
        array = self._source.array()
        for axis, kept in self._by_effect():
            array = kept.of(array, axis)
        return array

    def _by_effect(self) -> list[tuple[int, _Kept]]:
        """The axes that shrink, that which shrinks most first."""
        return sorted(self._kept.items(), key=lambda k: len(k[1].indices) / self._source.shape[k[0]])


class _Kept:
    """Ascending indices of an axis that are kept."""

    def __init__(self, indices: NDArray[np.intp]) -> None:
        self.indices = indices
        runs = 1 + np.count_nonzero(np.diff(indices) != 1)
        self._runs = stretches(indices) if runs == 1 or len(indices) >= _SHORT * runs else None

    def of(self, array: Array, axis: int) -> Array:
        """What is kept of an array; long runs are copied as they stand."""
        if self._runs is not None:
            parts = [array[(slice(None),) * axis + (slice(*run),)] for run in self._runs]
            if parts:
                return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=axis)
        found: NDArray[Any] = bits_of(array).take(self.indices, axis=axis, mode="clip")  # faster than by its type
        return found.view(array.dtype)


def bits_of(array: Array) -> Array:
    """The same elements as unsigned integers; types that have no such size stay as they are."""
    kind = _UNSIGNED.get(array.dtype.itemsize)
    return array if kind is None or array.dtype.kind == "O" else array.view(kind)
