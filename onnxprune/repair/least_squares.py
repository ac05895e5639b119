"""Ridge least squares of a linear layer, from sums over samples.

Minimises ``|Y - X W^T - b|^2 + penalty |W - W0|^2``: centred on the weight at hand, so that directions which the data
do not show stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Tried in turn, each a share of the mean variance of the inputs; the held-back samples choose."""


@dataclass
class Sums:
    """What a fit needs to know of inputs X (rows, columns) and targets Y (rows, outputs), for each group alike.

    Attributes:
        count: Rows.
        x: Sum of X; shape (groups, columns).
        y: Sum of Y; shape (groups, outputs).
        xx: ``X^T X``; shape (groups, columns, columns).
        xy: ``X^T Y``; shape (groups, columns, outputs).
        yy: Sum of the squares of Y; shape (groups,).
    """

    count: int
    x: Floats
    y: Floats
    xx: Floats
    xy: Floats
    yy: Floats

    @classmethod
    def of(cls, x: NDArray[np.float32], y: NDArray[np.float32]) -> Sums:
        """Sums over rows; `x` of shape (groups, n, columns), `y` of shape (groups, n, outputs)."""
        turned = x.transpose(0, 2, 1)
        return cls(x.shape[1], x.sum(axis=1, dtype=np.float64), y.sum(axis=1, dtype=np.float64),
                   np.matmul(turned, x).astype(np.float64), np.matmul(turned, y).astype(np.float64),
                   np.square(y, dtype=np.float64).sum(axis=(1, 2)))

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.count + other.count, self.x + other.x, self.y + other.y, self.xx + other.xx,
                    self.xy + other.xy, self.yy + other.yy)

    def error(self, weight: Floats, bias: Floats) -> float:
        """Mean squared error of a weight (groups, outputs, columns) and bias (groups, outputs), summed over outputs."""
        turned = weight.transpose(0, 2, 1)
        square = np.einsum("goi,gio->", weight @ self.xx, turned, optimize=True)
        cross = np.einsum("gio,goi->", self.xy, weight, optimize=True)
        shift = np.einsum("go,goi,gi->", bias, weight, self.x, optimize=True)
        total = (self.yy.sum() + square + self.count * np.square(bias).sum() - 2 * cross
                 - 2 * (bias * self.y).sum() + 2 * shift)
        return float(max(total, 0.0)) / max(self.count, 1)


@dataclass(frozen=True)
class Fit:
    """A refitted layer.

    Attributes:
        weight: Shape (groups, outputs, columns).
        bias: Shape (groups, outputs).
        penalty: The ridge that was chosen, None where the layer is best left as it was.
        before: Error on the held-back samples of the layer as it was, as a share of the targets' variance.
        after: The same once refitted.
    """

    weight: Floats
    bias: Floats
    penalty: float | None
    before: float
    after: float


def fit(sums: Sums, held: Sums, weight: Floats, bias: Floats, *, intercept: bool = True,
        penalties: Sequence[float] = PENALTIES) -> Fit:
    """The best refit by the held-back samples, or the layer as it was if none is better.

    Args:
        sums: Sums over the samples to fit.
        held: Sums over the samples held back.
        weight: Weight to centre on; shape (groups, outputs, columns).
        bias: Bias at hand; shape (groups, outputs).
        intercept: Whether the bias may change.
        penalties: Ridges to try.
    """
    variance = max(float((held.yy.sum() - np.square(held.y).sum() / max(held.count, 1)) / max(held.count, 1)), 1e-30)
    before = held.error(weight, bias) / variance
    best = Fit(weight, bias, None, before, before)
    n = max(sums.count, 1)
    mean_x, mean_y = sums.x / n, sums.y / n
    if intercept:
        xx = sums.xx / n - mean_x[:, :, None] * mean_x[:, None, :]
        xy = sums.xy / n - mean_x[:, :, None] * mean_y[:, None, :]
    else:
        xx, xy = sums.xx / n, sums.xy / n - mean_x[:, :, None] * bias[:, None, :]
    missing = xy - xx @ weight.transpose(0, 2, 1)
    scale = np.maximum(np.trace(xx, axis1=1, axis2=2) / xx.shape[1], 1e-12)
    eye = np.eye(xx.shape[1])
    for penalty in penalties:
        step = np.linalg.solve(xx + (penalty * scale)[:, None, None] * eye, missing)
        new = weight + step.transpose(0, 2, 1)
        shift = mean_y - np.einsum("goi,gi->go", new, mean_x) if intercept else bias
        after = held.error(new, shift) / variance
        if after < best.after:
            best = Fit(new, shift, penalty, before, after)
    return best
