"""Product layers as linear maps: patches of its input, times one matrix, plus one vector, are its output.

    targets[g, n] = patches[g, n] @ matrix[g].T + vector[g]        for every group g and position n of the output

A transposed convolution is read from its output too: one position of it reads each kernel position at most once, and
zero where the stride leaves a hole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph.graph import Node, Value

Floats = NDArray[np.float32]
Index = NDArray[np.int64]
Kind = Literal["conv", "conv_transpose", "gemm", "matmul"]


@dataclass(frozen=True)
class Positions:
    """Positions of an output: indices into all its axes but the feature axis.

    Attributes:
        rows: Flat positions in C order, ascending; shape (n,).
        shape: Lengths of the axes that they count over.
    """

    rows: Index
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class LinearLayer:
    """One product layer. Sizes are read from the protos and arrays at hand, so it remains valid while these change.

    Attributes:
        node: The product itself.
        kind: What it is.
        x: The activation that it reads.
        x_axis: Feature axis of `x`, negative where it counts from the end.
        weight: The constant that is stored.
        order: Permutation of the stored weight's axes before the product reads it.
        transposed: Whether the product reads a matrix of shape (in, out), not (out, in).
        bias: The constant that holds what is added to each output feature, None if there is none.
        output: What holds the product with its bias: the node's own output, or that of a following Add.
        out_axis: Feature axis of `output`, negative where it counts from the end.
        alpha: Factor of the product.
        beta: Factor of the bias.
        weight_shared: Whether anything else reads the stored weight.
        bias_shared: Whether anything else reads the stored bias.
    """

    node: Node
    kind: Kind
    x: Value
    x_axis: int
    weight: Value
    order: tuple[int, ...]
    transposed: bool
    bias: Value | None
    output: Value
    out_axis: int
    alpha: float = 1.0
    beta: float = 1.0
    weight_shared: bool = False
    bias_shared: bool = False

    @property
    def name(self) -> str:
        """Name of the node's output, by which the same layer is found in another version of the model."""
        return str(self.node.proto.output[0])

    @property
    def groups(self) -> int:
        """Blocks that the product falls into."""
        return int(self.node.attribute("group", 1))

    @property
    def dims(self) -> tuple[int, ...]:
        """Shape of the weight as the product reads it."""
        stored = self.weight.tensor.dims if self.weight.tensor is not None else self.weight.shape or []
        return tuple(int(stored[i]) for i in self.order)  # type: ignore[arg-type]

    @property
    def features(self) -> tuple[int, int]:
        """Input and output features, over all groups."""
        dims = self.dims
        if self.kind == "conv":
            return dims[1] * self.groups, dims[0]
        if self.kind == "conv_transpose":
            return dims[0], dims[1] * self.groups
        return (dims[0], dims[1]) if self.transposed else (dims[1], dims[0])

    @property
    def kernel(self) -> tuple[int, ...]:
        """Lengths of the kernel; () for matrices."""
        return self.dims[2:]

    @property
    def columns(self) -> int:
        """Columns of the matrix of each group, see `matrix`."""
        return self.features[0] // self.groups * math.prod(self.kernel)

    def matrix(self, array: NDArray[Any]) -> NDArray[Any]:
        """A stored weight as matrices of shape (groups, out, columns), a view of it where that can be.

        Columns are (input feature within the group, kernel position) in C order.
        """
        groups = self.groups
        w: NDArray[Any] = array.transpose(self.order)
        if self.kind == "conv":
            return w.reshape(groups, w.shape[0] // groups, -1)
        if self.kind == "conv_transpose":
            parts: NDArray[Any] = w.reshape(groups, w.shape[0] // groups, w.shape[1], -1).swapaxes(1, 2)
            return parts.reshape(groups, w.shape[1], -1)
        m = w.T if self.transposed else w
        return _times(m, self.alpha)[None]

    def unmatrix(self, m: NDArray[Any], array_shape: Sequence[int]) -> NDArray[Any]:
        """The stored weight, of shape `array_shape`, that has these matrices."""
        shape = [array_shape[i] for i in self.order]
        if self.kind == "conv":
            w = m.reshape(shape)
        elif self.kind == "conv_transpose":
            w = m.reshape(self.groups, shape[1], shape[0] // self.groups, -1).swapaxes(1, 2).reshape(shape)
        else:
            w = _times(m[0].T if self.transposed else m[0], 1 / self.alpha)
        stored: NDArray[Any] = w.transpose(np.argsort(self.order))
        return stored

    def vector(self, array: NDArray[Any]) -> NDArray[Any]:
        """A stored bias as vectors of shape (groups, out); a single number counts for every feature."""
        flat = np.broadcast_to(array.reshape(-1), (self.features[1],))
        return _times(flat, self.beta).reshape(self.groups, -1)

    def unvector(self, v: NDArray[Any], array_shape: Sequence[int]) -> NDArray[Any]:
        """The stored bias that has these vectors: of shape `array_shape`, stretched where that was one number."""
        flat = _times(v.reshape(-1), 1 / self.beta)
        if math.prod(array_shape) == flat.size:
            return flat.reshape(tuple(array_shape))
        return flat.reshape((*[1] * (len(array_shape) - 1 - self._behind), -1, *[1] * self._behind))

    def columns_of_inputs(self, indices: Iterable[int]) -> tuple[Index, Index]:
        """Where input features stand in the matrices.

        Returns:
            The group of each, shape (m,), and its columns within that group, shape (m, kernel positions).
        """
        group, place = np.divmod(np.asarray(list(indices), dtype=np.int64), self.features[0] // self.groups)
        positions = math.prod(self.kernel)
        return group, place[:, None] * positions + np.arange(positions)

    def draw(self, out_shape: Sequence[int], rng: np.random.Generator, limit: int) -> Positions:
        """Random positions of an output of this shape, each once, at most `limit`."""
        shape = list(out_shape)
        del shape[self.out_axis]
        count = math.prod(shape)
        rows = np.arange(count) if count <= limit else np.sort(rng.choice(count, limit, replace=False, shuffle=False))
        return Positions(rows.astype(np.int64, copy=False), tuple(shape))

    def fits(self, x_shape: Sequence[int], positions: Positions) -> bool:
        """Whether an input of this shape has the rows that positions of an output count over."""
        if self.kind in ("gemm", "matmul"):
            rows = list(x_shape)
            del rows[self.x_axis]
            return tuple(rows) == positions.shape
        return len(x_shape) == len(positions.shape) + 1 and x_shape[0] == positions.shape[0]

    def patches(self, x: NDArray[Any], positions: Positions) -> Floats:
        """The patches that the product reads at these positions of the output; shape (groups, n, columns).

        Args:
            x: Values of `x`, whole.
            positions: Positions of the output.
        """
        if self.kind in ("gemm", "matmul"):
            return _rows(x, self.x_axis, positions)[None]
        groups = self.groups
        sample, *positions_along = np.unravel_index(positions.rows, positions.shape)
        inside = np.ones((len(sample), 1), dtype=bool)
        flat = np.zeros((len(sample), 1), dtype=np.int64)
        for axis, place in enumerate(positions_along):
            length = x.shape[axis + 2]
            seen, hits = self._reach(axis, place, length, positions.shape[axis + 1])
            flat = (flat[:, :, None] * length + np.clip(seen, 0, length - 1)[:, None]).reshape(len(sample), -1)
            inside = (inside[:, :, None] & hits[:, None]).reshape(len(sample), -1)
        space = x.reshape(*x.shape[:2], -1)
        if groups == 1:
            found = space[sample[:, None], :, flat]  # (n, kernel positions, channels)
            found[~inside] = 0
            split = found.swapaxes(1, 2)[None]
        else:  # channels first before the gathering: several times faster than splitting them after it
            at = (sample[:, None] * space.shape[2] + flat).ravel()
            found = space.swapaxes(0, 1).reshape(x.shape[1], -1).take(at, axis=1)
            found[:, ~inside.ravel()] = 0
            split = found.reshape(groups, -1, *flat.shape).swapaxes(1, 2)
        return np.ascontiguousarray(split, dtype=np.float32).reshape(groups, len(sample), -1)

    def targets(self, y: NDArray[Any], positions: Positions) -> Floats:
        """The values at these positions of the output; shape (groups, n, out).

        Args:
            y: Values of `output`, whole.
            positions: Which positions.
        """
        found = _rows(y, self.out_axis, positions)
        return np.ascontiguousarray(found.reshape(len(found), self.groups, -1).swapaxes(0, 1))

    @property
    def _behind(self) -> int:
        """Axes of the output after its feature axis."""
        return len(self.kernel) if self.kind.startswith("conv") else -1 - self.out_axis

    def _reach(self, axis: int, place: Index, length: int, out: int) -> tuple[Index, NDArray[np.bool_]]:
        """Input positions that output positions read through each kernel position, along one spatial axis.

        Args:
            axis: Which axis of space.
            place: Output positions; shape (n,).
            length: Length of the input there.
            out: Length of the output there.

        Returns:
            Input positions, and whether they are within the input; shape (n, kernel positions).
        """
        if self.kind == "conv":
            starts, stride = self.starts(axis, length, out)
            at = place[:, None] * stride + np.array(starts, dtype=np.int64)
            return at, (at >= 0) & (at < length)
        stride, dilation = _per_axis(self.node, "strides", axis, 1), _per_axis(self.node, "dilations", axis, 1)
        offsets = np.arange(self.kernel[axis], dtype=np.int64) * dilation
        span, fit = (self.kernel[axis] - 1) * dilation + 1, self.node.attribute("auto_pad", "NOTSET")
        start = _per_axis(self.node, "pads", axis, 0) if fit == "NOTSET" else 0
        if padded_by_output(self.node):
            extra = _per_axis(self.node, "output_padding", axis, 0)
            start = max(stride * (length - 1) + extra + span - out, 0) // 2
        at, hole = np.divmod(place[:, None] + start - offsets, stride)
        return at, (hole == 0) & (at >= 0) & (at < length)

    def size(self, axis: int, length: int) -> int:
        """Length of a convolution's output along one axis of space, for one of its input."""
        stride, dilation = _per_axis(self.node, "strides", axis, 1), _per_axis(self.node, "dilations", axis, 1)
        fit, span = self.node.attribute("auto_pad", "NOTSET"), (self.kernel[axis] - 1) * dilation + 1
        if fit in ("SAME_UPPER", "SAME_LOWER"):
            return -(-length // stride)
        pads = self.node.attribute("pads") if fit == "NOTSET" else None
        padding = int(pads[axis] + pads[axis + len(self.kernel)]) if pads else 0
        return (length + padding - span) // stride + 1

    def starts(self, axis: int, length: int, out: int) -> tuple[list[int], int]:
        """Input positions of the first output position of a convolution along one spatial axis.

        Args:
            axis: Which axis of space.
            length: Length of the input there.
            out: Length of the output there.

        Returns:
            The input position at each kernel position, outside the input where that is padding, and the stride.
        """
        stride, dilation = _per_axis(self.node, "strides", axis, 1), _per_axis(self.node, "dilations", axis, 1)
        span, fit = (self.kernel[axis] - 1) * dilation + 1, self.node.attribute("auto_pad", "NOTSET")
        start = _per_axis(self.node, "pads", axis, 0) if fit == "NOTSET" else 0
        if fit in ("SAME_UPPER", "SAME_LOWER"):
            start = (max((out - 1) * stride + span - length, 0) + (fit == "SAME_LOWER")) // 2
        return [k * dilation - start for k in range(self.kernel[axis])], stride


def _rows(array: NDArray[Any], axis: int, positions: Positions) -> Floats:
    """Features at these positions; shape (n, features)."""
    axis %= array.ndim
    trailing = math.prod(array.shape[axis + 1 :])
    block, place = np.divmod(positions.rows, max(trailing, 1))
    flat = array.reshape(math.prod(array.shape[:axis]), array.shape[axis], trailing)
    return np.ascontiguousarray(flat[block, :, place], dtype=np.float32)


def _times(array: NDArray[Any], factor: float) -> NDArray[Any]:
    """The product in the array's own type; the array itself where there is nothing to do."""
    scaled: NDArray[Any] = array if factor == 1 else array * array.dtype.type(factor)
    return scaled


def padded_by_output(node: Node) -> bool:
    """Whether a transposed convolution's padding follows from the size of its output."""
    same = node.attribute("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")
    return same or node.attribute("output_shape") is not None


def _per_axis(node: Node, name: str, axis: int, default: int) -> int:
    values = node.attribute(name)
    return int(values[axis]) if values else default
