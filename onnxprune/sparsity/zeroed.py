"""Weights whose smallest elements are set to zero block by block when they are read."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxprune.common.math import share
from onnxprune.extensions.patterns import Pattern
from onnxprune.graph.operators import WeightLayout
from onnxprune.model.values import Array, Values
from onnxprune.sparsity.masks import Mask
from onnxprune.sparsity.patterns import Unstructured
from onnxprune.sparsity.unstructured import SAMPLE_SIZE, order_statistic, up_to

FLOATS = ("float16", "bfloat16", "float32", "float64")
UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
"""Item size in bytes -> unsigned integer type."""


@dataclass(frozen=True)
class ZeroMask:
    """Which elements of a weight are set to zero.

    Attributes:
        ratio: Their share.
        array: Returns the mask, shape of the weight; made anew at each call.
    """

    ratio: float
    array: Callable[[], Mask]

    @classmethod
    def of(cls, mask: Mask) -> ZeroMask:
        """A mask that is there; it is kept as bits."""
        bits, shape = np.packbits(mask), mask.shape

        def array() -> Mask:
            return np.unpackbits(bits, count=math.prod(shape)).view(bool).reshape(shape)

        return cls(np.count_nonzero(mask) / mask.size if mask.size else 0.0, array)


class BlockMasks(ABC):
    """Masks of the blocks of a weight, by the magnitudes of its elements.

    Attributes:
        multiple: What the length of a block must be a multiple of.
        count: Elements that all masks together set to zero.
    """

    multiple: int = 1

    def __init__(self, source: Values, count: int) -> None:
        self.source, self.count = source, count

    def pairs(self) -> Iterator[tuple[Array, Mask]]:
        """Yields each block of the weight with its mask."""
        mask_of = self.maker()
        for block in self.source.blocks(self.multiple):
            yield block, mask_of(magnitude_bits(block))

    @abstractmethod
    def maker(self) -> Callable[[Array], Mask]:
        """Returns what makes the mask of each block in turn, by its magnitudes."""

    def whole(self) -> Mask:
        """The masks of all blocks in one."""
        return np.concatenate([mask for _, mask in self.pairs()])


class LocalMasks(BlockMasks):
    """Masks of a pattern that takes as much of every group of inputs."""

    def __init__(self, source: Values, pattern: Pattern, layout: WeightLayout) -> None:
        thin = [n if axis == layout.inputs else 1 for axis, n in enumerate(source.shape)]
        taken = np.count_nonzero(pattern.mask(np.zeros(thin), layout))
        super().__init__(source, taken * (math.prod(source.shape) // math.prod(thin)))
        self.multiple = pattern.width if layout.inputs == 0 else 1
        self._pattern, self._layout = pattern, layout

    def maker(self) -> Callable[[Array], Mask]:
        """See `BlockMasks`."""
        return lambda sizes: self._pattern.mask(sizes, self._layout)


class SmallestMasks(BlockMasks):
    """Masks of the smallest elements; of equal ones the first."""

    def __init__(self, source: Values, ratio: float) -> None:
        super().__init__(source, share(ratio, math.prod(source.shape)))

    @cached_property
    def _border(self) -> tuple[np.unsignedinteger, int]:
        """The largest magnitude that is taken, and how many elements of that magnitude are."""

        def sizes() -> Iterator[Array]:
            return (magnitude_bits(block).reshape(-1) for block in self.source.blocks())

        if not self.count:
            return np.uint8(0), 0
        size = math.prod(self.source.shape)
        sample = magnitude_bits(self.source.sample(max(size // SAMPLE_SIZE, 1)))
        limit, smaller = order_statistic(sizes, sample, size, self.count - 1)
        return limit, self.count - smaller

    def maker(self) -> Callable[[Array], Mask]:
        """See `BlockMasks`."""
        limit, left = self._border

        def mask_of(sizes: Array) -> Mask:
            nonlocal left
            mask, left = up_to(sizes, limit, left)
            return mask

        return mask_of


class Zeroed(Values):
    """A weight with zeros where masks say so."""

    def __init__(self, masks: BlockMasks) -> None:
        super().__init__(masks.source.shape, masks.source.dtype)
        self._masks = masks

    def parts(self, rows: int) -> Iterator[Array]:
        """See `Values`."""
        return (zero_bits(block, mask) for block, mask in self._masks.pairs())


def block_masks(source: Values, pattern: Pattern, layout: WeightLayout | None) -> BlockMasks | None:
    """Masks by magnitude that can be made block by block; None where all elements have to be there at once."""
    if source.dtype.name not in FLOATS:
        return None
    if isinstance(pattern, Unstructured):
        return SmallestMasks(source, pattern.share or 0.0)
    if pattern.local and layout is not None and (layout.inputs or layout.input_blocks == 1):
        return LocalMasks(source, pattern, layout)
    return None


def magnitude_bits(array: Array) -> Array:
    """The bits of floating-point numbers without the sign, which are in the order of their magnitudes."""
    kind = np.dtype(UNSIGNED[array.dtype.itemsize])
    found: Array = np.bitwise_and(np.ascontiguousarray(array).view(kind), kind.type(np.iinfo(kind).max // 2))
    return found


def zero_bits(array: Array, zeroed: Mask) -> Array:
    """Returns an array with its masked elements set to zero: its bits times 0 or 1, which has no branches."""
    kind = np.dtype(UNSIGNED[array.dtype.itemsize])
    kept = np.logical_not(zeroed).astype(kind)
    kept *= np.ascontiguousarray(array).view(kind)
    return kept.view(array.dtype)
