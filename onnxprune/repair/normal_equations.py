"""Normal equations of a layer's ridge least squares."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.repair.layer_samples import LayerSamples
from onnxprune.runtime.parallel import in_order
from onnxprune.statistics.covariance import Centred, Floats


class Problem:
    """Least-squares problem of a layer, centred on its current weight; the moments of the samples are computed once.

    Attributes:
        rows: The samples.
        mean: Mean of the inputs; shape (groups, columns).
        gram: Gram matrix of the inputs, centred where the bias is free; shape (groups, columns, columns).
    """

    def __init__(
        self, rows: LayerSamples, weight: Floats, bias: Floats, intercept: bool, seen: Centred | None = None
    ) -> None:
        """Keeps the samples and their moments.

        Args:
            rows: The samples.
            weight: The current weight; shape (groups, outputs, columns).
            bias: The current bias; shape (groups, outputs).
            intercept: Whether the bias may change.
            seen: Moments of the inputs, where they are known.
        """
        self.rows = rows
        self._weight, self._bias, self._intercept = weight, bias, intercept
        self._seen = seen or Centred.of(rows.x)
        self.mean = self._seen.mean
        self.gram = self._seen.covariance if intercept else self.second
        self._inverses: dict[float, Floats] = {}

    @property
    def second(self) -> Floats:
        """Second moments of the inputs; shape (groups, columns, columns)."""
        return self._seen.covariance + self.mean[:, :, None] * self.mean[:, None]

    def joined(self, held: LayerSamples, full: LayerSamples) -> Problem:
        """The problem of these samples followed by others.

        Args:
            held: The others.
            full: All of them.
        """
        seen = self._seen.joined(Centred.of(held.x), full.x)
        return Problem(full, self._weight, self._bias, self._intercept, seen)

    def ridge(self, penalty: float) -> Floats:
        """The Gram matrix with a ridge."""
        return self.gram + ridge(self.gram, penalty)

    def invert(self, penalties: Sequence[float]) -> None:
        """Computes what `solved` needs for some ridges, on all cores."""
        missing = [penalty for penalty in penalties if penalty not in self._inverses]
        inverses: Iterator[Any] = in_order(lambda penalty: np.linalg.inv(self.ridge(penalty)), missing)
        for penalty, inverse in zip(missing, inverses, strict=True):
            self._inverses[penalty] = inverse

    def forget(self, but: Collection[float | None]) -> None:
        """Releases what `invert` computed, but for some ridges."""
        self._inverses = {penalty: inverse for penalty, inverse in self._inverses.items() if penalty in but}

    def products(self, target: NDArray[np.float32]) -> tuple[Floats, Floats]:
        """Cross moments of a target with the inputs, less those of the current weight, and the bias at no inputs."""
        xy, mean = self._seen.cross(target)
        if not self._intercept:
            xy += self.mean[:, :, None] * (mean - self._bias)[:, None]
            mean = self._bias
        return xy - self.gram @ self._weight.transpose(0, 2, 1), mean

    def solved(self, products: tuple[Floats, Floats], penalty: float) -> tuple[Floats, Floats]:
        """Weight and bias for some `products`."""
        self.invert([penalty])
        left, mean = products
        new = self._weight + (self._inverses[penalty] @ left).transpose(0, 2, 1)
        return new, self.bias(new, mean) if self._intercept else self._bias

    def solution(self, target: NDArray[np.float32], penalty: float) -> tuple[Floats, Floats]:
        """Weight and bias for a target."""
        return self.solved(self.products(target), penalty)

    def bias(self, weight: Floats, mean: Floats) -> Floats:
        """The bias with which the mean of the layer's output is `mean`; shape (groups, outputs)."""
        found: Floats = mean - np.einsum("goi,gi->go", weight, self.mean)
        return found


def ridge(gram: Floats, penalty: float) -> Floats:
    """A multiple of the identity: a share of the mean variance of the inputs.

    Args:
        gram: Gram matrix of the inputs; shape (groups, columns, columns).
        penalty: The share.
    """
    scale = np.maximum(np.trace(gram, axis1=1, axis2=2) / gram.shape[1], 1e-12)
    found: Floats = (penalty * scale)[:, None, None] * np.eye(gram.shape[1])
    return found
