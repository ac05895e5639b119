"""Product layers as linear operators on whole maps: forward, transpose, and gradient of the weight.

Maps have their features first: shape (features, rows, *space) for convolutions, (features, *rows) for matrices.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.layers.linear import LinearLayer

Floats = NDArray[np.float32]
Window = tuple[slice, ...]


@dataclass(frozen=True)
class Unfolded:
    """A map as a layer reads it.

    Attributes:
        columns: Shape (groups, inputs a group * kernel positions, positions of the output).
        positions: Shape of the output's positions: rows and space.
    """

    columns: Floats
    positions: tuple[int, ...]

    def moments(self) -> NDArray[np.float64]:
        """Sum of the outer products of the columns; shape (groups, columns, columns)."""
        return np.stack([(c @ c.T).astype(np.float64) for c in self.columns])  # a product with itself costs half


@dataclass(frozen=True)
class LayerOperator:
    """A layer at maps of one size.

    Weights have the shape of `Product.matrix`: (groups, outputs, inputs a group * kernel positions).

    Attributes:
        groups: Blocks that the product falls into.
        features: Input features, of all groups.
        lengths: Lengths of the input's axes of space.
        out: Lengths of the output's axes of space.
        padding: Zeros before and after, for each spatial axis.
        windows: For each kernel position, what it sees of a padded input; its axes of space alone.
    """

    groups: int
    features: int
    lengths: tuple[int, ...]
    out: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    windows: tuple[Window, ...]

    @classmethod
    def of(cls, layer: LinearLayer, lengths: Sequence[int]) -> LayerOperator:
        """The operator of a convolution or a matrix product.

        Args:
            layer: The layer; no transposed convolution.
            lengths: Lengths of the input's axes of space; () for a matrix product.
        """
        out = [layer.size(axis, length) for axis, length in enumerate(lengths)]
        padding, windows = [], []
        for axis, (length, size) in enumerate(zip(lengths, out, strict=True)):
            starts, stride = layer.starts(axis, length, size)
            before = max(0, -min(starts))
            after = max(0, max(starts) + (size - 1) * stride + 1 - length)
            padding.append((before, after))
            windows.append([slice(s + before, s + before + (size - 1) * stride + 1, stride) for s in starts])
        return cls(
            layer.groups,
            layer.features[0],
            tuple(lengths),
            tuple(out),
            tuple(padding),
            tuple(itertools.product(*windows)),
        )

    def unfold(self, x: Floats) -> Unfolded:
        """What the layer multiplies its weight with at every position of a map."""
        rows = self._rows(x)
        if len(self.windows) == 1 and self.lengths == self.out:  # each position reads itself alone
            return Unfolded(x.reshape(self.groups, len(x) // self.groups, -1), (*rows, *self.out))
        if any(any(p) for p in self.padding):
            x = np.pad(x, [(0, 0)] * (1 + len(rows)) + list(self.padding))
        found = np.empty((len(x), len(self.windows), *rows, *self.out), dtype=np.float32)
        for position, window in enumerate(self.windows):
            found[:, position] = x[_last(window)]
        return Unfolded(found.reshape(self.groups, -1, found[0, 0].size), (*rows, *self.out))

    def forward(self, weight: Floats, x: Unfolded) -> Floats:
        """What the layer makes of a map, without its bias."""
        made: Floats = np.matmul(weight, x.columns)
        return made.reshape(-1, *x.positions)

    def adjoint(self, weight: Floats, g: Floats) -> Floats:
        """What `forward` takes back from an output to an input: its transpose."""
        flat = np.matmul(weight.transpose(0, 2, 1), g.reshape(self.groups, len(g) // self.groups, -1))
        features = flat.shape[1] // len(self.windows) * self.groups
        flat = flat.reshape(features, len(self.windows), *g.shape[1:])
        padded = [sum(p) + n for p, n in zip(self.padding, self.lengths, strict=True)]
        back = np.zeros((features, *self._rows(g), *padded), dtype=np.float32)
        for position, window in enumerate(self.windows):
            back[_last(window)] += flat[:, position]
        inner: Floats = back[
            _last(tuple(slice(p, p + n) for (p, _), n in zip(self.padding, self.lengths, strict=True)))
        ]
        return inner

    def gradient(self, x: Unfolded, g: Floats) -> Floats:
        """Derivative of ``(forward(weight, x) * g).sum()`` with respect to the weight; of its shape."""
        flat = g.reshape(self.groups, len(g) // self.groups, -1)
        made: Floats = np.matmul(flat, x.columns.transpose(0, 2, 1))
        return made

    def _rows(self, x: Floats) -> tuple[int, ...]:
        """Axes between features and space."""
        return x.shape[1 : x.ndim - len(self.out)]


def _last(window: Window) -> tuple[Any, ...]:
    """An index into the last axes."""
    return (Ellipsis, *window)
