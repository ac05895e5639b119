"""Product layers as linear operators on whole maps: forward, transpose, and gradient of the weight.

Maps have their features first: shape (features, rows, *space) for convolutions, (features, *rows) for matrices.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.layers.linear import LinearLayer

Floats = NDArray[np.float32]
Window = tuple[slice, ...]

CHUNK = 2**19
"""Numbers in the columns that are made at a time."""


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

    def forward(self, weight: Floats, x: Floats) -> Floats:
        """What the layer makes of a map, without its bias."""
        made = np.empty((self.groups, weight.shape[1], *self._rows(x), *self.out), dtype=np.float32)
        for some, columns in self._columns(x):
            made[:, :, some] = np.matmul(weight, columns).reshape(made[:, :, some].shape)
        return made.reshape(-1, *made.shape[2:])

    def adjoint(self, weight: Floats, g: Floats) -> Floats:
        """What `forward` takes back from an output to an input: its transpose."""
        rows, turned = self._rows(g), np.ascontiguousarray(weight.transpose(0, 2, 1))
        padded = [sum(p) + n for p, n in zip(self.padding, self.lengths, strict=True)]
        inner = tuple(slice(before, before + n) for (before, _), n in zip(self.padding, self.lengths, strict=True))
        features = turned.shape[1] // len(self.windows) * self.groups
        made = np.empty((features, *rows, *self.lengths), dtype=np.float32)
        for some in self._chunks(rows):
            part = g[:, some]
            flat = np.matmul(turned, part.reshape(self.groups, g.shape[0] // self.groups, -1))
            flat = flat.reshape(features, len(self.windows), *part.shape[1:])
            back = np.zeros((features, *part.shape[1 : 1 + len(rows)], *padded), dtype=np.float32)
            for position, window in enumerate(self.windows):
                back[_last(window)] += flat[:, position]
            made[:, some] = back[_last(inner)]
        return made

    def gradient(self, x: Floats, g: Floats) -> Floats:
        """Derivative of ``(forward(weight, x) * g).sum()`` with respect to the weight; of its shape."""
        total: Floats | None = None
        for some, columns in self._columns(x):
            flat = g[:, some].reshape(self.groups, g.shape[0] // self.groups, -1)
            part = np.matmul(flat, columns.transpose(0, 2, 1))
            total = part if total is None else total + part
        assert total is not None
        return total

    def moments(self, x: Floats) -> NDArray[np.float64]:
        """Mean outer products of the columns; shape (groups, columns, columns)."""
        total, count = np.zeros(1), 0
        for _, columns in self._columns(x):
            total = total + np.matmul(columns, columns.transpose(0, 2, 1)).astype(np.float64)
            count += columns.shape[2]
        return total / count

    def _columns(self, x: Floats) -> Iterator[tuple[slice, Floats]]:
        """What the layer multiplies its weight with, (groups, columns, positions), some rows at a time."""
        rows = self._rows(x)
        if len(self.windows) == 1 and self.lengths == self.out:  # each position reads itself alone
            yield slice(None), x.reshape(self.groups, len(x) // self.groups, -1)
            return
        if any(any(p) for p in self.padding):
            x = np.pad(x, [(0, 0)] * (1 + len(rows)) + list(self.padding))
        for some in self._chunks(rows):
            part = x[:, some]
            found = np.empty((len(x), len(self.windows), *part.shape[1 : 1 + len(rows)], *self.out), dtype=np.float32)
            for position, window in enumerate(self.windows):
                found[:, position] = part[_last(window)]
            yield some, found.reshape(self.groups, -1, found[0, 0].size)

    def _chunks(self, rows: Sequence[int]) -> Iterator[slice]:
        """So many rows at a time that their columns stay near the processor."""
        size = max(1, CHUNK // max(1, self.features * len(self.windows) * math.prod(self.out) * math.prod(rows[1:])))
        return (slice(begin, begin + size) for begin in range(0, rows[0], size))

    def _rows(self, x: Floats) -> tuple[int, ...]:
        """Axes between features and space."""
        return x.shape[1 : x.ndim - len(self.out)]


def _last(window: Window) -> tuple[Any, ...]:
    """An index into the last axes."""
    return (Ellipsis, *window)
