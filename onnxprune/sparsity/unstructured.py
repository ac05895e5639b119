"""Unstructured sparsity: the smallest elements go, wherever they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune._math import share

Mask = NDArray[np.bool_]

SAMPLE = 2**14
"""Elements of the sample that narrows the search for the largest one that goes."""


def smallest(sizes: NDArray[np.floating], ratio: float) -> Mask:
    """Mask of the ``floor(ratio * n)`` smallest of n elements; equal ones go from the front."""
    count = share(ratio, sizes.size)
    mask = np.zeros(sizes.size, dtype=bool)
    if count:
        flat = sizes.ravel()
        limit = _in_order(flat, count - 1)
        mask = flat < limit
        equal = np.flatnonzero(flat == limit)
        mask[equal[: count - np.count_nonzero(mask)]] = True
    return mask.reshape(sizes.shape)


def _in_order(flat: NDArray[Any], position: int) -> Any:
    """The element that sorting would put at a position.

    Two elements of a sample that most likely lie on both sides of it leave few to be parted; sampling as Floyd and
    Rivest do (Expected time bounds for selection, CACM 1975), in passes over the whole array, which numpy is quick at.
    """
    sample = np.sort(flat[:: max(flat.size // SAMPLE, 1)])
    at, margin = position * len(sample) // flat.size, 4 * math.isqrt(len(sample))
    low = sample[at - margin] if at >= margin else flat.min()
    high = sample[at + margin] if at + margin < len(sample) else flat.max()
    below = np.count_nonzero(flat < low)
    between = flat[np.flatnonzero((flat >= low) & (flat <= high))]  # indices: several times faster than a mask
    if below <= position < below + len(between):
        flat, position = between, position - below
    return np.partition(flat, position)[position]


def smallest_across(sizes: Sequence[NDArray[np.floating]], ratio: float) -> list[Mask]:
    """Masks of the smallest elements of all tensors together, each tensor first divided by its root mean square."""
    if not sizes:
        return []
    scaled = [x / max(float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))), 1e-30) for x in sizes]
    mask = smallest(np.concatenate([x.ravel() for x in scaled]), ratio)
    parts = np.split(mask, np.cumsum([x.size for x in sizes])[:-1])
    return [part.reshape(x.shape) for part, x in zip(parts, sizes, strict=True)]
