"""Unstructured sparsity: the smallest elements go, wherever they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxprune.allocate import share

Mask = NDArray[np.bool_]


def smallest(sizes: NDArray[np.floating], ratio: float) -> Mask:
    """Mask of the ``floor(ratio * n)`` smallest of n elements; equal ones go from the front."""
    count = share(ratio, sizes.size)
    mask = np.zeros(sizes.size, dtype=bool)
    if count:
        flat = sizes.ravel()
        limit = np.partition(flat, count - 1)[count - 1]
        mask = flat < limit
        equal = np.flatnonzero(flat == limit)
        mask[equal[:count - int(mask.sum())]] = True
    return mask.reshape(sizes.shape)


def smallest_across(sizes: Sequence[NDArray[np.floating]], ratio: float) -> list[Mask]:
    """Masks of the smallest elements of all tensors together, each tensor first divided by its root mean square."""
    if not sizes:
        return []
    scaled = [x / max(float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))), 1e-30) for x in sizes]
    mask = smallest(np.concatenate([x.ravel() for x in scaled]), ratio)
    parts = np.split(mask, np.cumsum([x.size for x in sizes])[:-1])
    return [part.reshape(x.shape) for part, x in zip(parts, sizes, strict=True)]
