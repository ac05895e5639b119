"""Statistics of what product layers read, gathered from calibration data.

All of them are sums, so parts of the data can be gathered apart and added.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.linear_maps import Product
from onnxprune.model import Model
from onnxprune.segments import Walk

Batches = Iterable[Mapping[str, NDArray[np.generic]]]

MIN_ROWS, MAX_ROWS, ROWS_A_COLUMN = 16_384, 120_000, 200
"""Sampled places a layer: so many for each column of its matrix, within these bounds."""
MAX_BYTES = 2**28
"""Size of a layer's sampled patches at most."""


@dataclass
class Moments:
    """First and second moments of a layer's input patches.

    Attributes:
        count: Rows seen.
        total: Their sum; shape (groups, columns).
        gram: Sum of outer products; shape (groups, columns, columns).
        zeros: How many are zero; shape (groups, columns).
    """

    count: int
    total: NDArray[np.float64]
    gram: NDArray[np.float64]
    zeros: NDArray[np.int64]

    @classmethod
    def of(cls, rows: NDArray[np.float32]) -> Moments:
        """Moments of rows of shape (groups, n, columns)."""
        return cls(rows.shape[1], rows.sum(axis=1, dtype=np.float64),
                   np.matmul(rows.transpose(0, 2, 1), rows).astype(np.float64), np.count_nonzero(rows == 0, axis=1))

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.gram + other.gram,
                       self.zeros + other.zeros)

    def covariance(self, group: int) -> NDArray[np.float64]:
        """Covariance of the columns of one group."""
        mean = self.total[group] / max(self.count, 1)
        result: NDArray[np.float64] = self.gram[group] / max(self.count, 1) - np.outer(mean, mean)
        return result


def rows_for(columns: int, batches: int) -> int:
    """Places to sample from each of so many batches for a layer of so many columns."""
    rows = min(max(MIN_ROWS, ROWS_A_COLUMN * columns), MAX_ROWS, MAX_BYTES // (4 * columns))
    return -(-rows // max(batches, 1))


def observe(model: Model, layers: Sequence[Product], batches: Batches, count: int, *, seed: int = 0,
            memory: int = 2**31) -> dict[str, Moments]:
    """Moments of the inputs of product layers in one pass through the model.

    Args:
        model: The model that the layers belong to.
        layers: Its layers, in topological order.
        batches: Calibration feeds.
        count: How many batches there are.
        seed: Seed of the places that are sampled.
        memory: Bytes of activations to hold before they go to files.

    Returns:
        Moments by the layer's name.
    """
    found: dict[str, Moments] = {}
    stages = [[layer.x.name, layer.name] for layer in layers]
    with Walk(model, batches, stages, memory=memory) as walk:
        for layer in layers:
            values = walk.step()
            rng = np.random.default_rng([seed, len(found)])
            total: Moments | None = None
            for x, y in zip(values[layer.x.name], values[layer.name], strict=True):
                columns = layer.matrix(np.empty(layer.weight.tensor.dims)).shape[-1]  # type: ignore[union-attr]
                places = layer.draw(y.shape, rng, rows_for(columns, count))
                part = Moments.of(layer.patches(x, places))
                total = part if total is None else total + part
            if total is not None:
                found[layer.name] = total
    return found
