"""Fused operators of onnxruntime's own domain, attention aside."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.graph.graph import Axis, Node, Value
from onnxprune.graph.node_shapes import convolution_shape, gemm_shape, like_first, need, product_shape, windows
from onnxprune.graph.operators import Shape, Term, WeightLayout
from onnxprune.ops.conv import convolution, convolution_macs, convolution_weights
from onnxprune.ops.elementwise import broadcast, zero_keeping
from onnxprune.ops.linear import (
    gemm_weights,
    general_product,
    is_constant,
    matmul_weights,
    product_macs,
    product_of_axes,
)
from onnxprune.ops.op import Op, arange
from onnxprune.ops.registry import macs, output_shape, rule, weights

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

rule("Gelu QuickGelu", domain=MS)(zero_keeping)
output_shape(
    "Gelu BiasGelu FastGelu QuickGelu BiasAdd BiasDropout BiasSoftmax ScaledSiLU GatedAdd MoE QMoE Trilu "
    "NGramRepeatBlock",
    domain=MS,
)(like_first)


macs("FusedConv NhwcFusedConv NhwcConv", domain=MS)(convolution_macs(1))
weights("FusedConv NhwcFusedConv", domain=MS)(convolution_weights(1))
output_shape("FusedConv", domain=MS)(convolution_shape(0, 1))


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


@output_shape("NhwcConv", domain=MS)
def nhwc_conv_shape(node: Node, shapes: list[Shape]) -> list[Shape]:
    """Batch, space, output channels."""
    x, w = need(shapes[0]), need(shapes[1])
    return [[x[0], *windows(node, x[1:-1], w[1:-1]), w[0]]]


@weights("NhwcConv", domain=MS)
def nhwc_conv_weights(node: Node, i: int, shape: Sequence[int]) -> WeightLayout | None:
    """A kernel of shape (out, ..., in / group)."""
    groups = int(node.attribute("group", 1))
    whole = i == 1 and len(shape) > 2 and shape[0] % groups == 0
    return WeightLayout(len(shape) - 1, 0, output_blocks=groups) if whole else None


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


@macs("FusedMatMul TransposeMatMul FusedMatMulActivation GemmFastGelu", domain=MS)
def fused_matmul_macs(node: Node) -> list[Term]:
    """Every output element takes the length of the axis that is summed over."""
    node.input(0).ranked_axes()
    return [(1.0, [*node.output().ranked_axes(), _transposed(node, "A", node.input(0))[-1]])]


weights("FusedMatMul TransposeMatMul FusedMatMulActivation GemmFastGelu", domain=MS)(matmul_weights(0, 1))
output_shape("FusedMatMul TransposeMatMul FusedMatMulActivation GemmFastGelu", domain=MS)(product_shape(0, 1))


@rule("FusedMatMul TransposeMatMul", domain=MS)
def fused_matmul(op: Op) -> None:
    """MatMul with folded transposes and a scale."""
    a, b = op.input(0), op.input(1)
    if min(a.rank or 0, b.rank or 0) < 2:
        raise ValueError("a factor is no matrix")
    constant = is_constant(a) or is_constant(b)
    product_of_axes(
        op, _transposed(op.node, "A", a), _transposed(op.node, "B", b), op.output(), activations=not constant
    )


def _transposed(node: Node, side: str, value: Value) -> list[Axis]:
    """Axes of a factor in the order of a plain product: first ``transBatch`` moves axis 0 after the batch axes."""
    axes = value.axes()
    if node.attribute(f"transBatch{side}", 0):
        axes = [*axes[1:-1], axes[0], axes[-1]]
    if node.attribute(f"trans{side}", 0):
        axes = [*axes[:-2], axes[-1], axes[-2]]
    return axes


macs("FusedGemm", domain=MS)(product_macs)
weights("FusedGemm", domain=MS)(gemm_weights(0, 1))
output_shape("FusedGemm", domain=MS)(gemm_shape(0, 1))


@rule("FusedGemm", domain=MS)
def fused_gemm(op: Op) -> None:
    """Gemm with an activation."""
    general_product(op, op.input(0), op.input(1), op.input(2) if op.has(2) else None)
    if op.attr("activation", "") not in _ZERO_AT_ZERO:
        for axis in op.output().axes():
            op.lose_zero(axis)


@rule("FastGelu BiasGelu BiasAdd", domain=MS)
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


@output_shape("SwiGLU", domain=MS)
def swiglu_shape(node: Node, shapes: list[Shape]) -> list[Shape]:
    """Gate and value come apart, or as the halves of one input."""
    return like_first(node, shapes) if len(shapes) > 1 else half_last(node, shapes)


@output_shape("BiasSplitGelu", domain=MS)
def half_last(node: Node, shapes: list[Shape]) -> list[Shape]:
    """The last axis is halved."""
    *rest, last = need(shapes[0])
    return [[*rest, last // 2 if isinstance(last, int) else None]]


@rule("BiasSplitGelu", domain=MS)
def bias_split_gelu(op: Op) -> None:
    """The first half gated by the Gelu of the second: a channel has the same index in both."""
    x, bias, out = op.input(0), op.input(1), op.output()
    for axis in x.axes()[:-1]:
        op.tie(axis, out.axis(axis.position))
    wide, half = x.axis(-1), out.axis(-1)
    size = half.length or 1
    op.link((wide, arange(wide) % size), (bias.axis(-1), arange(bias.axis(-1)) % size), (half, arange(half)))
    op.keep_zero(half, wide, bias.axis(-1))


@rule(
    "SwiGLU BiasDropout BiasSoftmax NhwcFusedConv NhwcMaxPool FusedMatMulActivation ScaledSiLU GatedAdd "
    "RelativePositionBias GatedRelativePositionBias MatMulFpQ4 MatMulNBitsMlp MatMulNBitsQkv "
    "MatMulPacked CropAndResize BeamSearch GreedySearch Sampling WhisperBeamSearch",
    domain=MS,
    any_rank=True,
)
def not_carried(op: Op) -> None:
    """Not carried: pinned."""
    op.pin_all(f"{op.node.label}: its channels are not followed")


@rule(
    "Conv MaxPool AveragePool GlobalMaxPool GlobalAveragePool Upsample ReorderInput ReorderOutput",
    domain="com.microsoft.nchwc",
    any_rank=True,
)
def blocked_for_a_processor(op: Op) -> None:
    """Channels in blocks of one processor's width: pinned."""
    op.pin_all(f"{op.node.label} has its channels in blocks: prune before onnxruntime lays a model out for a processor")
