"""Shapes of the outputs of one node, where `onnx.shape_inference` does not tell them.

`outputs` asks the operator itself (`ops.registry.output_shape`); the functions after it are what such declarations are
made of. `from_contents` and `parts` read what small operands hold. A length is a number, the name of a free one, or
None; what is unknown is None.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxprune.graph.contents import Data, Unknown
from onnxprune.graph.graph import Dim, Node, Value
from onnxprune.graph.operators import Shape, ShapeFunction, operator_of


def outputs(node: Node) -> list[Shape]:
    """Shape of each output; empty for an operator that declares none, or whose inputs tell too little."""
    function = operator_of(node).shape
    return [] if function is None else function(node, [v.shape if v is not None else None for v in node.inputs])


def elem_type(node: Node) -> int | None:
    """Element type of the outputs where it is not that of the first input."""
    operator = operator_of(node)
    given = [node.input(i) for i in operator.type_of if node.has(i)]
    return operator.elem_type or (given[0].elem_type if given else None)


def need(shape: Shape) -> list[Dim]:
    """A shape that must be known; raises ValueError where it is not."""
    if shape is None:
        raise ValueError("shape unknown")
    return shape


def like_first(node: Node, shapes: list[Shape]) -> list[Shape]:
    """One output with the shape of the first input."""
    return [list(need(shapes[0]))]


def broadcast_shape(*operands: int) -> ShapeFunction:
    """One output with the shape that some inputs broadcast to."""

    def function(node: Node, shapes: list[Shape]) -> list[Shape]:
        return [_joined([need(shapes[i]) for i in operands])]

    return function


def _joined(parts: Sequence[Sequence[Dim]]) -> list[Dim]:
    """Numpy's broadcasting."""
    rank = max(map(len, parts))
    out: list[Dim] = []
    padded: list[list[Dim]] = [[*[1] * (rank - len(p)), *p] for p in parts]
    for column in zip(*padded, strict=True):
        numbers = [d for d in column if isinstance(d, int) and d != 1]
        named = [d for d in column if d != 1]
        out.append(numbers[0] if numbers else (named[0] if named and len(set(named)) == 1 else (None if named else 1)))
    return out


def product_shape(left: int, right: int) -> ShapeFunction:
    """A product of matrices with batch axes, transposed where attributes say so."""

    def function(node: Node, shapes: list[Shape]) -> list[Shape]:
        a, b = list(need(shapes[left])), list(need(shapes[right]))
        if len(a) < 2 or len(b) < 2:
            raise ValueError("a factor is no matrix")
        a, b = _transposed(node, "A", a), _transposed(node, "B", b)
        return [[*_joined([a[:-2], b[:-2]]), a[-2], b[-1]]]

    return function


def _transposed(node: Node, side: str, dims: list[Dim]) -> list[Dim]:
    """Dims of a factor of FusedMatMul in the order of a plain product."""
    if node.attribute(f"transBatch{side}", 0):
        dims = [*dims[1:-1], dims[0], dims[-1]]
    if node.attribute(f"trans{side}", 0):
        dims = [*dims[:-2], dims[-1], dims[-2]]
    return dims


def gemm_shape(left: int, right: int) -> ShapeFunction:
    """A product of two matrices with the usual transpose attributes."""

    def function(node: Node, shapes: list[Shape]) -> list[Shape]:
        a, b = need(shapes[left]), need(shapes[right])
        return [[a[1 if node.attribute("transA", 0) else 0], b[0 if node.attribute("transB", 0) else 1]]]

    return function


def convolution_shape(x_at: int, w_at: int) -> ShapeFunction:
    """A convolution with a kernel of shape (out, in / group, ...), channels first or last."""

    def function(node: Node, shapes: list[Shape]) -> list[Shape]:
        x, w = need(shapes[x_at]), need(shapes[w_at])
        if node.attribute("channels_last", 0):
            return [[x[0], *windows(node, x[1:-1], w[2:]), w[0]]]
        return [[x[0], w[0], *windows(node, x[2:], w[2:])]]

    return function


def windows(node: Node, space: Sequence[Dim], kernel: Sequence[Dim]) -> list[Dim]:
    """Lengths of the spatial axes of what a sliding window gives."""
    n = len(space)
    strides = node.attribute("strides") or [1] * n
    dilations = node.attribute("dilations") or [1] * n
    pads = node.attribute("pads") or [0] * (2 * n)
    auto = node.attribute("auto_pad", "NOTSET")
    out: list[Dim] = []
    for i, (length, size) in enumerate(zip(space, kernel, strict=True)):
        if not isinstance(length, int) or not isinstance(size, int) or node.attribute("ceil_mode", 0):
            out.append(None)
        elif auto.startswith("SAME"):
            out.append(math.ceil(length / strides[i]))
        else:
            padded = length + (0 if auto == "VALID" else pads[i] + pads[i + n])
            out.append((padded - dilations[i] * (size - 1) - 1) // strides[i] + 1)
    return out


def dims(entries: Sequence[object]) -> list[Dim]:
    """Lengths for what a shape operand holds: -1 is not known, free entries have their name."""
    return [e if isinstance(e, int) and e >= 0 else (e.name if isinstance(e, Unknown) else None) for e in entries]


def from_contents(node: Node, data: dict[Value, Data]) -> list[Dim] | None:
    """Output shape of a node by the contents of its shape input."""
    if node.domain or len(node.inputs) == 0:
        return None
    source = node.inputs[0]
    operand = node.inputs[1] if len(node.inputs) > 1 else None
    if source is None:
        return None
    if node.op_type == "ConstantOfShape" and source in data:
        return dims(list(data[source].flat))
    if operand is None or operand not in data:
        return None
    entries = list(data[operand].flat)
    if node.op_type == "Reshape":
        return _reshaped(source.shape, entries, bool(node.attribute("allowzero", 0)))
    if node.op_type == "Expand" and source.shape is not None:
        rank = max(len(entries), len(source.shape))
        have: list[Dim] = [*[1] * (rank - len(source.shape)), *source.shape]
        want = [*[1] * (rank - len(entries)), *entries]
        return [h if h != 1 and (h is not None) else d for h, d in zip(have, dims(want), strict=True)]
    return None


def parts(node: Node) -> list[list[Dim]]:
    """Output shapes of a Split whose sizes only the run will tell."""
    source = node.inputs[0] if node.op_type == "Split" and not node.domain and node.inputs else None
    if source is None or not source.shape:
        return []
    axis = node.attribute("axis", 0) % len(source.shape)
    return [[None if i == axis else d for i, d in enumerate(source.shape)] for _ in node.outputs]


def _reshaped(shape: list[Dim] | None, entries: Sequence[object], allow_zero: bool) -> list[Dim]:
    out: list[Dim] = []
    for i, e in enumerate(entries):
        if e == 0 and not allow_zero:
            out.append(shape[i] if shape is not None and i < len(shape) else None)
        else:
            out.append(dims([e])[0])
    if shape is not None and -1 in entries:
        hole = entries.index(-1)
        rest: list[Dim] = [d for i, d in enumerate(out) if i != hole]
        total: list[Dim] = list(shape)
        for d in list(rest):
            if d is not None and not isinstance(d, int) and d in total:
                rest.remove(d)
                total.remove(d)
        if all(isinstance(d, int) for d in rest + total):
            count = math.prod(int(d or 0) for d in total)
            size = math.prod(int(d or 0) for d in rest)
            out[hole] = count // size if size else None
        elif all(isinstance(d, int) for d in rest) and len([d for d in total if not isinstance(d, int)]) == 1:
            size, count = math.prod(int(d or 0) for d in rest), math.prod(d for d in total if isinstance(d, int))
            if size == count:
                out[hole] = next(d for d in total if not isinstance(d, int))
    return out
