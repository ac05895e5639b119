"""Normalisations: per channel they are harmless, over channels they mix."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.graph.graph import Axis, Value
from onnxprune.graph.operators import Postprocessing
from onnxprune.ops.conv import pin_space
from onnxprune.ops.op import Op, arange
from onnxprune.ops.registry import rule


@rule("BatchNormalization", pointwise=True)
def batch_normalization(op: Op) -> None:
    """Every parameter follows its channel; a channel masked in scale and bias is zero."""
    if op.opset < 9 and not op.attr("spatial", 1):
        op.pin_all(f"{op.node.label} has statistics for each position")
        return
    x, out = op.input(0), op.output()
    for axis in x.axes():
        if axis.position != 1:
            op.tie(axis, out.axis(axis.position))
            if op.attr("training_mode", 0):
                op.mix(axis)
    op.tie(x.axis(1), out.axis(1))
    parameters = [op.input(i).axis(0) for i in range(1, 5)]
    for axis in parameters:
        op.tie(axis, out.axis(1))
    op.keep_zero(out.axis(1), parameters[0], parameters[1])
    op.norm_scale(op.input(1))
    for extra in op.outputs[1:]:
        for axis in extra.axes():
            op.tie(axis, out.axis(1))


@rule("InstanceNormalization")
def instance_normalization(op: Op) -> None:
    """Channels stand alone; space is averaged over: exact, given zeros, where one channel holds all of it.

    With more of them, groups of a group normalisation that is written with it, whole channels may go without padding.
    """
    x, out = op.input(0), op.output()
    for axis in x.axes()[2:]:
        op.tie(axis, out.axis(axis.position))
        if x.axis(1).length == 1:
            op.refill(axis)
        else:
            op.mix(axis)
    for i in (0, 1):
        op.tie(x.axis(i), out.axis(i))
    for i in (1, 2):
        op.tie(op.input(i).axis(0), out.axis(1))
    op.keep_zero(out.axis(1), op.input(1).axis(0), op.input(2).axis(0))
    op.norm_scale(op.input(1))


@rule("GroupNormalization")
def group_normalization(op: Op) -> None:
    """Whole groups of channels may go; the rest of the statistics do not see them."""
    x, out = op.input(0), op.output()
    channels, groups = x.axis(1), op.attr("num_groups")
    pin_space(op, x, out)
    op.tie(x.axis(0), out.axis(0))
    op.tie(channels, out.axis(1))
    if channels.length is None:
        op.pin(channels, f"{op.node.label}: channel count unknown")
        return
    size = channels.length // groups
    op.link((channels, arange(channels) // size))
    for i in (1, 2):
        axis = op.input(i).axis(0)
        if axis.length == channels.length:  # from opset 21 on; before, one parameter a group
            op.tie(axis, out.axis(1))
        else:
            op.link((channels, arange(channels) // size), (axis, arange(axis)))
    if op.input(1).axis(0).length == channels.length:
        op.keep_zero(out.axis(1), op.input(1).axis(0), op.input(2).axis(0))
    op.norm_scale(op.input(1))

    op.resize(lambda new: new.set_attribute("num_groups", len(new.kept(channels)) // size))


@rule("LayerNormalization")
@rule("LayerNormalization", domain="com.microsoft")
def layer_normalization(op: Op) -> None:
    """Normalises over the trailing axes: exact where they are zero once masked, given zeros."""
    for axis in _trailing(op):
        op.refill(axis)
        zero_by_parameters(op, axis.position, op.inputs[1:])


@rule("RMSNormalization SimplifiedLayerNormalization")
@rule("SimplifiedLayerNormalization", domain="com.microsoft")
def rms_normalization(op: Op) -> None:
    """Divides by the root of the mean square over the trailing axes: exact as long as what is removed is zero."""
    for axis in _trailing(op):
        op.keep_zero(op.output().axis(axis.position), axis)
        root_mean_square(op, op.output().axis(axis.position))


def root_mean_square(op: Op, axis: Axis, epsilon: float = 1e-5) -> None:
    """The operator divides by the root mean square over an axis of its output, which is zero where its input is.

    `epsilon` is what it adds to the mean by default.

    With a share s of n indices left, ``x / sqrt(sum / n + e)`` is ``sqrt(s) * x / sqrt(sum / (n s) + e / s)``.
    """
    if any(extra.consumers or extra.is_returned for extra in op.node.outputs[1:3] if extra is not None):
        op.mix(axis)  # these outputs would have to be multiplied too
    else:
        op.mean_over(axis, -0.5, op.attr("epsilon", epsilon))


def _trailing(op: Op) -> list[Axis]:
    """The axes that are normalised over, all of them tied to the output's."""
    x, out = op.input(0), op.output()
    first = op.attr("axis", -1) % len(x.shape or [1])
    for axis in x.axes():
        op.tie(axis, out.axis(axis.position))
    for extra in op.outputs[1:]:
        for axis in extra.axes()[:first]:
            op.tie(x.axis(axis.position), axis)
    for parameter in op.inputs[1:]:
        tie_trailing(op, parameter.axes(), out.axes())
    return x.axes()[first:]


def zero_by_parameters(op: Op, position: int, parameters: Sequence[Value]) -> None:
    """The first output is zero along an axis where the scale is, and the shift, and both lie along it."""
    out = op.output().axis(position)
    along = [
        v.axis(position - (op.output().rank or 0))
        for v in parameters
        if (v.rank or 0) + position >= (op.output().rank or 0)
    ]
    if len(along) == len(parameters) and all(axis.length == out.length for axis in along):
        op.keep_zero(out, *along)


def tie_trailing(op: Op, axes: list[Axis], targets: list[Axis]) -> None:
    """Ties a parameter that broadcasts against the trailing axes."""
    for axis, target in zip(reversed(axes), reversed(targets), strict=False):
        if axis.length != 1 or target.length == 1:
            op.tie(axis, target)


def _normalised_over(op: Op, positions: Sequence[int]) -> None:
    """Ties every axis of the first input to the output's, and gives zeros back to those that are normalised over."""
    x, out = op.input(0), op.output()
    for axis in x.axes():
        op.tie(axis, out.axis(axis.position))
        if axis.position not in positions:
            continue
        if op.type == "Hardmax":
            op.mix(axis)  # of equal ones it takes the first
        else:
            op.refill(axis)


@rule("Softmax LogSoftmax", postprocessing=Postprocessing.SOFTMAX)
@rule("Hardmax", postprocessing=Postprocessing.CHOICE)
def softmax(op: Op) -> None:
    """Normalises over one axis (before opset 13: over all from that axis on): exact over zeros, given zeros."""
    rank = len(op.input(0).shape or [1])
    axis_of = op.attr("axis", -1 if op.opset >= 13 else 1) % rank
    over = [axis_of] if op.opset >= 13 else list(range(axis_of, rank))
    _normalised_over(op, over)


@rule("LpNormalization")
def lp_normalization(op: Op) -> None:
    """Divides by the norm over one axis: exact as long as what is removed is zero."""
    x, out = op.input(0), op.output()
    for axis in x.axes():
        op.tie(axis, out.axis(axis.position), zero=True)
    op.sum_over(x.axis(op.attr("axis", -1)))


@rule("MeanVarianceNormalization")
def mean_variance_normalization(op: Op) -> None:
    """Normalises over the listed axes: exact where they are zero once masked, given zeros."""
    over = [a % len(op.input(0).shape or [1]) for a in op.attr("axes", [0, 2, 3])]
    _normalised_over(op, over)


@rule("LRN")
def lrn(op: Op) -> None:
    """Normalises over a window of neighbouring channels: they mix."""
    x, out = op.input(0), op.output()
    for axis in x.axes():
        op.tie(axis, out.axis(axis.position), zero=True)
    op.mix(x.axis(1))
    op.ordered(x.axis(1))
