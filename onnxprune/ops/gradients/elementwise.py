"""Gradients of operators that work on every element alone, with numpy-style broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable

from onnx import TensorProto

from onnxprune.ops.gradients import slopes
from onnxprune.ops.gradients.node_gradient import NodeGradient
from onnxprune.ops.registry import gradient

Derivative = Callable[[NodeGradient], str]


@gradient("Identity Dropout")
def identity(g: NodeGradient) -> None:
    """What goes in comes out."""
    if g.node.has(2) and any(g.numbers(2) or [True]):
        raise LookupError(f"{g.node.label} is in training")
    g.give(0, g.d())


@gradient("Cast CastLike")
def cast(g: NodeGradient) -> None:
    """The gradient is cast back, but not to half precision; of a second input only the type matters."""
    whole = g.node.input(0).elem_type == TensorProto.DOUBLE
    g.give(0, g.emit("Cast", g.d(), to=TensorProto.DOUBLE if whole else TensorProto.FLOAT))
    if g.wants(1):
        g.give(1, g.zeros(g.node.input(1)))


@gradient("Sign Floor Ceil Round")
def steps(g: NodeGradient) -> None:
    """Constant between the steps."""
    g.give(0, g.zeros(g.node.input(0)))


@gradient("Neg")
def neg(g: NodeGradient) -> None:
    """-1."""
    g.give(0, g.emit("Neg", g.d()))


def relu(g: NodeGradient) -> str:
    """1 where the output is above zero."""
    return slopes.relu(g, g.y())


def leaky_relu(g: NodeGradient) -> str:
    """1 above zero, alpha below."""
    return slopes.leaky_relu(g, g.x(), float(g.attr("alpha", 0.01)))


def _above_and_below(g: NodeGradient, above: float, below: str) -> str:
    """A constant where the input is above zero, else some value."""
    return g.emit("Where", g.emit("Greater", g.x(), g.number(0)), g.number(above), below)


def elu(g: NodeGradient) -> str:
    """Y + alpha below zero."""
    return _above_and_below(g, 1.0, g.emit("Add", g.y(), g.number(float(g.attr("alpha", 1.0)))))


def celu(g: NodeGradient) -> str:
    """1 + y / alpha below zero."""
    alpha = float(g.attr("alpha", 1.0))
    return _above_and_below(g, 1.0, g.emit("Add", g.times(g.y(), g.number(1 / alpha)), g.number(1)))


def selu(g: NodeGradient) -> str:
    """Gamma above zero, y + alpha gamma below."""
    alpha = float(g.attr("alpha", 1.67326319217681884765625))
    gamma = float(g.attr("gamma", 1.05070102214813232421875))
    return _above_and_below(g, gamma, g.emit("Add", g.y(), g.number(alpha * gamma)))


def thresholded_relu(g: NodeGradient) -> str:
    """1 above alpha."""
    return g.mask(g.emit("Greater", g.x(), g.number(float(g.attr("alpha", 1.0)))))


def sigmoid(g: NodeGradient) -> str:
    """Y (1 - y)."""
    return slopes.sigmoid(g, g.y())


def tanh(g: NodeGradient) -> str:
    """1 - y squared."""
    return slopes.tanh(g, g.y())


def softplus(g: NodeGradient) -> str:
    """The logistic function."""
    return g.emit("Sigmoid", g.x())


def softsign(g: NodeGradient) -> str:
    """(1 - |y|) squared."""
    rest = g.emit("Sub", g.number(1), g.emit("Abs", g.y()))
    return g.times(rest, rest)


def hard_sigmoid(g: NodeGradient) -> str:
    """Alpha where the output is between 0 and 1."""
    return g.times(slopes.clip(g, g.y(), 0, 1), g.number(float(g.attr("alpha", 0.2))))


def hard_swish(g: NodeGradient) -> str:
    """H + x h', where h is the hard sigmoid with alpha 1/6."""
    h = g.emit("HardSigmoid", g.x(), alpha=1 / 6, beta=0.5)
    return g.emit("Add", h, g.times(slopes.clip(g, h, 0, 1), g.x(), g.number(1 / 6)))


def mish(g: NodeGradient) -> str:
    """T + x (1 - t squared) sigmoid(x), where t = tanh(softplus(x))."""
    t = g.emit("Tanh", g.emit("Softplus", g.x()))
    return g.emit("Add", t, g.times(g.x(), slopes.tanh(g, t), g.emit("Sigmoid", g.x())))


def swish(g: NodeGradient) -> str:
    """S + alpha x s (1 - s), where s = sigmoid(alpha x)."""
    return slopes.swish(g, g.x(), float(g.attr("alpha", 1.0)))


def erf(g: NodeGradient) -> str:
    """2 / sqrt(pi) exp(-x squared)."""
    return g.times(g.emit("Exp", g.emit("Neg", g.times(g.x(), g.x()))), g.number(2 / math.sqrt(math.pi)))


def gelu(g: NodeGradient) -> str:
    """Phi(x) + x phi(x); with the tanh approximation, the derivative of that."""
    return slopes.gelu(g, g.x(), approximate=g.attr("approximate", "none") == "tanh")


def exp(g: NodeGradient) -> str:
    """Y."""
    return g.y()


def log(g: NodeGradient) -> str:
    """1 / x."""
    return g.emit("Reciprocal", g.x())


def sqrt(g: NodeGradient) -> str:
    """1 / (2 y); finite at 0, so that the gradient of what is squared before it is 0 there."""
    return g.emit("Div", g.number(0.5), g.above_zero(g.y()))


def absolute(g: NodeGradient) -> str:
    """The sign."""
    return g.emit("Sign", g.x())


def reciprocal(g: NodeGradient) -> str:
    """Minus y squared."""
    return g.emit("Neg", g.times(g.y(), g.y()))


def shrink(g: NodeGradient) -> str:
    """1 beyond lambda."""
    return g.mask(g.emit("Greater", g.emit("Abs", g.x()), g.number(float(g.attr("lambd", 0.5)))))


def unary(op_type: str, derivative: Derivative, domain: str = "") -> None:
    """Registers the derivative of an operator of one input."""

    def rule(g: NodeGradient) -> None:
        g.give(0, g.times(g.d(), derivative(g)))

    gradient(op_type, domain=domain)(rule)


for _name, _derivative in {
    "Relu": relu,
    "LeakyRelu": leaky_relu,
    "Elu": elu,
    "Celu": celu,
    "Selu": selu,
    "ThresholdedRelu": thresholded_relu,
    "Sigmoid": sigmoid,
    "Tanh": tanh,
    "Softplus": softplus,
    "Softsign": softsign,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "Mish": mish,
    "Swish": swish,
    "Erf": erf,
    "Gelu": gelu,
    "Exp": exp,
    "Log": log,
    "Sqrt": sqrt,
    "Abs": absolute,
    "Reciprocal": reciprocal,
    "Shrink": shrink,
}.items():
    unary(_name, _derivative)
unary("Gelu", gelu, "com.microsoft")


@gradient("Clip")
def clip(g: NodeGradient) -> None:
    """1 between the bounds, which are included; a bound gets the gradients of what is beyond it."""
    beyond = []
    for i, name, beats in ((1, "min", "Less"), (2, "max", "Greater")):
        bound = g.attr(name)
        if bound is not None or g.node.has(i):
            beyond.append(g.emit(beats, g.x(), g.x(i) if bound is None else g.number(float(bound))))
        if g.wants(i):
            _give_summed(g, i, g.times(g.d(), g.mask(beyond[-1])))
    outside = beyond[0] if len(beyond) == 1 else g.emit("Or", *beyond) if beyond else None
    g.give(0, g.d() if outside is None else g.times(g.d(), g.mask(g.emit("Not", outside))))


@gradient("Mod")
def mod(g: NodeGradient) -> None:
    """1, and minus the whole number that the quotient is cut to."""
    _give_summed(g, 0, g.d())
    if g.wants(1):
        _give_summed(g, 1, g.times(g.d(), g.emit("Div", g.emit("Sub", g.y(), g.x()), g.x(1))))


@gradient("PRelu", parameters=(1,))
def prelu(g: NodeGradient) -> None:
    """1 above zero, the slope below."""
    x, slope = g.node.input(0), g.node.input(1)
    above = g.emit("Greater", g.x(), g.number(0))
    g.give(0, g.emit("Where", above, g.d(), g.times(g.d(), g.x(1))))
    if g.wants(1):
        below = g.emit("Where", above, g.number(0), g.times(g.d(), g.x()))
        g.give(1, g.sum_to(below, x, slope))


def _give_summed(g: NodeGradient, index: int, name: str) -> None:
    """Gives a gradient of the output's shape to an input that broadcasting may have stretched."""
    if g.wants(index):
        g.give(index, g.sum_to(name, g.node.output(), g.node.input(index)))


@gradient("Add Sum")
def add(g: NodeGradient) -> None:
    """1 for every summand."""
    for i in range(len(g.node.inputs)):
        _give_summed(g, i, g.d())


@gradient("Mean")
def mean(g: NodeGradient) -> None:
    """One over the number of summands."""
    share = g.times(g.d(), g.number(1 / len(g.node.inputs)))
    for i in range(len(g.node.inputs)):
        _give_summed(g, i, share)


@gradient("Sub")
def sub(g: NodeGradient) -> None:
    """1 and -1."""
    _give_summed(g, 0, g.d())
    if g.wants(1):
        _give_summed(g, 1, g.emit("Neg", g.d()))


@gradient("Mul")
def mul(g: NodeGradient) -> None:
    """The other factor."""
    for i in (0, 1):
        if g.wants(i):
            _give_summed(g, i, g.times(g.d(), g.x(1 - i)))


@gradient("Div")
def div(g: NodeGradient) -> None:
    """1 / b and -y / b."""
    quotient = g.emit("Div", g.d(), g.x(1))
    _give_summed(g, 0, quotient)
    if g.wants(1):
        _give_summed(g, 1, g.emit("Neg", g.times(quotient, g.y())))


@gradient("Pow")
def power(g: NodeGradient) -> None:
    """N x to the n - 1, for a constant n."""
    if g.wants(1):
        raise LookupError(f"the exponent of {g.node.label} is computed")
    exponent = g.emit("Cast", g.x(1), to=g.node.input(0).elem_type)
    less = g.emit("Sub", exponent, g.number(1))
    known = g.numbers(1) if g.node.input(1).tensor is not None else None
    base = g.x()
    if known is not None and all(0 < n < 1 for n in known):  # a root: see `sqrt`
        base = g.above_zero(base)
    if known is not None and 0 in known:  # a power of 0 is 1, also of 0, where the formula is not a number
        less = g.emit("Abs", less) if all(n >= 0 for n in known) else less
    _give_summed(g, 0, g.times(g.d(), exponent, g.emit("Pow", base, less)))


@gradient("Max Min")
def extreme(g: NodeGradient) -> None:
    """1 for the first operand that is the extreme, 0 for the others."""
    beats = "Less" if g.node.op_type == "Max" else "Greater"
    left: str | None = None
    for i in range(len(g.node.inputs)):
        best = g.mask(g.emit("Not", g.emit(beats, g.x(i), g.y())))
        mine = best if left is None else g.times(best, left)
        _give_summed(g, i, g.times(g.d(), mine))
        others = g.emit("Sub", g.number(1), best)
        left = others if left is None else g.times(left, others)


@gradient("Where")
def where(g: NodeGradient) -> None:
    """1 for the operand that was taken."""
    zero = g.write.number(0.0, g.node.output().elem_type)
    _give_summed(g, 1, g.emit("Where", g.x(), g.d(), zero))
    if g.wants(2):
        _give_summed(g, 2, g.emit("Where", g.x(), zero, g.d()))
