"""Shapes of the outputs of one node, where `onnx.shape_inference` does not tell them.

`outputs` asks the operator itself (`ops.registry.output_shape`); the functions after it are what such declarations are
made of. A length is a number, the text of a free one (`lengths`), or None where it is not known.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from onnxprune.graph.graph import Node
from onnxprune.graph.lengths import Dim, floor_divide, of_dim, product, to_dim
from onnxprune.graph.operators import Shape, ShapeFunction, operator_of
from onnxprune.graph.polynomials import Length


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
        if len(set(numbers)) > 1:
            raise ValueError("lengths do not broadcast")
        out.append(numbers[0] if numbers else (named[0] if named and len(set(named)) == 1 else (None if named else 1)))
    return out


def broadcast_all(node: Node, shapes: list[Shape]) -> list[Shape]:
    """One output with the shape that all inputs broadcast to."""
    if node.opset < 7 and node.attribute("broadcast", 0):
        raise ValueError("broadcasts as operators did before opset 7")
    return [_joined([need(shape) for shape in shapes])]


def product_shape(left: int, right: int) -> ShapeFunction:
    """A product of matrices with batch axes, transposed where attributes say so."""

    def function(node: Node, shapes: list[Shape]) -> list[Shape]:
        a, b = list(need(shapes[left])), list(need(shapes[right]))
        if len(a) < 2 or len(b) < 2:
            raise ValueError("a factor is no matrix")
        a, b = _transposed(node, "A", a), _transposed(node, "B", b)
        _agree(a[-1], b[-2])
        return [[*_joined([a[:-2], b[:-2]]), a[-2], b[-1]]]

    return function


def _agree(a: Dim, b: Dim) -> None:
    """Raises ValueError for two numbers that should be equal and are not: nothing that can run."""
    if isinstance(a, int) and isinstance(b, int) and a != b:
        raise ValueError("lengths differ")


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
        _agree(x[-1 if node.attribute("channels_last", 0) else 1], product_of(w[1], node.attribute("group", 1)))
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
    for i, (dim, size) in enumerate(zip(space, kernel, strict=True)):
        if not isinstance(size, int) or node.attribute("ceil_mode", 0):
            out.append(None)
        elif auto.startswith("SAME"):
            out.append(_steps(dim, strides[i] - 1, strides[i], 0))
        else:
            padded = 0 if auto == "VALID" else pads[i] + pads[i + n]
            out.append(_steps(dim, padded - dilations[i] * (size - 1) - 1, strides[i], 1))
    return out


@functools.lru_cache(maxsize=1024)
def _steps(dim: Dim, more: int, stride: int, first: int) -> Dim:
    """``floor((dim + more) / stride) + first``."""
    length = of_dim(dim)
    if length is None:
        return None
    return to_dim(floor_divide(length + Length.constant(more), Length.constant(stride)) + Length.constant(first))


def pooling_shape(node: Node, shapes: list[Shape]) -> list[Shape]:
    """A pooling over all of the spatial axes, with a window of fixed size."""
    x = need(shapes[0])
    shape: Shape = [*x[:2], *windows(node, x[2:], node.attribute("kernel_shape"))]
    return [shape for _ in node.outputs]


def transposed_convolution_shape(node: Node, shapes: list[Shape]) -> list[Shape]:
    """A transposed convolution with a kernel of shape (in, out / group, ...)."""
    x, w = need(shapes[0]), need(shapes[1])
    n, stated = len(x) - 2, node.attribute("output_shape")
    strides = node.attribute("strides") or [1] * n
    dilations = node.attribute("dilations") or [1] * n
    pads = node.attribute("pads") or [0] * (2 * n)
    added = node.attribute("output_padding") or [0] * n
    if node.attribute("auto_pad", "NOTSET") != "NOTSET" or stated or not isinstance(w[1], int):
        raise ValueError("lengths are stated in another way")
    _agree(x[1], w[0])
    out: list[Dim] = [x[0], w[1] * node.attribute("group", 1)]
    for i, (dim, size) in enumerate(zip(x[2:], w[2:], strict=True)):
        if not isinstance(size, int):
            raise ValueError("kernel unknown")
        more = added[i] + dilations[i] * (size - 1) + 1 - pads[i] - pads[i + n] - strides[i]
        out.append(sum_of(product_of(dim, strides[i]), more))
    return [out]


def sum_of(*parts: Dim | int) -> Dim:
    """A sum of lengths and numbers, which may be below 0."""
    lengths = [Length.constant(p) if isinstance(p, int) else of_dim(p) for p in parts]
    return None if None in lengths else to_dim(functools.reduce(Length.__add__, [x for x in lengths if x is not None]))


def product_of(*parts: Dim) -> Dim:
    """A product of lengths."""
    return to_dim(product(parts))
