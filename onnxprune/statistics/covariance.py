"""Numerically stable covariances of float32 samples.

E[x y] - E[x] E[y] cancels if the mean of a feature is large relative to its standard deviation: the result is mostly
rounding error and not positive semidefinite. Such samples are centered first (two passes), which takes twice as long.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Samples = NDArray[np.float32]

CHUNK = 2**14
"""Number of samples that are centered at a time."""
CANCELLATION = 1e-3
"""Below this ratio of variance to mean square, E[x^2] - E[x]^2 cancels in float32, and two passes are used."""


def covariance(x: Samples, mean: Floats) -> Floats:
    """Returns the covariance of samples: the mean of ``(x - mean) (x - mean)^T``; shape (groups, columns, columns).

    Args:
        x: Samples; shape (groups, n, columns).
        mean: Mean of x; shape (groups, columns).
    """
    second: Floats = np.matmul(x.transpose(0, 2, 1), x).astype(np.float64) / max(x.shape[1], 1)
    if _cancels(np.diagonal(second, axis1=1, axis2=2), mean):
        return _two_pass(x, x, mean, mean)
    second -= mean[:, :, None] * mean[:, None]
    return second


def cross(x: Samples, y: Samples, mean_x: Floats, mean_y: Floats) -> Floats:
    """Returns the cross-covariance of samples: the mean of ``(x - mean_x) (y - mean_y)^T``.

    Args:
        x: Samples; shape (groups, n, columns of x).
        y: Samples; shape (groups, n, columns of y).
        mean_x: Mean of x; shape (groups, columns of x).
        mean_y: Mean of y; shape (groups, columns of y).

    Returns:
        Shape (groups, columns of x, columns of y).
    """
    for values, mean in ((x, mean_x), (y, mean_y)):
        if _cancels(np.einsum("gnc,gnc->gc", values, values) / max(values.shape[1], 1), mean):
            return _two_pass(x, y, mean_x, mean_y)
    result: Floats = np.matmul(x.transpose(0, 2, 1), y).astype(np.float64) / max(x.shape[1], 1)
    result -= mean_x[:, :, None] * mean_y[:, None]
    return result


def _cancels(second: NDArray[np.floating], mean: Floats) -> bool:
    return bool((second - mean * mean < CANCELLATION * second).any())


def _two_pass(x: Samples, y: Samples, mean_x: Floats, mean_y: Floats) -> Floats:
    result = np.zeros((x.shape[0], x.shape[2], y.shape[2]))
    for start in range(0, x.shape[1], CHUNK):
        a, b = (
            values[:, start : start + CHUNK] - mean[:, None].astype(np.float32)
            for values, mean in ((x, mean_x), (y, mean_y))
        )
        result += np.matmul(a.transpose(0, 2, 1), b)
    result /= max(x.shape[1], 1)
    return result
