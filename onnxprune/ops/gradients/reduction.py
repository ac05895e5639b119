"""Gradients of reductions, running sums and softmax."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.ops.gradients.node_gradient import NodeGradient
from onnxprune.ops.registry import gradient

_SOFTMAX_ALONG_ONE_AXIS = 13


def reduced_axes(g: NodeGradient) -> list[int]:
    """The axes that a reduction sums over, counted from the front."""
    x = g.node.input(0)
    axes = g.attr("axes", None)
    if axes is None:
        axes = g.numbers(1)
    if not axes:
        return [] if g.attr("noop_with_empty_axes", 0) else list(range(g.rank(x)))
    return sorted(g.axis(x, int(axis)) for axis in axes)


def _kept(g: NodeGradient, name: str, axes: Sequence[int]) -> str:
    """A value of the output's shape with the reduced axes as axes of length 1."""
    return name if g.attr("keepdims", 1) else g.write.unsqueeze(name, axes)


def _count(g: NodeGradient, axes: Sequence[int]) -> str:
    """How many elements are reduced to one."""
    x = g.node.input(0)
    lengths = [x.axis(axis).length for axis in axes]
    if None not in lengths:
        return g.number(float(g.count([int(n or 0) for n in lengths])))
    whole, left = (g.mask(g.emit("Size", name)) for name in (g.x(), g.y()))
    return g.emit("Div", whole, left)


@gradient("ReduceSum")
def reduce_sum(g: NodeGradient) -> None:
    """1 for every element."""
    g.give(0, g.stretched(_kept(g, g.d(), reduced_axes(g)), g.node.input(0)))


@gradient("ReduceMean")
def reduce_mean(g: NodeGradient) -> None:
    """One over the number of elements."""
    axes = reduced_axes(g)
    share = g.emit("Div", _kept(g, g.d(), axes), _count(g, axes))
    g.give(0, g.stretched(share, g.node.input(0)))


@gradient("ReduceSumSquare")
def reduce_sum_square(g: NodeGradient) -> None:
    """Twice the element."""
    g.give(0, g.times(g.x(), g.number(2), _kept(g, g.d(), reduced_axes(g))))


@gradient("ReduceL2")
def reduce_l2(g: NodeGradient) -> None:
    """X / y; 0 where y is 0, as x is then."""
    axes = reduced_axes(g)
    norm = g.above_zero(_kept(g, g.y(), axes))
    g.give(0, g.times(g.x(), g.emit("Div", _kept(g, g.d(), axes), norm)))


@gradient("ReduceL1")
def reduce_l1(g: NodeGradient) -> None:
    """The sign."""
    g.give(0, g.times(g.emit("Sign", g.x()), _kept(g, g.d(), reduced_axes(g))))


@gradient("ReduceLogSumExp")
def reduce_log_sum_exp(g: NodeGradient) -> None:
    """The softmax."""
    axes = reduced_axes(g)
    share = g.emit("Exp", g.emit("Sub", g.x(), _kept(g, g.y(), axes)))
    g.give(0, g.times(share, _kept(g, g.d(), axes)))


@gradient("ReduceLogSum")
def reduce_log_sum(g: NodeGradient) -> None:
    """One over the sum."""
    axes = reduced_axes(g)
    share = g.emit("Div", _kept(g, g.d(), axes), g.emit("Exp", _kept(g, g.y(), axes)))
    g.give(0, g.stretched(share, g.node.input(0)))


@gradient("ReduceProd")
def reduce_prod(g: NodeGradient) -> None:
    """The product of the others: y / x, and where x is 0 the product of what is left if that is the only 0."""
    axes, one = reduced_axes(g), g.number(1)
    zero = g.emit("Equal", g.x(), g.number(0))
    zeros = g.write.reduce_sum(g.mask(zero), axes, keepdims=True)
    rest = g.emit("Where", zero, one, g.x())
    attributes = {"axes": g.attr("axes", None), "keepdims": 1, "noop_with_empty_axes": g.attr("noop_with_empty_axes")}
    product = g.emit("ReduceProd", rest, *(g.x(i) for i in (1,) if g.node.has(i)), **attributes)
    others = g.emit("Where", zero, g.mask(g.emit("Equal", zeros, one)), g.mask(g.emit("Equal", zeros, g.number(0))))
    g.give(0, g.times(_kept(g, g.d(), axes), g.emit("Div", product, rest), others))


@gradient("CumSum")
def cum_sum(g: NodeGradient) -> None:
    """The sum from the other end."""
    directions = {"exclusive": int(g.attr("exclusive", 0)), "reverse": 1 - int(g.attr("reverse", 0))}
    g.give(0, g.emit("CumSum", g.d(), g.x(1), **directions))


@gradient("ReduceMax ReduceMin")
def reduce_extreme(g: NodeGradient) -> None:
    """1 where the extreme is, shared by elements that are equal."""
    axes = reduced_axes(g)
    beats = "Less" if g.node.op_type == "ReduceMax" else "Greater"
    best = g.mask(g.emit("Not", g.emit(beats, g.x(), _kept(g, g.y(), axes))))
    share = g.emit("Div", _kept(g, g.d(), axes), g.write.reduce_sum(best, axes, keepdims=True))
    g.give(0, g.times(best, share))


def _softmax_axes(g: NodeGradient) -> list[int]:
    """The axes that a softmax sums over: one, or all from one on before opset 13."""
    x = g.node.input(0)
    if g.node.opset >= _SOFTMAX_ALONG_ONE_AXIS:
        return [g.axis(x, int(g.attr("axis", -1)))]
    return list(range(g.axis(x, int(g.attr("axis", 1))), g.rank(x)))


@gradient("Softmax")
def softmax(g: NodeGradient) -> None:
    """Y (d - sum of d y)."""
    weighted = g.times(g.d(), g.y())
    total = g.write.reduce_sum(weighted, _softmax_axes(g), keepdims=True)
    g.give(0, g.emit("Sub", weighted, g.times(g.y(), total)))


@gradient("LogSoftmax")
def log_softmax(g: NodeGradient) -> None:
    """D - softmax times the sum of d."""
    total = g.write.reduce_sum(g.d(), _softmax_axes(g), keepdims=True)
    g.give(0, g.emit("Sub", g.d(), g.times(g.emit("Exp", g.y()), total)))
