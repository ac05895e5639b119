"""Which elements a pattern takes, by how much each is worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph.operators import WeightLayout
from onnxprune.patterns import Pattern
from onnxprune.sparsity.unstructured import smallest, smallest_across

Mask = NDArray[np.bool_]
Worth = NDArray[Any]
"""What elements are worth; not negative, of any type that has an order."""

CHUNK = 2**16
"""Elements that are ranked at a time: so many stay in the cache."""


def mask(worth: Worth, layout: WeightLayout | None, pattern: Pattern) -> Mask:
    """Mask of the elements of one weight that a pattern takes.

    Args:
        worth: What each element is worth; shape of the weight.
        layout: How the weight is read; only ``weights`` does without.
        pattern: The pattern.
    """
    if pattern.kind == "weights":
        return smallest(worth, pattern.share or 0.0)
    assert layout is not None
    if pattern.kind == "n:m":
        gone = np.zeros(worth.shape, dtype=bool)
        _take_all_but(layout.runs(worth), layout.runs(gone), pattern.n, pattern.m)
        return gone
    worths = _of_blocks(layout.matrices(worth), pattern)
    return _spread(smallest(worths, pattern.share or 0.0), worth, layout, pattern)


def masks_across(worths: Sequence[Worth], layouts: Sequence[WeightLayout | None], pattern: Pattern) -> list[Mask]:
    """Masks of what a pattern takes of several weights, ranked together; each is divided by its root mean square first.

    An N:M pattern takes as much of every weight whatever they are worth.
    """
    if pattern.kind == "n:m":
        return [mask(w, layout, pattern) for w, layout in zip(worths, layouts, strict=True)]
    if pattern.kind == "weights":
        return smallest_across(worths, pattern.share or 0.0)
    known = [layout for layout in layouts if layout is not None]
    blocks = [_of_blocks(layout.matrices(w), pattern) for w, layout in zip(worths, known, strict=True)]
    return [
        _spread(gone, w, layout, pattern)
        for gone, w, layout in zip(smallest_across(blocks, pattern.share or 0.0), worths, known, strict=True)
    ]


def holds(array: NDArray[Any], layout: WeightLayout, n: int, m: int) -> bool:
    """Whether of every m consecutive inputs at most n have a weight that is not zero; a tail is a group too."""
    runs = layout.runs(array != 0)
    ends = np.arange(0, runs.shape[1], m)
    return bool(runs.size == 0 or np.add.reduceat(runs, ends, axis=1, dtype=np.int32).max() <= n)


def _take_all_but(worth: Worth, gone: Mask, n: int, m: int) -> None:
    """Of every m along the middle axis all but the n largest; of equal ones the first stays.

    A tail shorter than m keeps its n largest as well: padded with zeros it is a group like the others.
    """
    for some, out in _chunks(worth, gone, m):
        before, length, after = some.shape
        whole = length // m * m
        for begin, end, size in ((0, whole, m), (whole, length, length - whole)):
            if end > begin and size > n:  # to part an axis takes no copy, so what is marked is marked in `gone`
                shape = (before, (end - begin) // size, size, after)
                _rank(some[:, begin:end].reshape(shape), out[:, begin:end].reshape(shape), n)


def _chunks(worth: Worth, gone: Mask, m: int) -> Iterator[tuple[Worth, Mask]]:
    """Parts that are small; along the first axis, and the middle one where that is not enough."""
    before, length, after = worth.shape
    step = max(CHUNK // max(after, 1) // m * m, m)
    rows = max(CHUNK // max(min(length, step) * after, 1), 1)
    for i in range(0, before, rows):
        for j in range(0, length, step):
            yield worth[i : i + rows, j : j + step], gone[i : i + rows, j : j + step]


def _rank(worth: Worth, gone: Mask, n: int) -> None:
    """Marks all but the n largest along axis 2 of arrays of four axes."""
    size = worth.shape[2]
    if size > 16:
        order = np.argsort(-worth.astype(np.float64), axis=2, kind="stable")
        np.put_along_axis(gone, order[:, :, n:], True, axis=2)
        return
    parts = [np.ascontiguousarray(worth[:, :, i]) for i in range(size)]
    above = [np.zeros(parts[0].shape, dtype=np.int8) for _ in range(size)]  # how many of its group come before it
    for i in range(size):
        for j in range(i + 1, size):
            later = parts[j] > parts[i]
            above[i] += later
            above[j] += ~later
    for i in range(size):
        np.greater_equal(above[i], n, out=gone[:, :, i])


def _of_blocks(matrices: Worth, pattern: Pattern) -> NDArray[np.float64]:
    """Mean worth of the elements of each block; those at the borders may be smaller."""
    sums, sizes = matrices, []
    for axis, step in ((-2, pattern.rows), (-1, pattern.columns)):
        length = matrices.shape[axis]
        sizes.append(np.minimum(step, length - np.arange(0, length, step)))
        sums = _summed(sums, axis, step)
    means: NDArray[np.float64] = sums / np.outer(*sizes)
    return means


def _summed(array: Worth, axis: int, step: int) -> NDArray[np.float64]:
    """Sums of so many neighbours along one of the last two axes; the last sum may be of fewer."""
    if step > 16:  # long runs are summed at once
        found: NDArray[np.float64] = np.add.reduceat(
            array, np.arange(0, array.shape[axis], step), axis=axis, dtype=np.float64
        )
        return found
    shape = list(array.shape)
    shape[axis] = -(-shape[axis] // step)
    sums = np.zeros_like(array, dtype=np.float64, shape=shape)  # in the same order in memory, however it is turned
    along, into = np.moveaxis(array, axis, 0), np.moveaxis(sums, axis, 0)
    for i in range(min(step, len(along))):
        part = along[i::step]
        into[: len(part)] += part
    return sums


def _spread(blocks: Mask, like: Worth, layout: WeightLayout, pattern: Pattern) -> Mask:
    """The mask of elements, of the shape of `like`, for one of blocks."""
    gone = np.zeros(like.shape, dtype=bool)
    view = layout.matrices(gone)
    rows, columns = view.shape[-2:]
    view[...] = blocks.repeat(pattern.rows, axis=-2)[..., :rows, :].repeat(pattern.columns, axis=-1)[..., :columns]
    return gone
