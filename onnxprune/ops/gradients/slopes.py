"""Derivatives of activations that several operators have, by a value that tells them: mostly the output."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxprune.ops.gradients.node_gradient import NodeGradient


def sigmoid(g: NodeGradient, y: str) -> str:
    """Y (1 - y)."""
    return g.times(y, g.emit("Sub", g.number(1), y))


def tanh(g: NodeGradient, y: str) -> str:
    """1 - y squared."""
    return g.emit("Sub", g.number(1), g.times(y, y))


def relu(g: NodeGradient, y: str) -> str:
    """1 above zero, else 0."""
    return g.mask(g.emit("Greater", y, g.number(0)))


def leaky_relu(g: NodeGradient, y: str, alpha: float) -> str:
    """1 above zero, else alpha."""
    return g.emit("Add", g.times(relu(g, y), g.number(1 - alpha)), g.number(alpha))


def clip(g: NodeGradient, y: str, low: float, high: float) -> str:
    """1 strictly between two bounds, else 0."""
    return g.times(g.mask(g.emit("Greater", y, g.number(low))), g.mask(g.emit("Less", y, g.number(high))))


def swish(g: NodeGradient, x: str, alpha: float) -> str:
    """S + alpha x s (1 - s), where s = sigmoid(alpha x)."""
    factor = g.number(alpha)
    s = g.emit("Sigmoid", g.times(x, factor))
    return g.emit("Add", s, g.times(x, factor, sigmoid(g, s)))


def gelu(g: NodeGradient, x: str, *, approximate: bool) -> str:
    """Phi(x) + x phi(x); with the tanh approximation, the derivative of that."""
    half = g.times(x, g.number(0.5))
    if approximate:
        c, cubic = math.sqrt(2 / math.pi), 0.044715
        square = g.times(x, x)
        inner = g.times(x, g.emit("Add", g.times(square, g.number(c * cubic)), g.number(c)))
        t = g.emit("Tanh", inner)
        slope = g.emit("Add", g.times(square, g.number(3 * c * cubic)), g.number(c))
        bell = g.times(half, tanh(g, t), slope)
        return g.emit("Add", g.times(g.emit("Add", t, g.number(1)), g.number(0.5)), bell)
    share = g.emit("Add", g.times(g.emit("Erf", g.times(x, g.number(math.sqrt(0.5)))), g.number(0.5)), g.number(0.5))
    density = g.emit("Exp", g.emit("Neg", g.times(half, x)))
    return g.emit("Add", share, g.times(x, density, g.number(1 / math.sqrt(2 * math.pi))))


_PARAMETERS = {"LeakyRelu": 1, "Clip": 2, "HardSigmoid": 2}
"""How many parameters a fused activation has."""


def before_activation(g: NodeGradient, given: Sequence[float]) -> str:
    """The gradient of what a fused node has before its activation, whose slope its output tells.

    Args:
        g: The node, with the activation in its attribute `activation`, if there is one.
        given: Parameters of the activation.

    Raises:
        LookupError: The slope does not follow from the output.
    """
    kind, y = g.attr("activation"), g.y()
    if not kind:
        return g.d()
    if len(given) < _PARAMETERS.get(kind, 0) or (kind == "LeakyRelu" and given[0] < 0):
        raise LookupError(f"the slope of {g.node.label} does not follow from its output")
    if kind == "Sigmoid":
        slope = sigmoid(g, y)
    elif kind == "Tanh":
        slope = tanh(g, y)
    elif kind == "Relu":
        slope = relu(g, y)
    elif kind == "LeakyRelu":
        slope = leaky_relu(g, y, given[0])
    elif kind == "Clip":
        slope = clip(g, y, given[0], given[1])
    elif kind == "HardSigmoid":
        slope = g.times(clip(g, y, 0.0, 1.0), g.number(given[0]))
    else:
        raise LookupError(f"{g.node.label} has the activation {kind}")
    return g.times(g.d(), slope)
