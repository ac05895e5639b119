"""Unstructured sparsity: masks of the smallest elements of one or several tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.common.math import share

Mask = NDArray[np.bool_]

SAMPLE_SIZE = 2**14
"""Size of the sample for the selection of an order statistic."""


def smallest(sizes: NDArray[np.floating], ratio: float) -> Mask:
    """Returns the mask of the ``floor(ratio * n)`` smallest of n elements; of equal ones the first."""
    count = share(ratio, sizes.size)
    mask = np.zeros(sizes.size, dtype=bool)
    if count:
        flat = sizes.ravel()
        limit = _order_statistic(flat, count - 1)
        mask = flat < limit
        equal = np.flatnonzero(flat == limit)
        mask[equal[: count - np.count_nonzero(mask)]] = True
    return mask.reshape(sizes.shape)


def _order_statistic(flat: NDArray[Any], position: int) -> Any:
    """Returns the element at a position of the sorted array (selection by sampling).

    Two elements of a sorted sample bracket it with high probability, so that few elements remain to be partitioned
    (Floyd and Rivest, "Expected time bounds for selection", CACM 1975).
    """
    sample = np.sort(flat[:: max(flat.size // SAMPLE_SIZE, 1)])
    at, margin = position * len(sample) // flat.size, 4 * math.isqrt(len(sample))
    low = sample[at - margin] if at >= margin else flat.min()
    high = sample[at + margin] if at + margin < len(sample) else flat.max()
    below = np.count_nonzero(flat < low)
    between = flat[np.flatnonzero((flat >= low) & (flat <= high))]  # several times faster than a boolean mask
    if below <= position < below + len(between):
        flat, position = between, position - below
    return np.partition(flat, position)[position]


def smallest_across(sizes: Sequence[NDArray[np.floating]], ratio: float) -> list[Mask]:
    """Returns masks of the smallest elements of all tensors together, each divided by its root mean square first.

    Infinite elements are the largest, and have no part in the root mean square.
    """
    if not sizes:
        return []
    scaled = [x / max(_root_mean_square(x), 1e-30) for x in sizes]
    mask = smallest(np.concatenate([x.ravel() for x in scaled]), ratio)
    parts = np.split(mask, np.cumsum([x.size for x in sizes])[:-1])
    return [part.reshape(x.shape) for part, x in zip(parts, sizes, strict=True)]


def _root_mean_square(x: NDArray[np.floating]) -> float:
    mean = float(np.mean(np.square(x, dtype=np.float64)))
    if not math.isfinite(mean):
        finite = x[np.isfinite(x)]
        mean = float(np.mean(np.square(finite, dtype=np.float64))) if finite.size else 0.0
    return math.sqrt(mean)
