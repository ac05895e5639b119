"""A chain of layers as a function of their weights, and samples of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxprune.repair.layer_operator import LayerOperator, Unfolded
from onnxprune.repair.layer_samples import CONSTANT
from onnxprune.runtime.parallel import in_order

Floats = NDArray[np.float32]
Function = Callable[[Floats], Floats]
Weights = list[Floats]
"""Matrices and then the bias of each layer, one layer after the other."""

CHUNK = 2**19
"""Numbers in the columns of a part of the rows."""


@dataclass(frozen=True)
class FeatureMaps:
    """Samples of a chain's input and output; the feature axis comes first.

    Attributes:
        x: Inputs of the first layer.
        y: Targets for the last layer's output plus `offset`.
        offset: What the graph adds to that output; an array of its shape, or one number.
        low: Lower clipping bound of the following activation: 0 for a Relu, -inf for none.
        high: Upper clipping bound.
    """

    x: Floats
    y: Floats
    offset: Floats | float = 0.0
    low: float = -np.inf
    high: float = np.inf

    @property
    def variation(self) -> float:
        """Sum of squares of the clipped targets about their means, or else of the targets; errors are shares of it."""
        target = np.clip(self.y, self.low, self.high)
        flat = target.reshape(len(target), -1)
        spread = flat.size * float(flat.var(axis=1, dtype=np.float64).mean())
        whole = float(np.square(target, dtype=np.float64).sum())
        return max(spread if spread > CONSTANT * whole else whole, 1e-30)

    def error(self, made: Floats) -> float:
        """Sum of the squared errors of the clipped outputs."""
        wrong = np.clip(self.y, self.low, self.high) - np.clip(made + self.offset, self.low, self.high)
        return float(np.square(wrong, dtype=np.float64).sum())

    def divided(self, rows: int) -> list[FeatureMaps]:
        """The same samples in parts of so many rows."""
        shared = np.ndim(self.offset) == 0
        return [
            replace(
                self,
                x=np.ascontiguousarray(self.x[:, i : i + rows]),
                y=np.ascontiguousarray(self.y[:, i : i + rows]),
                offset=self.offset if shared else np.ascontiguousarray(self.offset[:, i : i + rows]),  # type: ignore[index]
            )
            for i in range(0, self.x.shape[1], rows)
        ]

    def residual(self, made: Floats) -> tuple[Floats, Floats | None]:
        """Target less output, and a mask of the elements that count (None: all)."""
        total = made + self.offset
        missing: Floats = self.y - total
        if not (np.isfinite(self.low) or np.isfinite(self.high)):
            return missing, None
        counts = ~(((self.y <= self.low) & (total <= self.low)) | ((self.y >= self.high) & (total >= self.high)))
        return missing * counts, counts.astype(np.float32)


@dataclass(frozen=True)
class ChainFunction:
    """A chain of layers as a function of their weights.

    Attributes:
        operators: The layers.
        functions: The element-wise functions between them.
        free: Whether each layer's bias may change.
    """

    operators: Sequence[LayerOperator]
    functions: Sequence[Function]
    free: Sequence[bool]

    def __call__(self, weights: Weights, x: Floats) -> tuple[list[Unfolded], list[Floats]]:
        """Input and output of each layer."""
        read: list[Unfolded] = []
        made: list[Floats] = []
        for i, operator in enumerate(self.operators):
            read.append(operator.unfold(x if i == 0 else self.functions[i - 1](made[-1])))
            made.append(operator.forward(weights[2 * i], read[-1]))
            made[-1] += along(weights[2 * i + 1], x.ndim)
        return read, made

    def divided(self, maps: FeatureMaps) -> list[FeatureMaps]:
        """Samples in parts whose columns stay near the processor."""
        x = maps.x
        most = max(op.features * len(op.windows) * math.prod(op.out) for op in self.operators)
        inner = math.prod(x.shape[2 : x.ndim - len(self.operators[0].out)])
        return maps.divided(max(1, CHUNK // max(1, most * inner)))

    def error(self, weights: Weights, parts: Sequence[FeatureMaps], variation: float) -> float:
        """Squared error of the outputs over all parts, as a share of the variation of their targets."""
        return sum(in_order(lambda maps: maps.error(self(weights, maps.x)[1][-1]), parts)) / variation


def along(bias: Floats, rank: int) -> Floats:
    """A bias as it is added to a map of so many axes, whose features come first."""
    return bias.reshape(-1, *[1] * (rank - 1))
