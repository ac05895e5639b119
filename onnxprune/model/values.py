"""Values of large tensors, read block by block: from a mapped file, or made from other values when they are read.

An edit of a large tensor is kept as what it does to the blocks of its source. Nothing is computed until the values are
read, by a score, by a run or by `save`, and no more than a few blocks are held meanwhile.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

BLOCK = 2**19
"""Size in bytes of a block, so that what is made of it stays in the processor's cache."""
_KEPT = 2**24
"""Size in bytes of the largest array whose memory is used again once it is free."""


class Values(ABC):
    """The values of one tensor.

    Attributes:
        shape: Their shape.
        dtype: Their type.
    """

    def __init__(self, shape: Iterable[int], dtype: np.dtype[Any]) -> None:
        self.shape = tuple(shape)
        self.dtype = dtype

    @property
    def nbytes(self) -> int:
        """Their size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @abstractmethod
    def parts(self, rows: int) -> Iterator[Array]:
        """Yields consecutive parts along axis 0, together all values; about `rows` indices each."""

    def blocks(self, multiple: int = 1) -> Iterator[Array]:
        """Yields consecutive blocks along axis 0, of about `BLOCK` bytes; treat them as read-only.

        Args:
            multiple: What the length of every block but the last is a multiple of.
        """
        _keep_freed_memory()
        if not self.shape:
            return iter([self.array()])
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        rows = max(BLOCK // max(row, 1) // multiple, 1) * multiple
        return regrouped(self.parts(rows), multiple)

    def sample(self, step: int) -> Array:
        """Elements that are about `step` apart in C order, flat."""
        return np.concatenate([block.reshape(-1)[::step] for block in self.blocks()])

    def array(self) -> Array:
        """All values at once."""
        found, at = np.empty(self.shape, self.dtype), 0
        for block in self.blocks():
            found[at : at + len(block)] = block
            at += len(block)
        return found


class Whole(Values):
    """Values that are there, in memory or in a mapped file."""

    def __init__(self, array: Array) -> None:
        super().__init__(array.shape, array.dtype)
        self._array = array

    def parts(self, rows: int) -> Iterator[Array]:
        """See `Values`; views."""
        return (self._array[i : i + rows] for i in range(0, self.shape[0], rows))

    def sample(self, step: int) -> Array:
        """See `Values`; a view."""
        return self._array.reshape(-1)[::step]

    def array(self) -> Array:
        """See `Values`; a view."""
        return self._array


class Made(Values):
    """Values that a function makes, all at once, whenever they are read."""

    def __init__(self, shape: Iterable[int], dtype: np.dtype[Any], make: Callable[[], Array]) -> None:
        super().__init__(shape, dtype)
        self._make = make

    def parts(self, rows: int) -> Iterator[Array]:
        """See `Values`."""
        return Whole(self.array()).parts(rows)

    def array(self) -> Array:
        """See `Values`."""
        return self._make()


@functools.cache
def _keep_freed_memory() -> None:
    """Lets the C library keep the memory of one block for the next: fresh pages take longer than most arithmetic.

    glibc returns arrays to the system that are as large as those it has mapped by themselves, until one that is larger
    was freed (the dynamic threshold of ``mallopt(3)``).
    """
    np.empty(_KEPT, np.uint8)


def regrouped(parts: Iterable[Array], multiple: int) -> Iterator[Array]:
    """Yields the rows of consecutive parts in others; the lengths of all but the last are multiples of a number."""
    rest: Array | None = None
    for part in parts:
        joined = part if rest is None else np.concatenate([rest, part])
        whole = len(joined) // multiple * multiple
        rest = joined[whole:] if whole < len(joined) else None
        if whole:
            yield joined[:whole]
    if rest is not None:
        yield rest


def stretches(indices: NDArray[np.integer[Any]]) -> list[tuple[int, int]]:
    """The runs of consecutive numbers among ascending indices, as pairs of begin and end."""
    if not len(indices):
        return []
    ends = np.flatnonzero(np.diff(indices) != 1)
    starts = [indices[0], *indices[ends + 1]]
    return [(int(a), int(b) + 1) for a, b in zip(starts, [*indices[ends], indices[-1]], strict=True)]
