"""Normalisations of onnxruntime's own domain, with the sums and embeddings that are fused with them."""

from __future__ import annotations

from onnxprune.graph.graph import Node
from onnxprune.graph.lengths import Dim
from onnxprune.graph.node_shapes import like_first, need
from onnxprune.graph.operators import Shape
from onnxprune.ops.elementwise import broadcast
from onnxprune.ops.normalization import root_mean_square, tie_trailing, zero_by_parameters
from onnxprune.ops.op import Op, arange
from onnxprune.ops.registry import facts_of, output_shape, rule

MS = "com.microsoft"


@output_shape(
    "SkipLayerNormalization SkipSimplifiedLayerNormalization LayerNormalization SimplifiedLayerNormalization", domain=MS
)
@output_shape("SimplifiedLayerNormalization LayerNormalization")  # onnxruntime writes both into models of older opsets
def normalized_shape(node: Node, shapes: list[Shape]) -> list[Shape]:
    """The input's shape, statistics of length 1 along the normalised axes, and that of the sum."""
    x = need(shapes[0])
    first = node.attribute("axis", -1) % len(x)
    small: list[Dim] = [*x[:first], *([1] * (len(x) - first))]
    return [list(x), small, small, list(x)]


@rule("SkipLayerNormalization SkipSimplifiedLayerNormalization", domain=MS)
def skip_layer_normalization(op: Op) -> None:
    """Sum of input, skip and bias, normalised over the last axis: exact where it is zero, given zeros if centred."""
    x, skip, out = op.input(0), op.input(1), op.output()
    summed = op.optional_output(3)
    for value in [out, *([summed] if summed is not None else [])]:
        for position, axes in enumerate(broadcast(op, [x, skip], value)):
            if value is summed and len(axes) == 2 and not op.has(_bias_of(op)):
                op.keep_zero(value.axis(position), *axes)
    width = out.axis(-1)
    parts = [x, skip, *([op.input(_bias_of(op))] if op.has(_bias_of(op)) else [])]
    if "Simplified" in op.type:
        op.keep_zero(width, *(part.axis(-1) for part in parts))
        root_mean_square(op, width, 1e-12)
    else:
        op.refill(width, *(part.axis(-1) for part in parts))
        zero_by_parameters(op, width.position, [op.input(i) for i in (2, 3) if op.has(i)])
    for parameter in op.inputs[2:]:
        tie_trailing(op, parameter.axes(), x.axes())
    for extra in map(op.optional_output, (1, 2)):
        for axis in extra.axes()[:-1] if extra is not None else []:
            op.tie(x.axis(axis.position), axis)


def _bias_of(op: Op) -> int:
    return 3 if "Simplified" in op.type else 4


@output_shape("EmbedLayerNormalization QEmbedLayerNormalization", domain=MS)
def embedding_shape(node: Node, shapes: list[Shape]) -> list[Shape]:
    """(batch, length, width), a number a sequence, and the sum."""
    ids, width = need(shapes[0]), need(shapes[2])[1]
    return [[*ids, width], [ids[0]], [*ids, width]]


facts_of("QEmbedLayerNormalization", domain=MS, type_of=(8,), lookups=((2, 0), (4, 1)))


@rule("EmbedLayerNormalization", domain=MS, type_of=(2,), lookups=((2, 0), (4, 1), (3, 8)))
def embed_layer_normalization(op: Op) -> None:
    """Sum of embeddings, normalised over their width: that mixes; tokens and positions are pinned."""
    out = op.output()
    width = out.axis(-1)
    op.mix(width)
    for i, ids in ((2, 0), (3, 8), (4, 1)):
        if op.has(i):
            if op.has(ids) and op.input(ids).key in op.ties.renumbered:
                op.leave(op.input(i))
            else:
                op.pin(op.input(i).axis(0), f"{op.node.label} looks indices up along it")
            op.tie(op.input(i).axis(1), width)
    for i in (5, 6):
        op.tie(op.input(i).axis(0), width)
    summed = op.optional_output(2)
    if summed is not None:
        op.tie(summed.axis(-1), width)
    others = [op.input(i) for i in (0, 1, 7, 8) if op.has(i)] + op.outputs
    for axis in (a for v in others for a in v.axes() if v.rank != 3 or a.position < 2):
        op.pin(axis, f"{op.node.label} reads positions")


output_shape("GroupNormalization")(like_first)  # a function whose body onnx cannot follow


@output_shape("GroupNorm SkipGroupNorm", domain=MS)
def group_norm_shape(node: Node, shapes: list[Shape]) -> list[Shape]:
    """The input's shape, and that of the sum."""
    return [list(need(shapes[0])), list(need(shapes[0]))]


@rule("GroupNorm SkipGroupNorm", domain=MS)
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
