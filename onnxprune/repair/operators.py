"""Product layers as linear operators on whole maps: forward, transpose, and gradient of the weight.

Maps have their features first: shape (features, rows, *space) for convolutions, (features, *rows) for matrices.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.linear_maps import Product

Floats = NDArray[np.float32]
Window = tuple[slice, ...]


@dataclass(frozen=True)
class Operator:
    """A layer at maps of one size.

    Weights have the shape of `Product.matrix`: (groups, outputs, inputs a group * kernel positions).

    Attributes:
        groups: Blocks that the product falls into.
        lengths: Lengths of the input's axes of space.
        out: Lengths of the output's axes of space.
        padding: Zeros before and behind, for each axis of space.
        windows: For each kernel position, what it sees of a padded input; its axes of space alone.
    """

    groups: int
    lengths: tuple[int, ...]
    out: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    windows: tuple[Window, ...]

    @classmethod
    def of(cls, layer: Product, lengths: Sequence[int]) -> Operator:
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
            behind = max(0, max(starts) + (size - 1) * stride + 1 - length)
            padding.append((before, behind))
            windows.append([slice(s + before, s + before + (size - 1) * stride + 1, stride) for s in starts])
        return cls(layer.groups, tuple(lengths), tuple(out), tuple(padding), tuple(itertools.product(*windows)))

    def columns(self, x: Floats) -> Floats:
        """What the layer multiplies its weight with; shape (groups, columns, places)."""
        padded = np.pad(x, [(0, 0)] * (x.ndim - len(self.lengths)) + list(self.padding)) if any(
            any(p) for p in self.padding) else x
        rows = x.shape[1:x.ndim - len(self.lengths)]
        found = np.empty((len(x), len(self.windows), *rows, *self.out), dtype=np.float32)
        for position, window in enumerate(self.windows):
            found[:, position] = padded[(..., *window)]
        return found.reshape(self.groups, -1, math.prod(rows + self.out))

    def forward(self, weight: Floats, columns: Floats, rows: tuple[int, ...]) -> Floats:
        """What the layer makes of a map, given by its `columns`, without its bias.

        Args:
            weight: The matrices.
            columns: What they read.
            rows: Lengths of the axes between features and space.
        """
        return np.matmul(weight, columns).reshape(-1, *rows, *self.out)

    def adjoint(self, weight: Floats, g: Floats) -> Floats:
        """What `forward` takes back from an output to an input: its transpose."""
        rows = g.shape[1:g.ndim - len(self.out)]
        parts = np.matmul(weight.transpose(0, 2, 1), g.reshape(self.groups, g.shape[0] // self.groups, -1))
        parts = parts.reshape(-1, len(self.windows), *rows, *self.out)
        made = np.zeros((len(parts), *rows, *(sum(p) + n for p, n in zip(self.padding, self.lengths, strict=True))),
                        dtype=np.float32)
        for position, window in enumerate(self.windows):
            made[(..., *window)] += parts[:, position]
        inner = tuple(slice(before, before + n) for (before, _), n in zip(self.padding, self.lengths, strict=True))
        return np.ascontiguousarray(made[(..., *inner)])

    def gradient(self, columns: Floats, g: Floats) -> Floats:
        """Derivative of ``(forward(weight, columns) * g).sum()`` with respect to the weight; of its shape."""
        return np.matmul(g.reshape(self.groups, g.shape[0] // self.groups, -1), columns.transpose(0, 2, 1))
