"""Ridge least squares of a linear layer, from samples.

Minimises ``|Y - X W^T - b|^2 + penalty |W - W0|^2``: centred on the weight at hand, so that directions which the data
do not show stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Tried in turn, each a share of the mean variance of the inputs; the held-back samples choose."""


@dataclass(frozen=True)
class Rows:
    """Samples of a layer.

    Attributes:
        x: Inputs; shape (groups, n, columns).
        y: Targets of what the layer makes plus `offset`; shape (groups, n, outputs).
        offset: What is added to the layer's output behind it; the same shape, or one number.
        low: What lies below is all one to what follows (0 for a rectifier).
        high: What lies above is all one to what follows.
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    offset: NDArray[np.float32] | float = 0.0
    low: float = -np.inf
    high: float = np.inf

    def predict(self, weight: Floats, bias: Floats) -> NDArray[np.float32]:
        """What the layer makes of the inputs, plus the offset."""
        made: NDArray[np.float32] = self.x @ weight.transpose(0, 2, 1).astype(np.float32)
        made += bias[:, None].astype(np.float32)
        made += self.offset
        return made

    def seen(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values as what follows sees them."""
        return np.clip(values, self.low, self.high)

    def error(self, weight: Floats, bias: Floats) -> float:
        """Mean squared error of what follows sees, as a share of its variance."""
        target = self.seen(self.y)
        wrong = np.square(target - self.seen(self.predict(weight, bias)), dtype=np.float64).sum()
        centred = target - target.mean(axis=1, keepdims=True)
        return float(wrong / max(np.square(centred, dtype=np.float64).sum(), 1e-30))

    def reachable(self, weight: Floats, bias: Floats) -> NDArray[np.float32]:
        """What the layer should make, asking for nothing where target and prediction are beyond the same bound."""
        made = self.predict(weight, bias)
        beyond = ((self.y <= self.low) & (made <= self.low)) | ((self.y >= self.high) & (made >= self.high))
        wanted: NDArray[np.float32] = np.where(beyond, made, self.y)
        wanted -= self.offset
        return wanted

    @property
    def wanted(self) -> NDArray[np.float32]:
        """What the layer itself should make."""
        return self.y - self.offset


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


ROUNDS = 2
"""Fits with one ridge where an activation hides a part of the error; each begins from what the last one left."""
PATIENCE = 2
"""So many ridges in a row that are no better than the best end the search."""


def fit(rows: Rows, held: Rows, weight: Floats, bias: Floats, *, intercept: bool = True,
        penalties: Sequence[float] = PENALTIES) -> Fit:
    """The best refit by the held-back samples, or the layer as it was if none is better.

    Where a rectifier follows, an error below zero on both sides is none: the fit is repeated with targets that ask
    for nothing there (a majorisation of the error behind the activation; compare Zhang et al., "Accelerating very
    deep convolutional networks", PAMI 2016). The error that is minimised has more than one dip, so it is gone down
    from two places: the plain fit, and the layer as it is. Ridges are tried from the strongest to the weakest, each
    from where the last one ended.

    Args:
        rows: Samples to fit.
        held: Samples held back.
        weight: Weight to centre on; shape (groups, outputs, columns).
        bias: Bias at hand; shape (groups, outputs).
        intercept: Whether the bias may change.
        penalties: Ridges to try.
    """
    before = held.error(weight, bias)
    best = Fit(weight, bias, None, before, before)
    n = max(rows.x.shape[1], 1)
    turned = rows.x.transpose(0, 2, 1)
    mean_x = rows.x.mean(axis=1, dtype=np.float64)
    xx = np.matmul(turned, rows.x).astype(np.float64) / n
    if intercept:
        xx -= mean_x[:, :, None] * mean_x[:, None, :]
    scale = np.maximum(np.trace(xx, axis1=1, axis2=2) / xx.shape[1], 1e-12)
    bent = np.isfinite(rows.low) or np.isfinite(rows.high)
    for first in [rows.wanted, rows.reachable(weight, bias)] if bent else [rows.wanted]:
        target, worse = first, 0
        for penalty in sorted(penalties, reverse=True):
            inverse = np.linalg.inv(xx + (penalty * scale)[:, None, None] * np.eye(xx.shape[1]))
            least = np.inf
            for _ in range(ROUNDS if bent else 1):
                mean_y = target.mean(axis=1, dtype=np.float64) if intercept else bias
                xy = np.matmul(turned, target).astype(np.float64) / n - mean_x[:, :, None] * mean_y[:, None, :]
                new = weight + (inverse @ (xy - xx @ weight.transpose(0, 2, 1))).transpose(0, 2, 1)
                shift = mean_y - np.einsum("goi,gi->go", new, mean_x) if intercept else bias
                after = held.error(new, shift)
                least = min(least, after)
                if after < best.after:
                    best = Fit(new, shift, penalty, before, after)
                if bent:
                    target = rows.reachable(new, shift)
            worse = worse + 1 if least > best.after else 0
            if worse == PATIENCE:
                break
    return best
