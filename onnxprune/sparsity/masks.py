"""Mask arithmetic: all but the largest elements of groups, means of blocks, expansion of blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph.operators import WeightLayout

Mask = NDArray[np.bool_]
Scores = NDArray[Any]
"""Scores of elements: nonnegative, of any ordered type; elements with low scores are set to zero."""

CHUNK = 2**17
"""Number of elements that are ranked at a time, so that they fit into the cache: those of a block of half precision."""


def mask_all_but_largest(scores: Scores, zeroed: Mask, n: int, m: int) -> None:
    """Masks all but the n largest of every m elements along axis 1, in place; of equal ones the first is kept.

    A tail shorter than m keeps its n largest too, as if it were padded with zeros.
    """
    for some, out in _chunks(scores, zeroed, m):
        before, length, after = some.shape
        whole = length // m * m
        for begin, end, size in ((0, whole, m), (whole, length, length - whole)):
            if end > begin and size > n:  # splitting an axis makes a view, so that the mask is modified in place
                shape = (before, (end - begin) // size, size, after)
                _mask_small(some[:, begin:end].reshape(shape), out[:, begin:end].reshape(shape), n)


def _chunks(scores: Scores, zeroed: Mask, m: int) -> Iterator[tuple[Scores, Mask]]:
    """Yields parts of about `CHUNK` elements, split along axis 0 and, if necessary, axis 1."""
    before, length, after = scores.shape
    step = max(CHUNK // max(after, 1) // m * m, m)
    rows = max(CHUNK // max(min(length, step) * after, 1), 1)
    for i in range(0, before, rows):
        for j in range(0, length, step):
            yield scores[i : i + rows, j : j + step], zeroed[i : i + rows, j : j + step]


def _mask_small(scores: Scores, zeroed: Mask, n: int) -> None:
    """Masks all but the n largest along axis 2 of arrays with four axes, in place."""
    size = scores.shape[2]
    if size > 16:
        order = np.argsort(-scores.astype(np.float64), axis=2, kind="stable")
        np.put_along_axis(zeroed, order[:, :, n:], True, axis=2)
        return
    parts = np.ascontiguousarray(np.moveaxis(scores, 2, 0))
    # Number of elements of the group that go before: larger ones, and equal ones that are earlier.
    above = np.empty(parts.shape, dtype=np.int8)
    above[...] = np.arange(size, dtype=np.int8)[:, None, None, None]
    for apart in range(1, size):
        later = (parts[apart:] > parts[:-apart]).view(np.int8)  # of one type: without casts several times faster
        above[:-apart] += later
        above[apart:] -= later
    np.greater_equal(above, n, out=np.moveaxis(zeroed, 2, 0))


def block_means(matrices: Scores, rows: int, columns: int) -> NDArray[np.float64]:
    """Returns the mean score of each block; blocks at the border may be smaller."""
    sums, sizes = matrices, []
    for axis, step in ((-2, rows), (-1, columns)):
        length = matrices.shape[axis]
        sizes.append(np.minimum(step, length - np.arange(0, length, step)))
        sums = _sum_neighbours(sums, axis, step)
    means: NDArray[np.float64] = sums / np.outer(*sizes)
    return means


def _sum_neighbours(array: Scores, axis: int, step: int) -> NDArray[np.float64]:
    """Sums every `step` neighbours along one of the last two axes; the last sum may have fewer."""
    if step > 16:  # faster for long runs
        found: NDArray[np.float64] = np.add.reduceat(
            array, np.arange(0, array.shape[axis], step), axis=axis, dtype=np.float64
        )
        return found
    shape = list(array.shape)
    shape[axis] = -(-shape[axis] // step)
    sums = np.zeros_like(array, dtype=np.float64, shape=shape)  # keeps the memory order of a transposed array
    along, into = np.moveaxis(array, axis, 0), np.moveaxis(sums, axis, 0)
    for i in range(min(step, len(along))):
        part = along[i::step]
        into[: len(part)] += part
    return sums


def expand_blocks(blocks: Mask, like: Scores, layout: WeightLayout, rows: int, columns: int) -> Mask:
    """Expands a mask of blocks to a mask of elements; shape of `like`."""
    zeroed = np.zeros(like.shape, dtype=bool)
    view = layout.matrices(zeroed)
    height, width = view.shape[-2:]
    view[...] = repeat_blocks(repeat_blocks(blocks, -2, rows, height), -1, columns, width)
    return zeroed


def repeat_blocks(blocks: Mask, axis: int, step: int, length: int) -> Mask:
    """Repeats each block `step` times along one of the last two axes, up to `length` elements."""
    repeated: Mask = blocks.repeat(step, axis=axis)
    return repeated[(..., slice(length)) if axis == -1 else (..., slice(length), slice(None))]
