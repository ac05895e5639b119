"""The values of a weight that share a scale, as rows of a matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]


class ScaleBlocks(Protocol):
    """How a weight is parted."""

    def rows(self, weight: Array) -> Floats:
        """The values that share a scale, in the order of the scales; shape (scales, values)."""
        ...

    def whole(self, rows: Array) -> Array:
        """The inverse of `rows`."""
        ...


@dataclass(frozen=True)
class AlongAxis:
    """One scale for all, one for each index of an axis, or one for each block along it, as DequantizeLinear has them.

    Attributes:
        shape: Shape of the weight.
        scales: Shape of the scales.
        axis: The axis, counted from the front.
    """

    shape: tuple[int, ...]
    scales: tuple[int, ...]
    axis: int

    @property
    def divides(self) -> bool:
        """Whether the scales fit the weight, and blocks divide the axis."""
        if math.prod(self.scales) == 1:
            return True
        if len(self.scales) == 1:
            return self.shape[self.axis] == self.scales[0]
        if len(self.scales) != len(self.shape) or self.shape[self.axis] % self.scales[self.axis]:
            return False
        return math.prod(self.scales) * self._block == math.prod(self.shape)

    @property
    def _block(self) -> int:
        return self.shape[self.axis] // self.scales[self.axis]

    def rows(self, weight: Array) -> Floats:
        """See `ScaleBlocks`."""
        if math.prod(self.scales) == 1:
            return weight.reshape(1, -1).astype(np.float64)
        at = self.axis
        if len(self.scales) == 1:
            return np.moveaxis(weight, at, 0).reshape(self.scales[0], -1).astype(np.float64)
        split = weight.reshape(*self.shape[:at], self.scales[at], self._block, *self.shape[at + 1 :])
        return np.moveaxis(split, at + 1, -1).reshape(-1, self._block).astype(np.float64)

    def whole(self, rows: Array) -> Array:
        """See `ScaleBlocks`."""
        if math.prod(self.scales) == 1:
            return rows.reshape(self.shape)
        at = self.axis
        if len(self.scales) == 1:
            rest = self.shape[:at] + self.shape[at + 1 :]
            return np.moveaxis(rows.reshape(self.shape[at], *rest), 0, at)
        return np.moveaxis(rows.reshape(*self.scales, -1), -1, at + 1).reshape(self.shape)


@dataclass(frozen=True)
class OfColumns:
    """Blocks of each column one after the other, the last one filled with zeros, as MatMulNBits has them.

    Attributes:
        deep: Rows of the weight.
        wide: Columns of the weight.
        size: Values of a block.
    """

    deep: int
    wide: int
    size: int

    @property
    def blocks(self) -> int:
        """Blocks of a column."""
        return -(-self.deep // self.size)

    def rows(self, weight: Array) -> Floats:
        """See `ScaleBlocks`."""
        filled = np.pad(weight.T.astype(np.float64), [(0, 0), (0, self.blocks * self.size - self.deep)])
        return filled.reshape(-1, self.size)

    def whole(self, rows: Array) -> Array:
        """See `ScaleBlocks`."""
        weight: Array = rows.reshape(self.wide, -1)[:, : self.deep].T
        return weight
