"""Along which axes product operators read stored weights: what a row, a column and a group of a pattern are.

Every product sums over one axis of its weight, the *reduction* axis: input channels of a convolution (at each kernel
position by itself), rows or columns of a matrix. What N:M patterns and blocks mean is counted along it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from onnxprune.coupling.coupling import Coupling
from onnxprune.graph.graph import Node, Value
from onnxprune.model.tensors import FLOATS


@dataclass(frozen=True)
class Layout:
    """How a stored weight is read.

    Attributes:
        inputs: The axis that is summed over.
        outputs: The axis of output features; None where there is none (a vector).
        input_blocks: Blocks that the reduction axis falls into, each summed over by itself.
        output_blocks: The same for the axis of output features.
    """

    inputs: int
    outputs: int | None
    input_blocks: int = 1
    output_blocks: int = 1

    def runs(self, array: NDArray[Any]) -> NDArray[Any]:
        """A view of shape (before, length, after): what is summed over lies along the middle axis."""
        shape, axis = array.shape, self.inputs
        length = shape[axis] // self.input_blocks
        return array.reshape(math.prod(shape[:axis]) * self.input_blocks, length, math.prod(shape[axis + 1 :]))

    def matrices(self, array: NDArray[Any]) -> NDArray[Any]:
        """A view of shape (..., outputs, inputs)."""
        shape, axes = list(array.shape), [self.inputs]
        if self.outputs is None:
            return array[None]
        blocks = {self.inputs: self.input_blocks, self.outputs: self.output_blocks}
        split: list[int] = []
        for axis, length in enumerate(shape):
            split += [blocks[axis], length // blocks[axis]] if axis in blocks else [length]
        axes = [axis + sum(other <= axis for other in blocks) for axis in (self.outputs, self.inputs)]
        rest = [axis for axis in range(len(split)) if axis not in axes]
        found: NDArray[Any] = array.reshape(split).transpose(rest + axes)
        return found


@dataclass(frozen=True)
class Weight:
    """A constant that products read.

    Attributes:
        value: The constant.
        layout: How they read it; None where they disagree or where it cannot be told, with the reason.
        recurrent: Whether it belongs to a recurrent layer.
        node: A product that reads it.
        why: Why there is no layout.
    """

    value: Value
    layout: Layout | None
    recurrent: bool
    node: Node
    why: str = ""


_Reading = Callable[[Node, int, Sequence[int]], "Layout | str | None"]


def _conv(operand: int) -> _Reading:
    def read(node: Node, i: int, shape: Sequence[int]) -> Layout | None:
        groups = int(node.attribute("group", 1))
        return Layout(1, 0, 1, groups) if i == operand and len(shape) > 2 and shape[0] % groups == 0 else None

    return read


def _conv_transpose(node: Node, i: int, shape: Sequence[int]) -> Layout | None:
    groups = int(node.attribute("group", 1))
    return Layout(0, 1, groups, 1) if i == 1 and len(shape) > 2 and shape[0] % groups == 0 else None


def _gemm(left: int, right: int) -> _Reading:
    def read(node: Node, i: int, shape: Sequence[int]) -> Layout | None:
        if len(shape) != 2 or i not in (left, right):
            return None
        first = bool(node.attribute("transA", 0)) if i == left else not node.attribute("transB", 0)
        return Layout(0, 1) if first else Layout(1, 0)

    return read


def _matmul(left: int, right: int) -> _Reading:
    def read(node: Node, i: int, shape: Sequence[int]) -> Layout | str | None:
        if i not in (left, right) or not shape:
            return None
        if node.attribute("transBatchA" if i == left else "transBatchB", 0):
            return "batch axes are exchanged with those of the matrix"
        last = len(shape) - 1
        if last == 0:
            return Layout(0, None)
        turned = bool(node.attribute("transA" if i == left else "transB", 0))
        return Layout(last, last - 1) if (i == left) != turned else Layout(last - 1, last)

    return read


def _attention(node: Node, i: int, shape: Sequence[int]) -> Layout | None:
    return Layout(0, 1) if i == 1 and len(shape) == 2 else None


def _recurrent(node: Node, i: int, shape: Sequence[int]) -> Layout | None:
    return Layout(2, 1) if i in (1, 2) and len(shape) == 3 else None


def _einsum(node: Node, i: int, shape: Sequence[int]) -> Layout | str | None:
    equation = node.attribute("equation", b"")
    text = (equation.decode() if isinstance(equation, bytes) else str(equation)).replace(" ", "")
    terms, arrow, result = text.partition("->")
    operands = terms.split(",")
    if not arrow or "." in text or i >= len(operands) or len(operands[i]) != len(shape):
        return "an equation without explicit letters"
    mine = operands[i]
    summed = [axis for axis, letter in enumerate(mine) if letter not in result]
    made = [
        axis
        for axis, letter in enumerate(mine)
        if letter in result and all(letter not in other for k, other in enumerate(operands) if k != i)
    ]
    if not summed:
        return None
    return Layout(summed[-1], made[-1] if made else None)


_READINGS: dict[str, _Reading] = {
    "Conv": _conv(1),
    "FusedConv": _conv(1),
    "NhwcFusedConv": _conv(1),
    "NhwcConv": _conv(1),
    "ConvInteger": _conv(1),
    "DeformConv": _conv(1),
    "QLinearConv": _conv(3),
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm(0, 1),
    "FusedGemm": _gemm(0, 1),
    "QGemm": _gemm(0, 3),
    "MatMul": _matmul(0, 1),
    "FusedMatMul": _matmul(0, 1),
    "MatMulInteger": _matmul(0, 1),
    "MatMulIntegerToFloat": _matmul(0, 1),
    "DynamicQuantizeMatMul": _matmul(0, 1),
    "QLinearMatMul": _matmul(0, 3),
    "Attention": _attention,
    "QAttention": _attention,
    "Einsum": _einsum,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "DynamicQuantizeLSTM": _recurrent,
}
_RECURRENT = {"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"}


def weights(coupling: Coupling) -> list[Weight]:
    """Constants that a product operator multiplies with, straight or through layout and type changes."""
    found: dict[str, list[Weight]] = {}
    for value in coupling.graph.constants():
        quantised = value in coupling.ties.quantised
        if any(d != 1 for d in value.shape or []) and (value.elem_type in FLOATS or quantised):
            found.setdefault(value.key, []).extend(_read(value))
    return [_agreed(readings) for readings in found.values() if readings]


def _read(value: Value) -> Iterator[Weight]:
    """How each product reads a constant."""
    axes = tuple(range(len(value.shape or [])))
    todo: list[tuple[Value, tuple[int | None, ...]]] = [(value, axes)]
    while todo:
        at, origin = todo.pop()
        shape = [d for d in at.shape or [] if isinstance(d, int)]
        if len(shape) != len(origin):
            continue
        for node, i in at.consumers:
            reading = _READINGS.get(node.op_type)
            seen = reading(node, i, shape) if reading is not None else None
            if seen is not None:
                recurrent = node.op_type in _RECURRENT
                if isinstance(seen, str):
                    yield Weight(value, None, recurrent, node, seen)
                    continue
                back = _back(seen, origin)
                yield Weight(value, back, recurrent, node, "" if back else "its axes are merged on the way")
            elif i == 0 and node.op_type in _THROUGH and node.outputs and node.outputs[0] is not None:
                todo.append((node.outputs[0], _THROUGH[node.op_type](node, shape, origin)))


def _back(seen: Layout, origin: Sequence[int | None]) -> Layout | None:
    """The layout in terms of the stored axes; None where the axis of inputs is none of them by itself."""
    inputs = origin[seen.inputs]
    outputs = origin[seen.outputs] if seen.outputs is not None else None
    if inputs is None:
        return None
    return Layout(inputs, outputs, seen.input_blocks, seen.output_blocks if outputs is not None else 1)


def _agreed(readings: Sequence[Weight]) -> Weight:
    """What all readers of one constant have in common."""
    first = readings[0]
    if all(r.layout == first.layout for r in readings):
        return first
    return Weight(first.value, None, first.recurrent, first.node, "it is read along different axes")


Origin = tuple["int | None", ...]


def _same(node: Node, shape: Sequence[int], origin: Origin) -> Origin:
    return origin


def _transposed(node: Node, shape: Sequence[int], origin: Origin) -> Origin:
    perm = node.attribute("perm") or range(len(origin))[::-1]
    return tuple(origin[i] for i in perm)


def _reshaped(node: Node, shape: Sequence[int], origin: Origin) -> Origin:
    """An axis is still there where as many elements lie before it and it is as long."""
    out = node.outputs[0]
    new = [d for d in (out.shape if out is not None else None) or [] if isinstance(d, int)]
    old = {(math.prod(shape[:axis]), length): origin[axis] for axis, length in enumerate(shape) if length > 1}
    return tuple(old.get((math.prod(new[:axis]), length)) for axis, length in enumerate(new))


_THROUGH: dict[str, Callable[[Node, Sequence[int], Origin], Origin]] = {
    "Identity": _same,
    "Cast": _same,
    "DequantizeLinear": _same,
    "Transpose": _transposed,
    "Reshape": _reshaped,
    "Squeeze": _reshaped,
    "Unsqueeze": _reshaped,
    "Flatten": _reshaped,
}
