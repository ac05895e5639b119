"""Numerically stable covariances of float32 samples.

E[x y] - E[x] E[y] cancels if the mean of a feature is large relative to its standard deviation: the result is mostly
rounding error and not positive semidefinite. Such samples are centered first (two passes), which takes twice as long.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.runtime.parallel import in_order

Floats = NDArray[np.float64]
Samples = NDArray[np.float32]

PART = 2**12
"""Samples that are multiplied at a time; the parts are divided among the cores, and added in their order."""
SUMMED = 2**8
"""Samples that are summed in float32, by a product with ones, which is several times as fast as `numpy.sum`."""
CANCELLATION = 1e-3
"""Below this ratio of variance to mean square, E[x^2] - E[x]^2 cancels in float32, and two passes are used."""


@dataclass(frozen=True)
class Centred:
    """Samples with their mean and covariance.

    Attributes:
        x: The samples; shape (groups, n, columns).
        mean: Their mean; shape (groups, columns).
        covariance: The mean of ``(x - mean) (x - mean)^T``; shape (groups, columns, columns).
        cancels: Whether two passes are necessary.
    """

    x: Samples
    mean: Floats
    covariance: Floats
    cancels: bool

    @classmethod
    def of(cls, x: Samples) -> Centred:
        """The moments of samples of shape (groups, n, columns)."""
        average = mean(x)
        second = _product(x, x)
        cancels = _cancels(np.diagonal(second, axis1=1, axis2=2), average)
        if cancels:
            return cls(x, average, _product(x, x, average, average), cancels)
        second -= average[:, :, None] * average[:, None]
        return cls(x, average, second, cancels)

    def cross(self, y: Samples) -> tuple[Floats, Floats]:
        """The mean of ``(x - mean of x) (y - mean of y)^T``, and the mean of y.

        Args:
            y: Samples; shape (groups, n, columns of y).

        Returns:
            Shapes (groups, columns of x, columns of y) and (groups, columns of y).
        """
        average = mean(y)
        if self.cancels or _cancels(np.einsum("gnc,gnc->gc", y, y) / max(y.shape[1], 1), average):
            return _product(self.x, y, self.mean, average), average
        found = _product(self.x, y)
        found -= self.mean[:, :, None] * average[:, None]
        return found, average

    def joined(self, other: Centred, x: Samples) -> Centred:
        """These samples followed by others.

        Args:
            other: The others.
            x: All of them.
        """
        share = other.x.shape[1] / max(x.shape[1], 1)
        apart = other.mean - self.mean
        covariance = (1 - share) * self.covariance + share * other.covariance
        covariance += (1 - share) * share * apart[:, :, None] * apart[:, None]
        return Centred(x, self.mean + share * apart, covariance, self.cancels or other.cancels)


def mean(x: Samples) -> Floats:
    """The mean of samples of shape (groups, n, columns) over n; shape (groups, columns)."""

    def part(start: int) -> Floats:
        found = np.zeros((x.shape[0], x.shape[2]))
        for at in range(start, min(start + PART, x.shape[1]), SUMMED):
            some = x[:, at : min(at + SUMMED, start + PART)]
            found += np.matmul(np.ones((1, some.shape[1]), np.float32), some)[:, 0]
        return found

    total = np.zeros((x.shape[0], x.shape[2]))
    for one in in_order(part, range(0, x.shape[1], PART)):
        total += one
    total /= max(x.shape[1], 1)
    return total


def _cancels(second: NDArray[np.floating], mean: Floats) -> bool:
    return bool((second - mean * mean < CANCELLATION * second).any())


def _product(x: Samples, y: Samples, mean_x: Floats | None = None, mean_y: Floats | None = None) -> Floats:
    """The mean of ``x y^T`` over n, less their means if they are given."""

    def part(start: int) -> Samples:
        a = _less(x[:, start : start + PART], mean_x)
        b = a if y is x else _less(y[:, start : start + PART], mean_y)
        found: Samples = np.matmul(a.transpose(0, 2, 1), b)
        return found

    result = np.zeros((x.shape[0], x.shape[2], y.shape[2]))
    for one in in_order(part, range(0, x.shape[1], PART)):
        result += one
    result /= max(x.shape[1], 1)
    return result


def _less(values: Samples, mean: Floats | None) -> Samples:
    return values if mean is None else values - mean[:, None].astype(np.float32)
