"""Fused operators of onnxruntime's own domain, attention aside."""

from __future__ import annotations

from onnxprune.graph.graph import Axis, Value
from onnxprune.ops.conv import convolution
from onnxprune.ops.elementwise import broadcast, zero_keeping
from onnxprune.ops.linear import general_product, is_constant, product_of_axes
from onnxprune.ops.normalization import root_mean_square, tie_trailing
from onnxprune.ops.op import Op, arange
from onnxprune.ops.registry import rule
from onnxprune.ops.ties import Alternative, Link, NewShape

MS = "com.microsoft"

_ZERO_AT_ZERO = {
    "",
    "Relu",
    "LeakyRelu",
    "Tanh",
    "Elu",
    "Selu",
    "Celu",
    "HardSwish",
    "Softsign",
    "ThresholdedRelu",
    "Gelu",
    "FastGelu",
    "QuickGelu",
}

rule("Gelu", "QuickGelu", domain=MS)(zero_keeping)


@rule("FusedConv", domain=MS)
def fused_conv(op: Op) -> None:
    """Conv, an optional summand, and an activation."""
    x, w, out = op.input(0), op.input(1), op.output()
    bias = op.input(2) if op.has(2) else None
    convolution(op, x, w, bias, out)
    summand = op.input(3) if op.has(3) else None
    if summand is not None:
        if summand.shape != out.shape:
            raise ValueError("the summand has another shape")
        for axis in summand.axes():
            op.tie(axis, out.axis(axis.position))
        parts = [w.axis(0), *([] if bias is None else [bias.axis(0)]), summand.axis(1)]
        op.keep_zero(out.axis(1), *parts)
    if not _fused_keeps_zero(op):
        op.lose_zero(out.axis(1))


@rule("NhwcConv", domain=MS)
def nhwc_conv(op: Op) -> None:
    """Conv with channels last, in input, output and weight."""
    bias = op.input(2) if op.has(2) else None
    convolution(op, op.input(0), op.input(1), bias, op.output(), place=-1, share_at=-1)


def _fused_keeps_zero(op: Op) -> bool:
    name = op.attr("activation", "")
    if name == "Clip":
        low, high = (*(op.attr("activation_params") or []), 1.0, -1.0)[:2]
        return bool(low <= 0 <= high)
    return name in _ZERO_AT_ZERO


@rule("FusedMatMul", "TransposeMatMul", domain=MS)
def fused_matmul(op: Op) -> None:
    """MatMul with transposes and a scale folded in."""
    a, b = op.input(0), op.input(1)
    if min(a.rank or 0, b.rank or 0) < 2:
        raise ValueError("a factor is no matrix")
    constant = is_constant(a) or is_constant(b)
    product_of_axes(op, _turned(op, "A", a), _turned(op, "B", b), op.output(), activations=not constant)


def _turned(op: Op, side: str, value: Value) -> list[Axis]:
    """Axes of a factor in the order of a plain product: first ``transBatch`` moves axis 0 behind the batches."""
    axes = value.axes()
    if op.attr(f"transBatch{side}", 0):
        axes = [*axes[1:-1], axes[0], axes[-1]]
    if op.attr(f"trans{side}", 0):
        axes = [*axes[:-2], axes[-1], axes[-2]]
    return axes


@rule("FusedGemm", domain=MS)
def fused_gemm(op: Op) -> None:
    """Gemm with an activation."""
    general_product(op, op.input(0), op.input(1), op.input(2) if op.has(2) else None)
    if op.attr("activation", "") not in _ZERO_AT_ZERO:
        for axis in op.output().axes():
            op.lose_zero(axis)


@rule("FastGelu", "BiasGelu", "BiasAdd", domain=MS)
def biased(op: Op) -> None:
    """Sum with a bias (and a skip), then an activation with f(0) = 0."""
    out = op.output()
    for position, axes in enumerate(broadcast(op, op.inputs, out)):
        if len(axes) == len(op.inputs):
            op.keep_zero(out.axis(position), *axes)


@rule("GemmFastGelu", domain=MS)
def gemm_fast_gelu(op: Op) -> None:
    """MatMul, bias, Gelu."""
    a, b, out = op.input(0), op.input(1), op.output()
    product_of_axes(op, a.axes(), b.axes(), out, activations=not (is_constant(a) or is_constant(b)))
    _add_bias(op, 2, b.axis(-1), out)


def _add_bias(op: Op, index: int, column: Axis, out: Value) -> None:
    """A bias with an entry for each column of a product."""
    if op.has(index):
        bias = op.input(index).axis(-1)
        op.tie(bias, column)
        for axis in out.axes():
            op.lose_zero(axis)
        op.keep_zero(out.axis(-1), column, bias)


@rule("BiasSplitGelu", domain=MS)
def bias_split_gelu(op: Op) -> None:
    """The first half gated by the Gelu of the second: a channel owns its place in both."""
    x, bias, out = op.input(0), op.input(1), op.output()
    for axis in x.axes()[:-1]:
        op.tie(axis, out.axis(axis.position))
    wide, half = x.axis(-1), out.axis(-1)
    size = half.length or 1
    op.link((wide, arange(wide) % size), (bias.axis(-1), arange(bias.axis(-1)) % size), (half, arange(half)))
    op.keep_zero(half, wide, bias.axis(-1))


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MS)
def skip_layer_normalization(op: Op) -> None:
    """Sum of input, skip and bias, normalised over the last axis: that mixes, but where the sum is not centred."""
    x, skip, out = op.input(0), op.input(1), op.output()
    summed = op.node.outputs[3] if len(op.node.outputs) > 3 else None
    for value in [out, *([summed] if summed is not None else [])]:
        for position, axes in enumerate(broadcast(op, [x, skip], value)):
            if value is summed and len(axes) == 2 and not op.has(_bias_of(op)):
                op.keep_zero(value.axis(position), *axes)
    width = out.axis(-1)
    if "Simplified" in op.type:
        parts = [x, skip, *([op.input(_bias_of(op))] if op.has(_bias_of(op)) else [])]
        op.keep_zero(width, *(part.axis(-1) for part in parts))
        root_mean_square(op, width, 1e-12)
    else:
        op.mix(width)
    for parameter in op.inputs[2:]:
        tie_trailing(op, parameter.axes(), x.axes())
    for extra in op.node.outputs[1:3]:
        for axis in extra.axes()[:-1] if extra is not None else []:
            op.tie(x.axis(axis.position), axis)


def _bias_of(op: Op) -> int:
    return 3 if "Simplified" in op.type else 4


@rule("EmbedLayerNormalization", domain=MS)
def embed_layer_normalization(op: Op) -> None:
    """Sum of embeddings, normalised over their width: that mixes; tokens and positions are pinned."""
    out = op.output()
    width = out.axis(-1)
    op.mix(width)
    for i in (2, 3, 4):
        if op.has(i):
            op.pin(op.input(i).axis(0), f"{op.node.label} looks indices up along it")
            op.tie(op.input(i).axis(1), width)
    for i in (5, 6):
        op.tie(op.input(i).axis(0), width)
    if len(op.node.outputs) > 2 and op.node.outputs[2] is not None:
        op.tie(op.node.outputs[2].axis(-1), width)
    others = [op.input(i) for i in (0, 1, 7, 8) if op.has(i)] + op.outputs
    for axis in (a for v in others for a in v.axes() if v.rank != 3 or a.position < 2):
        op.pin(axis, f"{op.node.label} reads positions")


@rule("GroupNorm", "SkipGroupNorm", domain=MS)
def group_norm(op: Op) -> None:
    """Group normalisation, channels last by default: whole groups of channels may go."""
    x, out, groups = op.input(0), op.output(), op.attr("groups")
    place = (x.rank or 0) - 1 if op.attr("channels_last", 1) else 1
    channels = x.axis(place)
    if channels.length is None or not groups:
        raise ValueError("channel count unknown")
    size = channels.length // groups
    op.link((channels, arange(channels) // size))
    for value in [*op.inputs[1:], *op.outputs]:
        if value.rank == 1:
            op.tie(value.axis(0), channels)
        elif value.shape == x.shape:
            for axis in value.axes():
                op.tie(axis, x.axis(axis.position))
        else:
            raise ValueError("the skip has another shape")
    for axis in x.axes()[1:]:
        if axis.position != place:
            op.mix(axis)
    op.keep_zero(out.axis(place), op.input(1).axis(0), op.input(2).axis(0))
    op.norm_scale(op.input(1))
    op.resize(lambda new: new.set_attribute("groups", len(new.kept(channels)) // size))


@rule("MatMulNBits", domain=MS)
def matmul_nbits(op: Op) -> None:
    """Weights of few bits in blocks: output columns go one by one, inputs by blocks that share no byte."""
    x, packed, out = op.input(0), op.input(1), op.output()
    inputs, columns, size = x.axis(-1), out.axis(-1), op.attr("block_size")
    blocks = -(-op.attr("K") // size)
    if op.has(4) or op.attr("weight_prepacked", 0) or packed.rank != 3 or packed.axis(1).length != blocks:
        raise ValueError("stored in another way than in rows of blocks")
    for axis in x.axes()[:-1]:
        op.tie(axis, out.axis(axis.position))
    op.pin(packed.axis(2), "bits of a block")
    op.tie(packed.axis(0), columns)
    if op.has(5):
        op.tie(op.input(5).axis(0), columns)
    by_column: Link = [(columns, arange(columns))]
    shared = 1  # blocks whose zero points lie in one byte
    tables = [(op.input(2), blocks)]
    if op.has(3):
        in_bytes = op.input(3).elem_type != op.input(2).elem_type
        shared = 8 // op.attr("bits", 4) if in_bytes else 1
        tables.append((op.input(3), -(-blocks // shared)))
    by_block: Link = [(inputs, arange(inputs) // (size * shared)), (packed.axis(1), arange(packed.axis(1)) // shared)]
    for table, width in tables:
        if table.rank == 1 and table.axis(0).length == (columns.length or 0) * width:
            by_column.append((table.axis(0), arange(table.axis(0)) // width))
        elif table.rank == 2 and table.axis(0).length == columns.length and table.axis(1).length == width:
            op.tie(table.axis(0), columns)
        else:
            raise ValueError("scales or zero points of an unknown form")
        by_block.append((table.axis(-1), arange(table.axis(-1)) % width // (shared if width == blocks else 1)))
    even = inputs.length == op.attr("K") and inputs.length == blocks * size and blocks % shared == 0
    _carry_blocks(op, by_column, by_block, even)
    op.keep_zero(columns, packed.axis(0), *([op.input(5).axis(0)] if op.has(5) else []))
    if packed.tensor is not None:
        op.packed(packed, op.input(2), op.input(3) if op.has(3) else None, op.attr("bits", 4))

    def follow(new: NewShape) -> None:
        new.set_attribute("N", len(new.kept(columns)))
        if even:
            new.set_attribute("K", len(new.kept(inputs)))

    op.resize(follow)


def _carry_blocks(op: Op, by_column: Link, by_block: Link, even: bool) -> None:
    """Scales that lie in one row for all columns can be cut by columns or by blocks, not by both."""
    (inputs, _), (places, _) = by_block[:2]
    if not even:
        for axis in (inputs, places):
            op.pin(axis, f"blocks of {op.node.label} do not divide it")
        op.link(*by_column)
        return
    op.sum_over(inputs, places)
    if len(by_column) == 1:
        op.link(*by_block)
    else:
        op.choose(
            Alternative("by columns", [by_column], [inputs, places], weight=1),
            Alternative("by blocks", [by_block], [by_column[0][0]]),
        )


@rule(
    "SwiGLU",
    "BiasDropout",
    "BiasSoftmax",
    "NhwcFusedConv",
    "NhwcMaxPool",
    "FusedMatMulActivation",
    "ScaledSiLU",
    "GatedAdd",
    "RelativePositionBias",
    "GatedRelativePositionBias",
    "MoE",
    "MatMulBnb4",
    "MatMulFpQ4",
    "MatMulNBitsMlp",
    "MatMulNBitsQkv",
    "MatMulPacked",
    "CropAndResize",
    "BeamSearch",
    "GreedySearch",
    "Sampling",
    "WhisperBeamSearch",
    domain=MS,
    any_rank=True,
)
def not_carried(op: Op) -> None:
    """Not carried: pinned."""
    op.pin_all(f"{op.node.label}: its channels are not followed")


@rule(
    "Conv",
    "MaxPool",
    "AveragePool",
    "GlobalMaxPool",
    "GlobalAveragePool",
    "Upsample",
    "ReorderInput",
    "ReorderOutput",
    domain="com.microsoft.nchwc",
    any_rank=True,
)
def blocked_for_a_processor(op: Op) -> None:
    """Channels in blocks of one processor's width: pinned."""
    op.pin_all(f"{op.node.label} has its channels in blocks: prune before onnxruntime lays a model out for a processor")
