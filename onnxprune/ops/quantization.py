"""Quantised operators: integers stand for ``(q - zero_point) * scale``.

Scales and zero points with one entry a channel follow their channel. A masked weight is one that equals its zero
point, so what is called *zero* on a quantised value means *equal to its zero point*: `is_zero_at` and `state_zero` see
to it that only operators that read the value with the same zero point rely on this.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import TensorProto

from onnxprune.graph.graph import Axis, Node, Value
from onnxprune.graph.node_shapes import convolution_shape, like_first
from onnxprune.graph.operators import Copies, operator_of
from onnxprune.ops.conv import convolution, convolution_macs, convolution_weights
from onnxprune.ops.linear import is_constant, product
from onnxprune.ops.op import Op, arange
from onnxprune.ops.registry import facts_of, macs, output_shape, rule, weights

MS = "com.microsoft"
_STEPS = 16


def is_zero_at(op: Op, index: int, zero_point: int) -> bool:
    """Whether *zero* means the same for an input's maker as for this operator, which reads it with a zero point."""
    value: Value | None = op.input(index)
    here = op.node.inputs[zero_point] if op.has(zero_point) else None
    for _ in range(_STEPS):
        if value is None:
            return False
        if value.tensor is not None:
            return True
        node = value.producer
        if node is None:
            return False
        if node.op_type == "DynamicQuantizeLinear":
            return here is not None and here is node.outputs[2]
        there = operator_of(node).zero_point
        if there is not None:
            return _equal(op, here, node.inputs[there] if there < len(node.inputs) else None)
        if not _copies(node):
            return _literal(op, here)
        value = node.inputs[0]
    return False


def _copies(node: Node) -> bool:
    """Whether the node only copies the quantised numbers of its first input."""
    operator = operator_of(node)
    return operator.copies in (Copies.ALL, Copies.SOME) and not operator.casts


def state_zero(op: Op, out: Axis, zero_point: int | None, *sources: Axis, any_of: bool = False) -> None:
    """States that a quantised output equals its zero point where its sources are zero, if all readers understand it."""
    here = op.node.inputs[zero_point] if zero_point is not None and op.has(zero_point) else None
    if (zero_point is not None and _literal(op, here)) or _understood(out.value, _STEPS):
        op.keep_zero(out, *sources, any_of=any_of)
    else:
        op.lose_zero(out)


def _understood(value: Value, steps: int) -> bool:
    """Whether everything that reads the value knows its zero point."""

    def fine(node: Node) -> bool:
        if _copies(node):
            return steps > 0 and all(_understood(o, steps - 1) for o in node.outputs if o is not None)
        return operator_of(node).reads_zero_points

    leaves = value.scope.parent is not None and value.is_returned
    return not leaves and all(fine(node) for node, _ in value.consumers)


def _literal(op: Op, zero_point: Value | None) -> bool:
    """Whether a zero point is the number zero."""
    data = None if zero_point is None else op.ties.data.get(zero_point)
    return zero_point is None or (data is not None and all(isinstance(e, int) and e == 0 for e in data.flat))


def _equal(op: Op, a: Value | None, b: Value | None) -> bool:
    if a is not None and b is not None:
        if a.key == b.key:
            return True
        left, right = op.ties.data.get(a), op.ties.data.get(b)
        return left is not None and right is not None and list(left.flat) == list(right.flat)
    return _literal(op, a) and _literal(op, b)


def follow(op: Op, axis: Axis, *indices: int) -> None:
    """Ties scales and zero points that have an entry for each index of `axis`; one entry serves all."""
    for i in indices:
        if not op.has(i) or _is_single(op.input(i)):
            continue
        long = [a for a in op.input(i).axes() if a.length != 1]
        if len(long) != 1 or long[0].length != axis.length:
            raise ValueError(f"input {i} fits no axis")
        op.tie(long[0], axis)


def single(op: Op, *indices: int) -> None:
    """Raises ValueError, so that the node is pinned, unless these inputs hold one number each."""
    for i in indices:
        if op.has(i) and not _is_single(op.input(i)):
            raise ValueError(f"input {i} has more than one entry")


def _is_single(value: Value) -> bool:
    return value.shape is not None and all(d == 1 for d in value.shape)


def mark(op: Op, weight: int, scale: int, zero_point: int, axis: int) -> None:
    """Records the scale and zero point of a constant weight, also of one that is looked up in before it is scaled."""
    w = op.input(weight)
    if w.tensor is None and op.has(scale) and _is_single(op.input(scale)):
        w = _copied(w)
    if w.tensor is not None and op.has(scale) and w not in op.ties.quantised:
        op.quantised(w, op.input(scale), op.node.inputs[zero_point] if op.has(zero_point) else None, axis)


def _copied(value: Value) -> Value:
    """What a value holds elements of: the first that is no copy of others."""
    while value.tensor is None and value.producer is not None and _copies(value.producer):
        source = value.producer.inputs[0]
        if source is None:
            break
        value = source
    return value


facts_of("QuantizeLinear", zero_point=2, quantises=True)
facts_of("DynamicQuantizeLinear", quantises=True)
facts_of("DequantizeLinear ConvInteger MatMulInteger", reads_zero_points=True)
facts_of("ConvInteger MatMulInteger", elem_type=TensorProto.INT32)
facts_of("QLinearConv QLinearMatMul", zero_point=7)


@rule("QuantizeLinear DequantizeLinear")
def quantize(op: Op) -> None:
    """Element by element; scales and zero points of a channel or a block follow it."""
    x, out = op.input(0), op.output()
    rank = len(x.shape or [])
    along = op.attr("axis", 1)
    along = along % rank if -rank <= along < rank else 0
    blocked = bool(op.attr("block_size", 0)) and (op.input(1).rank or 0) == rank
    for axis in x.axes():
        op.tie(axis, out.axis(axis.position))
        if op.type == "QuantizeLinear":
            state_zero(op, out.axis(axis.position), 2, axis)
        elif is_zero_at(op, 0, 2):
            op.keep_zero(out.axis(axis.position), axis)
    if blocked:
        for value in op.inputs[1:]:
            _follow_blocks(op, x, value, along, op.attr("block_size"))
    elif rank:
        follow(op, x.axis(along), 1, 2)
    if op.type == "DequantizeLinear":
        mark(op, 0, 1, 2, along)


rule("QuantizeLinear DequantizeLinear", domain=MS)(quantize)
facts_of("QuantizeLinear", domain=MS, zero_point=2, type_of=(2,))
facts_of("DequantizeLinear", domain=MS, reads_zero_points=True, type_of=(1,))
facts_of("QLinearConv", domain=MS, zero_point=7)
output_shape("QuantizeLinear DequantizeLinear", domain=MS)(like_first)
output_shape("QLinearConv", domain=MS)(convolution_shape(0, 3))
macs("QLinearConv", domain=MS)(convolution_macs(3))
weights("QLinearConv", domain=MS)(convolution_weights(3))


def _follow_blocks(op: Op, x: Value, parameter: Value, along: int, size: int) -> None:
    """Along one axis a parameter serves `size` indices, which go together."""
    for axis in x.axes():
        own = parameter.axis(axis.position)
        if axis.position == along:
            op.link((axis, arange(axis) // size), (own, arange(own)))
        else:
            op.tie(axis, own)


@rule("DynamicQuantizeLinear")
def dynamic_quantize(op: Op) -> None:
    """Element by element; the range always holds zero, so channels that are zero once masked do not move it."""
    x, out = op.input(0), op.output()
    for axis in x.axes():
        op.tie(axis, out.axis(axis.position))
        op.sum_over(axis)
        state_zero(op, out.axis(axis.position), None, axis)


@rule("QLinearConv")
def qlinear_conv(op: Op) -> None:
    """Conv on quantised values; the weight's scales and zero points follow its output channels."""
    quantised_convolution(op)


@rule("QLinearConv", domain=MS)
def qlinear_conv_of_rows(op: Op) -> None:
    """QLinearConv whose channels may come last; the layout of the weight is the same."""
    quantised_convolution(op, -1 if op.attr("channels_last", 0) else 1)


def quantised_convolution(op: Op, place: int = 1) -> None:
    """Ties of QLinearConv with channels on an axis."""
    x, w, out = op.input(0), op.input(3), op.output()
    single(op, 1, 2, 6, 7)
    _needs_zero(op, (0, 2), (3, 5))
    bias = op.input(8) if op.has(8) else None
    convolution(op, x, w, bias, out, place=place)
    follow(op, w.axis(0), 4, 5)
    state_zero(op, out.axis(place), 7, w.axis(0), *([] if bias is None else [bias.axis(0)]))
    op.lose_zero(out.axis(0))
    mark(op, 3, 4, 5, 0)


@rule("ConvInteger")
def conv_integer(op: Op) -> None:
    """Conv on integers; the weight's zero point follows its output channels."""
    x, w = op.input(0), op.input(1)
    single(op, 2)
    _needs_zero(op, (0, 2), (1, 3))
    convolution(op, x, w, None, op.output())
    follow(op, w.axis(0), 3)
    _mark_by_product(op, 1, 3, 0)


@rule("MatMulInteger")
def matmul_integer(op: Op) -> None:
    """MatMul on integers; zero points of rows and columns follow them."""
    quantised_product(op, 0, 1, (2,), (3,))
    _mark_by_product(op, 1, 3, -1)


@rule("QLinearMatMul")
def qlinear_matmul(op: Op) -> None:
    """MatMul on quantised values; scales and zero points of rows and columns follow them."""
    quantised_product(op, 0, 3, (1, 2), (4, 5))
    out = op.output()
    single(op, 6, 7)
    for axis, source in ((out.axis(-2), op.input(0).axis(-2)), (out.axis(-1), op.input(3).axis(-1))):
        state_zero(op, axis, 7, source)
    mark(op, 3, 4, 5, -1)


def quantised_product(op: Op, a: int, b: int, of_a: Sequence[int], of_b: Sequence[int]) -> None:
    """Ties of a product of two quantised matrices; the last of `of_a` and `of_b` is the zero point."""
    left, right = op.input(a), op.input(b)
    if min(left.rank or 0, right.rank or 0) < 2:
        raise ValueError("a factor is no matrix")
    product(op, left, right, op.output())
    if not _any_zero(op, (a, of_a[-1]), (b, of_b[-1])):
        for axis in (left.axis(-1), right.axis(-2)):
            op.pin(axis, f"{op.node.label} sums over what may not be zero: zero points of the factors are not known")
        for axis in op.output().axes():
            op.lose_zero(axis)
    if not is_zero_at(op, a, of_a[-1]):
        op.lose_zero(op.output().axis(-2))
    follow(op, left.axis(-2), *of_a)
    follow(op, right.axis(-1), *of_b)


def _any_zero(op: Op, *factors: tuple[int, int]) -> bool:
    """Whether a sum of products is exact: one factor is zero, and is known to be."""
    zero = [is_zero_at(op, i, z) for i, z in factors]
    return all(zero) or any(is_constant(op.input(i)) and z for (i, _), z in zip(factors, zero, strict=True))


def _needs_zero(op: Op, *factors: tuple[int, int]) -> None:
    """Raises ValueError where a sum of products is not known to be exact."""
    if not _any_zero(op, *factors):
        raise ValueError("zero points of the factors are not known")


def _mark_by_product(op: Op, weight: int, zero_point: int, axis: int) -> None:
    """Finds the weight's scale where the integer result is multiplied by it, as onnxruntime's quantiser writes it."""
    value: Value | None = op.output()
    for _ in range(4):
        users = [] if value is None else [node for node, _ in value.consumers]
        if len(users) != 1:
            break
        node = users[0]
        if node.op_type == "Mul":
            other = next((v for v in node.inputs if v is not value), None)
            scales = [other, *(other.producer.inputs if other is not None and other.producer is not None else [])]
            for scale in scales:
                if scale is not None and scale.tensor is not None and op.input(weight).tensor is not None:
                    point = op.node.inputs[zero_point] if op.has(zero_point) else None
                    op.quantised(op.input(weight), scale, point, axis)
                    return
            break
        value = node.outputs[0] if node.op_type in ("Cast", "Add") and node.outputs else None
    if op.input(weight).tensor is not None and op.has(zero_point):  # without a scale its zero is known all the same
        op.quantised(op.input(weight), op.output(), op.input(zero_point), axis)
