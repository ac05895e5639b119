"""Gradients of normalisations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.ops.gradients.node_gradient import NodeGradient
from onnxprune.ops.registry import gradient


@gradient("BatchNormalization", parameters=(1, 2))
def batch_normalization(g: NodeGradient) -> None:
    """An affine function of each channel, by the running statistics, which are no parameters."""
    if g.attr("training_mode", 0) or len([o for o in g.node.outputs if o is not None]) > 1:
        raise LookupError(f"{g.node.label} is in training")
    rank = g.rank(g.node.input(0))
    variance = g.emit("Add", g.x(4), g.number(float(g.attr("epsilon", 1e-5))))
    inverse = g.emit("Reciprocal", g.emit("Sqrt", variance))
    slope, others = g.times(g.x(1), inverse), [0, *range(2, rank)]
    if g.wants(0):
        g.give(0, g.times(g.d(), _by_channel(g, slope, rank)))
    if g.wants(2) or g.wants(3):
        summed = g.write.reduce_sum(g.d(), others, keepdims=False)
        if g.wants(2):
            g.give(2, summed)
        if g.wants(3):
            g.give(3, g.emit("Neg", g.times(summed, slope)))
    if g.wants(1) or g.wants(4):
        centred = g.emit("Sub", g.x(), _by_channel(g, g.x(3), rank))
        moved = g.times(g.write.reduce_sum(g.times(g.d(), centred), others, keepdims=False), inverse)
        if g.wants(1):
            g.give(1, moved)
        if g.wants(4):
            g.give(4, g.times(g.emit("Div", g.times(moved, g.x(1)), variance), g.number(-0.5)))


def _by_channel(g: NodeGradient, vector: str, rank: int) -> str:
    """A vector along axis 1 of a value."""
    return g.write.unsqueeze(vector, range(1, rank - 1))


def _mean(g: NodeGradient, name: str, axes: Sequence[int], lengths: int) -> str:
    return g.times(g.write.reduce_sum(name, axes, keepdims=True), g.number(1 / lengths))


def standardised(
    g: NodeGradient, x: str, axes: Sequence[int], count: int, epsilon: float = 1e-5, *, centred: bool = True
) -> tuple[str, str]:
    """A value over its deviation from the mean, or from zero, along some axes, and one over the deviation.

    Args:
        g: The node, whose attribute takes the place of `epsilon`.
        x: Name of the value.
        axes: The axes.
        count: Elements along them.
        epsilon: What is added to the variance by default.
        centred: Whether the mean is taken away.
    """
    rest = g.emit("Sub", x, _mean(g, x, axes, count)) if centred else x
    variance = _mean(g, g.times(rest, rest), axes, count)
    deviation = g.emit("Sqrt", g.emit("Add", variance, g.number(float(g.attr("epsilon", epsilon)))))
    inverse = g.emit("Reciprocal", deviation)
    return g.times(rest, inverse), inverse


def through(
    g: NodeGradient, d: str, normed: str, inverse: str, axes: Sequence[int], count: int, *, centred: bool = True
) -> str:
    """Gradient of what was standardised: (d - mean(d) - z mean(d z)) / deviation, where centred."""
    along = g.times(normed, _mean(g, g.times(d, normed), axes, count))
    rest = g.emit("Sub", d, _mean(g, d, axes, count)) if centred else d
    return g.times(g.emit("Sub", rest, along), inverse)


def _static_count(g: NodeGradient, axes: Sequence[int]) -> int:
    x = g.node.input(0)
    lengths = [x.axis(axis).length for axis in axes]
    if None in lengths:
        raise LookupError(f"how many elements {g.node.label} averages over is only known in the run")
    return g.count([int(n or 0) for n in lengths])


@gradient("LayerNormalization", domain="com.microsoft", parameters=(1, 2))
@gradient("LayerNormalization", parameters=(1, 2))
def layer_normalization(g: NodeGradient) -> None:
    """Mean and deviation are functions of the input."""
    _over_trailing_axes(g, centred=True)


@gradient("SimplifiedLayerNormalization", domain="com.microsoft", parameters=(1,))
@gradient("RMSNormalization SimplifiedLayerNormalization", parameters=(1,))
def rms_normalization(g: NodeGradient) -> None:
    """The root of the mean square is a function of the input."""
    _over_trailing_axes(g, centred=False)


def _over_trailing_axes(g: NodeGradient, *, centred: bool) -> None:
    x = g.node.input(0)
    axes = list(range(g.axis(x, int(g.attr("axis", -1))), g.rank(x)))
    count = _static_count(g, axes)
    normed, inverse = standardised(g, g.x(), axes, count, centred=centred)
    if g.wants(0):
        g.give(0, through(g, g.times(g.d(), g.x(1)), normed, inverse, axes, count, centred=centred))
    if g.wants(1):
        g.give(1, g.sum_to(g.times(g.d(), normed), x, g.node.input(1)))
    if g.wants(2):
        g.give(2, g.sum_to(g.d(), x, g.node.input(2)))


@gradient("SkipLayerNormalization", domain="com.microsoft", parameters=(2, 3, 4))
def skip_layer_normalization(g: NodeGradient) -> None:
    """The normalisation of a sum: mean and deviation are functions of it."""
    _of_sum(g, shift=3, bias=4)


@gradient("SkipSimplifiedLayerNormalization", domain="com.microsoft", parameters=(2, 3))
def skip_rms_normalization(g: NodeGradient) -> None:
    """The normalisation of a sum: the root of the mean square is a function of it."""
    _of_sum(g, shift=None, bias=3)


def _of_sum(g: NodeGradient, shift: int | None, bias: int) -> None:
    """Gradients of a normalisation over the last axis of a sum, which may be the last output."""
    x, centred = g.node.input(0), shift is not None
    summands = [i for i in (0, 1, bias) if g.node.has(i)]
    total = g.x(summands[0])
    for i in summands[1:]:
        total = g.emit("Add", total, g.x(i))
    axes = [g.rank(x) - 1]
    count = _static_count(g, axes)
    normed, inverse = standardised(g, total, axes, count, 1e-12, centred=centred)
    d = g.d_or_none(0)
    terms = [] if d is None else [through(g, g.times(d, g.x(2)), normed, inverse, axes, count, centred=centred)]
    if len(g.node.outputs) > 3 and (of_sum := g.d_or_none(3)) is not None:
        terms.append(of_sum)
    of_total = g.write.total(terms)
    for i in summands:
        if g.wants(i):
            g.give(i, g.sum_to(of_total, x, g.node.input(i)))
    if g.wants(2):
        g.give(2, g.sum_to(g.times(d, normed) if d is not None else g.zeros(x), x, g.node.input(2)))
    if shift is not None and g.wants(shift):
        g.give(shift, g.sum_to(d or g.zeros(x), x, g.node.input(shift)))


@gradient("LpNormalization")
def lp_normalization(g: NodeGradient) -> None:
    """Over the norm, whose gradient is y, or the sign: (d - that times the sum of d y) / norm."""
    axis, power = g.axis(g.node.input(0), int(g.attr("axis", -1))), int(g.attr("p", 2))
    size = g.emit("Abs", g.x()) if power == 1 else g.times(g.x(), g.x())
    total = g.write.reduce_sum(size, [axis], keepdims=True)
    norm = total if power == 1 else g.emit("Sqrt", total)
    along = g.write.reduce_sum(g.times(g.d(), g.y()), [axis], keepdims=True)
    slope = g.emit("Sign", g.x()) if power == 1 else g.y()
    g.give(0, g.emit("Div", g.emit("Sub", g.d(), g.times(slope, along)), g.above_zero(norm)))


@gradient("MeanVarianceNormalization")
def mean_variance_normalization(g: NodeGradient) -> None:
    """Mean and deviation are functions of the input; the number that keeps it from 0 is added to the deviation."""
    x = g.node.input(0)
    axes = sorted(g.axis(x, int(axis)) for axis in g.attr("axes", None) or [0, 2, 3])
    count = _static_count(g, axes)
    centred = g.emit("Sub", g.x(), _mean(g, g.x(), axes, count))
    deviation = g.emit("Sqrt", _mean(g, g.times(centred, centred), axes, count))
    inverse = g.emit("Reciprocal", g.emit("Add", deviation, g.number(1e-9)))
    direction = g.emit("Div", centred, g.above_zero(deviation))
    along = g.times(direction, _mean(g, g.times(g.d(), centred, inverse), axes, count))
    g.give(0, g.times(g.emit("Sub", g.emit("Sub", g.d(), _mean(g, g.d(), axes, count)), along), inverse))


@gradient("InstanceNormalization", parameters=(1, 2))
def instance_normalization(g: NodeGradient) -> None:
    """Mean and deviation of each channel of each sample."""
    rank = g.rank(g.node.input(0))
    axes = list(range(2, rank))
    count = _static_count(g, axes)
    normed, inverse = standardised(g, g.x(), axes, count)
    others = [0, *axes]
    if g.wants(0):
        scaled = g.times(g.d(), _by_channel(g, g.x(1), rank))
        g.give(0, through(g, scaled, normed, inverse, axes, count))
    if g.wants(1):
        g.give(1, g.write.reduce_sum(g.times(g.d(), normed), others, keepdims=False))
    if g.wants(2):
        g.give(2, g.write.reduce_sum(g.d(), others, keepdims=False))


@gradient("GroupNormalization", parameters=(1, 2))
def group_normalization(g: NodeGradient) -> None:
    """Mean and deviation of each group of channels; before opset 21 with a scale for each group."""
    x = g.node.input(0)
    samples, channels, *space = g.lengths(x)
    groups, rank = int(g.attr("num_groups")), len(space) + 2
    parted, axes = [samples, groups, channels // groups, *space], list(range(2, rank + 1))
    count = g.count(parted[2:])
    normed, inverse = standardised(g, g.write.reshape(g.x(), parted), axes, count)
    whole = g.reshaped(normed, x)
    size = 1 if g.node.opset >= 21 else channels // groups
    others = [0, *range(2, rank)]
    if g.wants(0):
        scale = _each_channel(g, g.x(1), groups, size)
        scaled = g.times(g.d(), _by_channel(g, scale, rank))
        g.give(0, g.reshaped(through(g, g.write.reshape(scaled, parted), normed, inverse, axes, count), x))
    for i, name in ((1, g.times(g.d(), whole)), (2, g.d())):
        if g.wants(i):
            summed = g.write.reduce_sum(name, others, keepdims=False)
            if size > 1:
                summed = g.write.reduce_sum(g.write.reshape(summed, [groups, size]), [1], keepdims=False)
            g.give(i, summed)


def _each_channel(g: NodeGradient, vector: str, groups: int, size: int) -> str:
    """A scale for each channel, from one for each group where the operator has such."""
    if size == 1:
        return vector
    wide = g.emit("Expand", g.write.unsqueeze(vector, [1]), g.write.ints([groups, size]))
    return g.write.reshape(wide, [groups * size])


@gradient("LRN")
def local_response(g: NodeGradient) -> None:
    """Output x s^-beta, with s = bias + alpha / size times the sum of x^2 over a window of channels.

    The gradient is d s^-beta - 2 alpha beta / size x (the sum of d x s^(-beta - 1) over the windows that x is in).
    """
    x, size = g.node.input(0), int(g.attr("size"))
    alpha, beta = float(g.attr("alpha", 1e-4)), float(g.attr("beta", 0.75))
    channels = _static_count(g, [1])
    windows = np.zeros((channels, channels))
    for channel in range(channels):
        windows[max(0, channel - (size - 1) // 2) : channel + size // 2 + 1, channel] = 1
    kind = g.dtype(x)
    there, back = (g.write.constant(matrix.astype(kind)) for matrix in (windows, windows.T))
    sums = g.product_along(g.times(g.x(), g.x()), x, 1, there)
    s = g.emit("Add", g.times(sums, g.number(alpha / size)), g.number(float(g.attr("bias", 1.0))))
    power = g.emit("Pow", s, g.number(-beta))
    along = g.product_along(g.times(g.d(), g.x(), g.emit("Div", power, s)), x, 1, back)
    g.give(0, g.emit("Sub", g.times(g.d(), power), g.times(g.x(), along, g.number(2 * alpha * beta / size))))
