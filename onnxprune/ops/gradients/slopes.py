"""Derivatives of activations that several operators have, by a value that tells them: mostly the output."""

from __future__ import annotations

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
