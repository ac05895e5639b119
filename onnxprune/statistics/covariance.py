"""Covariances of samples in single precision, of features too whose mean is large against their deviation.

There the mean of products less the product of means leaves little but rounding, and a matrix that no longer is one of
covariances. Such samples are moved by their mean first, which takes twice as long.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Samples = NDArray[np.float32]

CHUNK = 2**14
"""Samples that are moved at once."""
FAR = 1e-3
"""A variance that is less than this share of the mean square is not to be had as a difference."""


def covariance(x: Samples, mean: Floats) -> Floats:
    """Mean over samples of ``(x - mean) (x - mean)^T``; shape (groups, columns, columns).

    Args:
        x: Shape (groups, n, columns).
        mean: Its mean; shape (groups, columns).
    """
    second: Floats = np.matmul(x.transpose(0, 2, 1), x).astype(np.float64) / max(x.shape[1], 1)
    if _far(np.diagonal(second, axis1=1, axis2=2), mean):
        return _moved(x, x, mean, mean)
    second -= mean[:, :, None] * mean[:, None]
    return second


def cross(x: Samples, y: Samples, mean_x: Floats, mean_y: Floats) -> Floats:
    """Mean over samples of ``(x - mean_x) (y - mean_y)^T``; shape (groups, columns of x, columns of y).

    Args:
        x: Shape (groups, n, columns).
        y: Shape (groups, n, columns).
        mean_x: The mean of x; shape (groups, columns).
        mean_y: The mean of y; shape (groups, columns).
    """
    if any(_far(np.einsum("gnc,gnc->gc", a, a) / max(a.shape[1], 1), mean) for a, mean in ((x, mean_x), (y, mean_y))):
        return _moved(x, y, mean_x, mean_y)
    found: Floats = np.matmul(x.transpose(0, 2, 1), y).astype(np.float64) / max(x.shape[1], 1)
    found -= mean_x[:, :, None] * mean_y[:, None]
    return found


def _far(second: NDArray[np.floating], mean: Floats) -> bool:
    return bool((second - mean * mean < FAR * second).any())


def _moved(x: Samples, y: Samples, mean_x: Floats, mean_y: Floats) -> Floats:
    found = np.zeros((x.shape[0], x.shape[2], y.shape[2]))
    for start in range(0, x.shape[1], CHUNK):
        a, b = (
            values[:, start : start + CHUNK] - mean[:, None].astype(np.float32)
            for values, mean in ((x, mean_x), (y, mean_y))
        )
        found += np.matmul(a.transpose(0, 2, 1), b)
    found /= max(x.shape[1], 1)
    return found
