"""Quantised operators of onnxruntime's own domain, see `ops.quantization` for what zero means."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.graph.graph import Axis, Node, Value
from onnxprune.graph.node_shapes import broadcast_shape, gemm_shape, like_first, need, product_shape, windows
from onnxprune.graph.operators import Shape, WeightLayout
from onnxprune.ops.elementwise import broadcast
from onnxprune.ops.linear import contract, gemm_weights, general_product, matmul_weights, product, product_macs
from onnxprune.ops.op import Op, arange
from onnxprune.ops.quantization import follow, is_zero_at, mark, quantised_product, single, state_zero
from onnxprune.ops.recurrent import recurrent_macs, stays_zero
from onnxprune.ops.registry import facts_of, macs, output_shape, rule, weights
from onnxprune.ops.slicing import join
from onnxprune.ops.ties import NewShape

MS = "com.microsoft"


facts_of("QGemm", domain=MS, zero_point=8, type_of=(8, 1))
output_shape("QGemm", domain=MS)(gemm_shape(0, 3))
macs("QGemm", domain=MS)(product_macs)
weights("QGemm", domain=MS)(gemm_weights(0, 3))


@rule("QGemm", domain=MS)
def qgemm(op: Op) -> None:
    """Gemm on quantised values; without a scale for the result it is a float."""
    a, b, out = op.input(0), op.input(3), op.output()
    bias = op.input(6) if op.has(6) else None
    column = b.axis(0 if op.attr("transB", 0) else 1)
    single(op, 1, 2, 7, 8)
    general_product(op, a, b, bias)
    follow(op, column, 4, 5)
    sources = [column] if bias is None else [column, bias.axis(-1)]
    if op.has(7):
        state_zero(op, out.axis(1), 8, *sources)
    op.lose_zero(out.axis(0))
    mark(op, 3, 4, 5, column.position)


facts_of("QLinearAdd QLinearMul", domain=MS, zero_point=7)
output_shape("QLinearAdd QLinearMul", domain=MS)(broadcast_shape(0, 3))


@rule("QLinearAdd QLinearMul", domain=MS)
def qlinear_binary(op: Op) -> None:
    """Broadcast; sums are zero where both operands are, products where one is.

    A constant operand whose zero point is not 0 is not counted on: masked it may hold either.
    """
    a, b, out = op.input(0), op.input(3), op.output()
    single(op, 1, 2, 4, 5, 6, 7)
    sums = op.type == "QLinearAdd"
    agree = {
        value
        for value, i, z in ((a, 0, 2), (b, 3, 5))
        if is_zero_at(op, i, z) and (value.tensor is None or not op.has(z) or op.numbers(z) == [0])
    }
    mark(op, 0, 1, 2, 0)
    mark(op, 3, 4, 5, 0)
    for position, axes in enumerate(broadcast(op, [a, b], out)):
        mine = [axis for axis in axes if axis.value in agree]
        if len(mine) == 2 or (mine and not sums):
            state_zero(op, out.axis(position), 7, *mine, any_of=not sums)


facts_of("QLinearWhere", domain=MS, zero_point=8, type_of=(1,))
output_shape("QLinearWhere", domain=MS)(broadcast_shape(0, 1, 4))


@rule("QLinearWhere", domain=MS)
def qlinear_where(op: Op) -> None:
    """Broadcast of condition and both branches."""
    single(op, 2, 3, 5, 6, 7, 8)
    broadcast(op, [op.input(0), op.input(1), op.input(4)], op.output())


@output_shape("QLinearConcat", domain=MS)
def qlinear_concat_shape(node: Node, shapes: list[Shape]) -> list[Shape]:
    """The lengths along one axis add up."""
    parts = [need(s) for s in shapes[2::3]]
    along = node.attribute("axis") % len(parts[0])
    lengths = [p[along] for p in parts]
    whole = sum(d for d in lengths if isinstance(d, int)) if all(isinstance(d, int) for d in lengths) else None
    return [[whole if i == along else d for i, d in enumerate(parts[0])]]


@rule("QLinearConcat", domain=MS, zero_point=1, type_of=(1,))
def qlinear_concat(op: Op) -> None:
    """Inputs follow each other on one axis; each has its own scale."""
    out = op.output()
    operands = range(2, len(op.node.inputs), 3)
    single(op, *(i for i in range(len(op.node.inputs)) if i not in operands))
    values = [op.input(i) for i in operands]
    along = op.attr("axis") % len(out.shape or [1])
    for value in values:
        for axis in value.axes():
            if axis.position != along:
                op.tie(axis, out.axis(axis.position))
    if all(is_zero_at(op, i, i + 2) for i in operands):
        for axis in out.axes():
            state_zero(op, axis, 1, *(v.axis(axis.position) for v in values))
    join(op, [v.axis(along) for v in values], out.axis(along))


@output_shape("QLinearGlobalAveragePool QLinearAveragePool", domain=MS)
def qlinear_pool_shape(node: Node, shapes: list[Shape]) -> list[Shape]:
    """Batch and channels are kept, spatial axes shrink."""
    x = need(shapes[0])
    last = bool(node.attribute("channels_last", 0))
    space = x[1:-1] if last else x[2:]
    kernel = node.attribute("kernel_shape")
    small = [1] * len(space) if kernel is None else windows(node, space, kernel)
    return [[x[0], *small, x[-1]] if last else [x[0], x[1], *small]]


@rule("QLinearGlobalAveragePool QLinearAveragePool", domain=MS, zero_point=4)
def qlinear_pool(op: Op) -> None:
    """Averages over space, each channel alone."""
    x, out = op.input(0), op.output()
    single(op, 1, 2, 3, 4)
    last = bool(op.attr("channels_last", 0))
    for value in (x, out):
        for axis in value.axes()[1:-1] if last else value.axes()[2:]:
            op.pin(axis, f"a window of {op.node.label} slides over it")
    for position in (0, -1 if last else 1):
        op.tie(x.axis(position), out.axis(position))
        if is_zero_at(op, 0, 2):
            state_zero(op, out.axis(position), 4, x.axis(position))


output_shape("QLinearLeakyRelu QLinearSigmoid QLinearSoftmax", domain=MS)(like_first)


@rule("QLinearLeakyRelu QLinearSigmoid", domain=MS, zero_point=4)
def qlinear_unary(op: Op) -> None:
    """Element by element."""
    x, out = op.input(0), op.output()
    single(op, 1, 2, 3, 4)
    for axis in x.axes():
        op.tie(axis, out.axis(axis.position))
        if op.type == "QLinearLeakyRelu" and is_zero_at(op, 0, 2):
            state_zero(op, out.axis(axis.position), 4, axis)


@rule("QLinearSoftmax", domain=MS, zero_point=4)
def qlinear_softmax(op: Op) -> None:
    """Normalises over one axis (before opset 13: over all from that axis on): it mixes."""
    x, out = op.input(0), op.output()
    single(op, 1, 2, 3, 4)
    first = op.attr("axis", -1) % len(x.shape or [1])
    for axis in x.axes():
        op.tie(axis, out.axis(axis.position))
        if axis.position == first or (op.attr("opset", 1) < 13 and axis.position > first):
            op.mix(axis)


@output_shape("QLinearReduceMean", domain=MS)
def qlinear_mean_shape(node: Node, shapes: list[Shape]) -> list[Shape]:
    """As for ReduceMean."""
    x = need(shapes[0])
    over = {a % len(x) for a in node.attribute("axes") or range(len(x))}
    keep = node.attribute("keepdims", 1)
    return [[1 if i in over else d for i, d in enumerate(x) if keep or i not in over]]


@rule("QLinearReduceMean", domain=MS, zero_point=4)
def qlinear_mean(op: Op) -> None:
    """Averages: mixing."""
    x, out = op.input(0), op.output()
    single(op, 1, 2, 3, 4)
    rank = len(x.shape or [])
    over = {a % rank for a in op.attr("axes") or range(rank)}
    position = 0
    for axis in x.axes():
        if axis.position in over:
            op.mix(axis)
            position += op.attr("keepdims", 1)
            continue
        op.tie(axis, out.axis(position))
        position += 1


output_shape("DynamicQuantizeMatMul MatMulIntegerToFloat", domain=MS)(product_shape(0, 1))
macs("DynamicQuantizeMatMul MatMulIntegerToFloat", domain=MS)(product_macs)
weights("DynamicQuantizeMatMul MatMulIntegerToFloat", domain=MS)(matmul_weights(0, 1))


@rule("DynamicQuantizeMatMul", domain=MS)
def dynamic_quantize_matmul(op: Op) -> None:
    """MatMul that quantises its first factor by its range, which channels that are zero once masked do not move."""
    a, b, out = op.input(0), op.input(1), op.output()
    product(op, a, b, out)
    for axis in a.axes():
        op.sum_over(axis)
    _columns(op, b, out, (2, 3), 4)
    mark(op, 1, 2, 3, -1)


@rule("MatMulIntegerToFloat", domain=MS, reads_zero_points=True, type_of=(2,))
def matmul_integer_to_float(op: Op) -> None:
    """MatMul on integers, scaled to a float."""
    quantised_product(op, 0, 1, (2, 4), (3, 5))
    _columns(op, op.input(1), op.output(), (3, 5), 6)
    mark(op, 1, 3, 5, -1)


def _columns(op: Op, b: Value, out: Value, parameters: tuple[int, ...], bias: int) -> None:
    """Scales, zero points and bias of a product's columns."""
    column = b.axis(-1)
    follow(op, column, *parameters)
    if op.has(bias):
        op.tie(op.input(bias).axis(0), column)
        for axis in out.axes():
            op.lose_zero(axis)
        op.keep_zero(out.axis(-1), column, op.input(bias).axis(0))


@output_shape("DynamicQuantizeLSTM", domain=MS)
def dynamic_quantize_lstm_shape(node: Node, shapes: list[Shape]) -> list[Shape]:
    """All states, the last hidden state and the last cell state."""
    x, r = need(shapes[0]), need(shapes[2])
    return [[x[0], r[0], x[1], r[1]], [r[0], x[1], r[1]], [r[0], x[1], r[1]]]


macs("DynamicQuantizeLSTM", domain=MS)(recurrent_macs)


@weights("DynamicQuantizeLSTM", domain=MS)
def dynamic_quantize_lstm_weights(node: Node, i: int, shape: Sequence[int]) -> WeightLayout | None:
    """Weights of shape (directions, inputs, gates * hidden)."""
    return WeightLayout(1, 2) if i in (1, 2) and len(shape) == 3 else None


@rule("DynamicQuantizeLSTM", domain=MS, gates=4)
def dynamic_quantize_lstm(op: Op) -> None:
    """LSTM with integer weights, gates last: a hidden unit is tied to its gates and states."""
    x, w, r = op.input(0), op.input(1), op.input(2)
    hidden = r.axis(1)
    if not hidden.length:
        raise ValueError("hidden size unknown")
    contract(op, x.axis(2), w.axis(1))
    op.sum_over(x.axis(2))  # its range is measured too
    gates = [w.axis(2), r.axis(2)] + [op.input(i).axis(1) for i in (3, 7) if op.has(i)]
    gates += [v.axis(-1) for i in (8, 9, 10, 11) if op.has(i) and (v := op.input(i)).rank == 2]
    states = [op.input(i) for i in (5, 6) if op.has(i)]
    carriers = [v.axis(-1) for v in [*states, *op.outputs]]
    op.link(
        (hidden, arange(hidden)),
        *((axis, arange(axis) % hidden.length) for axis in gates),
        *((axis, arange(axis)) for axis in carriers),
    )
    if stays_zero(op, "LSTM"):
        for axis in carriers:
            if axis.value in op.outputs:
                op.keep_zero(
                    axis, *gates[:2], *(op.input(i).axis(1) for i in (3,) if op.has(i)), *(s.axis(-1) for s in states)
                )
    op.sum_over(hidden, next(axis for axis in carriers if axis.value in op.outputs))  # so is the range of the state
    _pin_rest(op, carriers)
    for weight, scale, point in ((1, 8, 9), (2, 10, 11)):
        mark(op, weight, scale, point, 2 if op.input(scale).rank == 2 else 0)
    op.resize(lambda new: _hidden_size(op, new, hidden))


def _pin_rest(op: Op, carriers: list[Axis]) -> None:
    """Pins time, batch and directions."""
    values = [op.input(i) for i in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11) if op.has(i)] + op.outputs
    kept = {0: {2}, 1: {1, 2}, 2: {1, 2}, 3: {1}, 7: {1}, 8: {1}, 9: {1}, 10: {1}, 11: {1}}
    free = {
        op.input(i).axis(p).id
        for i, positions in kept.items()
        if op.has(i)
        for p in positions
        if p < len(op.input(i).shape or [])
    }
    free |= {axis.id for axis in carriers}
    for value in values:
        for axis in value.axes():
            if axis.id not in free:
                op.pin(axis, f"time, batch and directions of {op.node.label}")


def _hidden_size(op: Op, new: NewShape, hidden: Axis) -> None:
    if op.attr("hidden_size") is not None:
        new.set_attribute("hidden_size", len(new.kept(hidden)))


@rule(
    "QEmbedLayerNormalization MatMulInteger16 MulInteger ReduceSumInteger QuantizeBFP DequantizeBFP "
    "QOrderedMatMul QOrderedAttention",
    domain=MS,
    any_rank=True,
)
def packed(op: Op) -> None:
    """Packed or rarely seen quantised storage: pinned."""
    op.pin_all(f"{op.node.label}: its quantised storage is not cut")
