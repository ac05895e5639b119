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
Seen = tuple[Window, Window]
"""What a kernel position reads of the input, and at which positions of the output; at others it reads zeros."""


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
        found: Floats = np.matmul(self.columns, self.columns.transpose(0, 2, 1))  # of which BLAS makes half
        return found.astype(np.float64)


@dataclass(frozen=True)
class LayerOperator:
    """A layer at maps of one size.

    Weights have the shape of `Product.matrix`: (groups, outputs, inputs a group * kernel positions).

    Attributes:
        groups: Blocks that the product falls into.
        features: Input features, of all groups.
        lengths: Lengths of the input's axes of space.
        out: Lengths of the output's axes of space.
        windows: What each kernel position reads; axes of space alone.
        back: The operator that the transpose is, but for the order of the weights; None with strides, which leave gaps.
    """

    groups: int
    features: int
    lengths: tuple[int, ...]
    out: tuple[int, ...]
    windows: tuple[Seen, ...]
    back: LayerOperator | None = None

    @classmethod
    def of(cls, layer: LinearLayer, lengths: Sequence[int]) -> LayerOperator:
        """The operator of a convolution or a matrix product.

        Args:
            layer: The layer; no transposed convolution.
            lengths: Lengths of the input's axes of space; () for a matrix product.
        """
        out = [layer.size(axis, length) for axis, length in enumerate(lengths)]
        sizes = list(zip(lengths, out, strict=True))
        steps = [layer.starts(axis, *both) for axis, both in enumerate(sizes)]
        seen = [_seen(*step, *both) for step, both in zip(steps, sizes, strict=True)]
        back = None
        if all(stride == 1 for _, stride in steps):
            turned = [([-start for start in starts], 1) for starts, _ in steps]
            reached = [_seen(*step, m, n) for step, (n, m) in zip(turned, sizes, strict=True)]
            back = cls(layer.groups, layer.features[1], tuple(out), tuple(lengths), _joined(reached))
        return cls(layer.groups, layer.features[0], tuple(lengths), tuple(out), _joined(seen), back)

    @property
    def columns(self) -> int:
        """Columns of the matrix of a group."""
        return self.features // self.groups * len(self.windows)

    def unfold(self, x: Floats) -> Unfolded:
        """What the layer multiplies its weight with at every position of a map."""
        rows = self._rows(x)
        if len(self.windows) == 1 and self.lengths == self.out and self._reads_itself():
            return Unfolded(x.reshape(self.groups, len(x) // self.groups, -1), (*rows, *self.out))
        found = np.zeros((len(x), len(self.windows), *rows, *self.out), dtype=np.float32)
        for position, (read, made) in enumerate(self.windows):
            found[:, position][_last(made)] = x[_last(read)]
        return Unfolded(found.reshape(self.groups, -1, found[0, 0].size), (*rows, *self.out))

    def _reads_itself(self) -> bool:
        """Whether its only kernel position reads each position at itself: neither stride nor padding moves it."""
        reads, makes = self.windows[0]
        return all(
            (read.start, read.stop, read.step, made.start, made.stop) == (0, n, 1, 0, n)
            for read, made, n in zip(reads, makes, self.lengths, strict=True)
        )

    def forward(self, weight: Floats, x: Unfolded) -> Floats:
        """What the layer makes of a map, without its bias."""
        made: Floats = np.matmul(weight, x.columns)
        return made.reshape(-1, *x.positions)

    def adjoint(self, weight: Floats, g: Floats) -> Floats:
        """What `forward` takes back from an output to an input: its transpose."""
        if self.back is not None:
            by_kernel = weight.reshape(self.groups, weight.shape[1], -1, len(self.windows)).transpose(0, 2, 1, 3)
            return self.back.forward(by_kernel.reshape(self.groups, by_kernel.shape[1], -1), self.back.unfold(g))
        flat = np.matmul(weight.transpose(0, 2, 1), g.reshape(self.groups, len(g) // self.groups, -1))
        features = flat.shape[1] // len(self.windows) * self.groups
        flat = flat.reshape(features, len(self.windows), *g.shape[1:])
        back = np.zeros((features, *self._rows(g), *self.lengths), dtype=np.float32)
        for position, (read, made) in enumerate(self.windows):
            back[_last(read)] += flat[:, position][_last(made)]
        return back

    def gradient(self, x: Unfolded, g: Floats) -> Floats:
        """Derivative of ``(forward(weight, x) * g).sum()`` with respect to the weight; of its shape."""
        flat = g.reshape(self.groups, len(g) // self.groups, -1)
        made: Floats = np.matmul(flat, x.columns.transpose(0, 2, 1))
        return made

    def _rows(self, x: Floats) -> tuple[int, ...]:
        """Axes between features and space."""
        return x.shape[1 : x.ndim - len(self.out)]


def _seen(starts: Sequence[int], stride: int, length: int, size: int) -> list[tuple[slice, slice]]:
    """What each kernel position reads along one axis.

    Args:
        starts: What it reads at the first position of the output.
        stride: Distance of what it reads at two positions of the output.
        length: Length of the axis.
        size: Length of the output's axis.
    """
    found = []
    for start in starts:
        made = [i for i in range(size) if 0 <= start + i * stride < length]
        begin, end = (made[0], made[-1] + 1) if made else (0, 0)
        first = start + begin * stride if made else 0
        found.append((slice(first, first + max(0, (end - begin - 1) * stride + 1), stride), slice(begin, end)))
    return found


def _joined(axes: Sequence[Sequence[tuple[slice, slice]]]) -> tuple[Seen, ...]:
    """The same along all axes together."""
    return tuple((tuple(read for read, _ in one), tuple(made for _, made in one)) for one in itertools.product(*axes))


def _last(window: Window) -> tuple[Any, ...]:
    """An index into the last axes."""
    return (Ellipsis, *window)
