"""Convolutions, plain, grouped and transposed."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.graph.graph import Axis, Node, Value
from onnxprune.graph.node_shapes import convolution_shape, transposed_convolution_shape
from onnxprune.graph.operators import Affine, MacsFunction, Term, WeightFunction, WeightLayout
from onnxprune.ops.linear import contract
from onnxprune.ops.op import Op, arange
from onnxprune.ops.registry import affine, macs, output_shape, rule, weights
from onnxprune.ops.ties import Alternative

KERNEL = "kernel"
"""Reason for pinning kernel positions: they are no channels, and reports leave them out."""

COARSE = 4
"""Channels inside a group below which whole groups are removed: a step within all groups would be too coarse."""


def convolution_macs(weight: int) -> MacsFunction:
    """Every output element takes one kernel: its input channels per group times its window."""
    return lambda node: [(1.0, [*node.output().ranked_axes(), *node.input(weight).ranked_axes()[1:]])]


def convolution_weights(weight: int) -> WeightFunction:
    """A kernel of shape (out, in / group, ...)."""

    def layout(node: Node, i: int, shape: Sequence[int]) -> WeightLayout | None:
        groups = int(node.attribute("group", 1))
        whole = i == weight and len(shape) > 2 and shape[0] % groups == 0
        return WeightLayout(1, 0, output_blocks=groups) if whole else None

    return layout


for _name, _operand in (("Conv ConvInteger DeformConv", 1), ("QLinearConv", 3)):
    macs(_name)(convolution_macs(_operand))
    weights(_name)(convolution_weights(_operand))
output_shape("Conv ConvInteger")(convolution_shape(0, 1))
output_shape("ConvTranspose")(transposed_convolution_shape)
macs("Conv FusedConv", domain="com.ms.internal.nhwc")(convolution_macs(1))


@affine("Conv")
def conv_layer(node: Node) -> list[Affine]:
    """Patches of the input times the kernel."""
    return [Affine("conv", x=0, weight=1, bias=2, x_axis=1, out_axis=1)]


@rule("Conv")
def conv(op: Op) -> None:
    """Channels contract; groups keep blocks of equal size; space passes where the kernel has one position there."""
    convolution(op, op.input(0), op.input(1), op.input(2) if op.has(2) else None, op.output())


def convolution(
    op: Op,
    x: Value,
    w: Value,
    bias: Value | None,
    out: Value,
    *,
    transposed: bool = False,
    place: int = 1,
    share_at: int = 1,
) -> None:
    """Ties of a convolution with weight (out, in / group, ...), or (in, out / group, ...) where transposed.

    Args:
        op: The node.
        x: Input.
        w: Weight.
        bias: Bias of the output channels.
        out: Output.
        transposed: Whether the weight's first axis is that of the input.
        place: Axis of the channels of input and output.
        share_at: Axis of the weight that holds one group's share of the other side.
    """
    first, share, before, after = w.axis(0), w.axis(share_at), x.axis(place), out.axis(place)
    kernel = [axis for axis in w.axes()[1:] if axis != share]
    for axis in kernel:
        op.pin(axis, KERNEL)
    _pass_space(op, _space(x, place), _space(out, place), kernel)
    groups = op.attr("group", 1)
    if bias is not None:
        op.tie(bias.axis(0), after)
    summed, made = (first, [share]) if transposed else (share, [first])
    if groups == 1:
        contract(op, before, summed)
        op.tie(made[0], after)
    else:
        across, along = (after, before) if transposed else (before, after)
        _grouped(op, first, share, across, along, groups)
        if not transposed or (first.length or 0) > groups:  # else there is one input for each output
            op.sum_over(summed)
        made = [first, share] if transposed else made
    op.keep_zero(after, *made, *([] if bias is None else [bias.axis(0)]))
    op.tie(x.axis(0), out.axis(0))


def pin_space(op: Op, x: Value, out: Value, place: int = 1) -> None:
    """Pins the axes that a window slides over."""
    for axis in (*_space(x, place), *_space(out, place)):
        op.pin(axis, f"a window of {op.node.label} slides over it")


def _pass_space(op: Op, before: Sequence[Axis], after: Sequence[Axis], kernel: Sequence[Axis]) -> None:
    """Ties an axis of space to that of the output where each position sees itself alone, and pins it elsewhere."""
    n = len(before)
    strides, pads = op.attr("strides", [1] * n), op.attr("pads", [0] * 2 * n)
    padded = [op.attr("auto_pad", "NOTSET") == "NOTSET" and bool(pads[i] or pads[i + n]) for i in range(n)]
    sized = any(op.attr(name, []) for name in ("output_shape", "output_padding"))
    for i, (one, other) in enumerate(zip(before, after, strict=True)):
        if len(kernel) == n and kernel[i].length == strides[i] == 1 and not padded[i] and not sized:
            op.tie(one, other)
        else:
            for axis in (one, other):
                op.pin(axis, f"a window of {op.node.label} slides over it")


def _space(value: Value, place: int) -> list[Axis]:
    return [axis for axis in value.axes()[1:] if axis != value.axis(place)]


def _grouped(op: Op, first: Axis, share: Axis, across: Axis, along: Axis, groups: int) -> None:
    """Ties whole groups, or the same position within every group.

    The weight's first axis holds all groups one after the other, as `along` does; its second is one group's share of
    the other side, `across`.
    """
    op.tie(first, along)
    if any(a.length is None for a in (along, across, first, share)):
        op.pin_all(f"{op.node.label}: channel count unknown")
        return
    rows, columns = (first.length or 0) // groups, share.length or 0
    whole = Alternative(
        "whole groups", [[(across, arange(across) // columns), (first, arange(first) // rows)]], pins=[share]
    )
    # the two sides shrink apart: positions of one side are tied among themselves only
    within = Alternative(
        "channels within groups",
        [[(across, arange(across) % columns), (share, arange(share))], [(first, arange(first) % rows)]],
        weight=1 if min(rows, columns) >= COARSE else -1,
    )
    op.choose(whole, within) if min(rows, columns) > 1 else op.choose(whole)
    op.resize(lambda new: new.set_attribute("group", len(new.kept(across)) // len(new.kept(share))))


@macs("ConvTranspose")
def conv_transpose_macs(node: Node) -> list[Term]:
    """Every input element is spread by one kernel."""
    return [(1.0, [*node.input(0).ranked_axes(), *node.input(1).ranked_axes()[1:]])]


@weights("ConvTranspose")
def conv_transpose_weights(node: Node, i: int, shape: Sequence[int]) -> WeightLayout | None:
    """A kernel of shape (in, out / group, ...)."""
    groups = int(node.attribute("group", 1))
    return WeightLayout(0, 1, input_blocks=groups) if i == 1 and len(shape) > 2 and shape[0] % groups == 0 else None


@affine("ConvTranspose")
def conv_transpose_layer(node: Node) -> list[Affine]:
    """Each element of the input times the kernel, added up where kernels overlap."""
    return [Affine("conv_transpose", x=0, weight=1, bias=2, x_axis=1, out_axis=1)]


@rule("ConvTranspose")
def conv_transpose(op: Op) -> None:
    """Convolution with weight (in, out / group, ...)."""
    bias = op.input(2) if op.has(2) else None
    convolution(op, op.input(0), op.input(1), bias, op.output(), transposed=True)


@rule("DeformConv")
def deform_conv(op: Op) -> None:
    """Conv whose sampling offsets come from a second input; offset groups split the input channels."""
    x, w, offset = op.input(0), op.input(1), op.input(2)
    bias = op.input(3) if op.has(3) else None
    if op.attr("offset_group", 1) != 1:
        op.pin(x.axis(1), "offset groups split the channels")
    for axis in offset.axes()[1:] + (op.input(4).axes()[1:] if op.has(4) else []):
        op.pin(axis, "sampling offsets")
    for value in [offset, *([op.input(4)] if op.has(4) else [])]:
        op.tie(x.axis(0), value.axis(0))
    convolution(op, x, w, bias, op.output())
