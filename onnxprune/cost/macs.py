"""Multiply-accumulates of one node, by operator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import NodeProto

from onnxprune.graph.graph import Axis, Node
from onnxprune.model.tensors import constants

_PRODUCTS = {"Gemm", "MatMul", "FusedMatMul", "FusedGemm", "MatMulInteger", "QLinearMatMul", "QGemm"}


def _mac_axes(node: Node) -> list[list[Axis]]:
    """Axes whose lengths multiply, term by term, to the node's multiply-accumulates."""
    values = node.inputs
    out = node.outputs[0] if node.outputs else None
    if out is None or any(v is None for v in values[:2]) or len(values) < 2:
        return []
    x, w = values[0], values[1]
    assert x is not None and w is not None
    if node.op_type in ("Conv", "FusedConv", "ConvInteger", "DeformConv", "NhwcFusedConv"):
        return [out.axes() + w.axes()[1:]]
    if node.op_type == "QLinearConv" and values[3] is not None:
        return [out.axes() + values[3].axes()[1:]]
    if node.op_type == "ConvTranspose":
        return [x.axes() + w.axes()[1:]]
    if node.op_type in _PRODUCTS:
        return [[*out.axes(), x.axis(-2 if node.attribute("transA", 0) and len(x.shape or []) > 1 else -1)]]
    if node.op_type in ("LSTM", "GRU", "RNN") and values[2] is not None:
        return [x.axes()[:2] + w.axes(), x.axes()[:2] + values[2].axes()]
    return []


Shape = tuple[int, ...]


def macs_from_shapes(proto: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> int | None:
    """Multiply-accumulates of the main graph's convolutions, matrix products, recurrent layers and attention.

    Bodies of If, Loop and Scan are not counted: how often they run is not known.

    Args:
        proto: The model; its weights are not read.
        shapes: Shapes of inputs and intermediate values by name; those of constants need not be given.

    Returns:
        The sum, or None where a shape that it needs is missing.
    """
    known: dict[str, Sequence[int]] = {**shapes, **{n: t.dims for s, n, t in constants(proto) if not s}}
    total = 0
    for node in proto.graph.node:
        if not is_heavy(node):
            continue
        try:
            total += _COUNTERS[node.op_type](_Call(node, known))
        except (_UnknownShapeError, IndexError, ValueError):
            return None
    return total


def is_heavy(node: NodeProto) -> bool:
    """Whether a node's multiply-accumulates are counted."""
    return node.op_type in _COUNTERS and node.domain in ("", "ai.onnx", "com.microsoft", "com.ms.internal.nhwc")


class _UnknownShapeError(Exception):
    """A shape that a count needs is not known."""


@dataclass(frozen=True)
class _Call:
    """One node with the shapes of what it reads and writes."""

    node: NodeProto
    shapes: Mapping[str, Sequence[int]]

    def has(self, position: int) -> bool:
        return position < len(self.node.input) and bool(self.node.input[position])

    def input(self, position: int) -> Shape:
        return self._shape(self.node.input[position] if self.has(position) else "")

    def output(self, position: int = 0) -> Shape:
        return self._shape(self.node.output[position])

    def flag(self, name: str) -> int:
        return next((a.i for a in self.node.attribute if a.name == name), 0)

    def _shape(self, name: str) -> Shape:
        if name not in self.shapes:
            raise _UnknownShapeError(name)
        return tuple(self.shapes[name])


def _convolution(weight: int) -> Callable[[_Call], int]:
    """Every output element takes one kernel: its input channels per group times its window."""
    return lambda call: math.prod(call.output()) * math.prod(call.input(weight)[1:])


def _transposed_convolution(call: _Call) -> int:
    """Every input element is spread by one kernel."""
    return math.prod(call.input(0)) * math.prod(call.input(1)[1:])


def _product(call: _Call) -> int:
    """Every output element takes the length of the axis that is summed over: the last of the left factor."""
    left = call.input(0)
    return math.prod(call.output()) * left[-2 if call.flag("transA") and len(left) > 1 else -1]


def _einsum(call: _Call) -> int:
    """The size of the whole index space: every distinct letter once."""
    equation = next((a.s.decode() for a in call.node.attribute if a.name == "equation"), "").replace(" ", "")
    sizes: dict[str, int] = {}
    for position, term in enumerate(equation.split("->")[0].split(",")):
        shape = call.input(position)
        hidden = len(shape) - len(term.replace("...", ""))
        # axes under an ellipsis are counted from its right end, as broadcasting does
        names = [f"...{i}" for i in range(hidden, 0, -1)]
        before, dots, after = term.partition("...")
        for letter, size in zip([*before, *(names if dots else []), *after], shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return math.prod(sizes.values())


def _recurrent(call: _Call) -> int:
    """Input and recurrent weights, once a step and sequence."""
    x = call.input(0)
    return x[0] * x[1] * (math.prod(call.input(1)) + math.prod(call.input(2)))


def _packed_attention(call: _Call) -> int:
    """Fused projection of (batch, length, width), then scores and weighted values."""
    batch, length, _ = call.input(0)
    projection = batch * length * math.prod(call.input(1))
    out = call.output()[-1]
    queries = (call.input(1)[1] - out) // 2  # packed as queries, keys, values
    return projection + batch * length * length * (queries + out)


def _attention(call: _Call) -> int:
    """Scores and weighted values of queries against keys: (batch, length, width) or (batch, heads, length, width)."""
    q, out = call.input(0), call.output()
    if len(q) == 5:  # queries, keys and values in one: (batch, length, heads, 3, head)
        return 2 * q[0] * q[1] * q[1] * q[2] * q[4]
    keyed = call.has(1)  # else keys and values are packed behind the queries
    keys = call.input(1) if keyed else q
    length = keys[1] if len(keys) == 5 else keys[-2]
    if len(call.node.output) > 1 and call.node.output[1] in call.shapes:
        length = call.output(1)[-2]  # the keys of this call and of those before it
    width = (q if keyed else out)[-1] + out[-1]
    return math.prod(q[:-1]) * length * width


_MICROSOFT_ATTENTION = {"MultiHeadAttention", "GroupQueryAttention"}


def _any_attention(call: _Call) -> int:
    fused = call.node.domain == "com.microsoft" and call.node.op_type not in _MICROSOFT_ATTENTION
    return _packed_attention(call) if fused else _attention(call)


_COUNTERS: dict[str, Callable[[_Call], int]] = {
    **dict.fromkeys(("Conv", "FusedConv", "NhwcFusedConv", "ConvInteger", "DeformConv"), _convolution(1)),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed_convolution,
    **dict.fromkeys(
        ("Gemm", "FusedGemm", "QGemm", "MatMul", "FusedMatMul", "MatMulInteger", "QLinearMatMul"), _product
    ),
    **dict.fromkeys(("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits", "MatMulBnb4"), _product),
    "Einsum": _einsum,
    **dict.fromkeys(("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"), _recurrent),
    **dict.fromkeys(("Attention", "QAttention", *_MICROSOFT_ATTENTION), _any_attention),
}
