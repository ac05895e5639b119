"""Gradients of trigonometric and hyperbolic functions, and of their inverses."""

from __future__ import annotations

from onnxprune.ops.gradients import slopes
from onnxprune.ops.gradients.elementwise import unary
from onnxprune.ops.gradients.node_gradient import NodeGradient


def sin(g: NodeGradient) -> str:
    """The cosine."""
    return g.emit("Cos", g.x())


def cos(g: NodeGradient) -> str:
    """Minus the sine."""
    return g.emit("Neg", g.emit("Sin", g.x()))


def tan(g: NodeGradient) -> str:
    """1 + y squared."""
    return g.emit("Add", g.times(g.y(), g.y()), g.number(1))


def sinh(g: NodeGradient) -> str:
    """The hyperbolic cosine."""
    return g.emit("Cosh", g.x())


def cosh(g: NodeGradient) -> str:
    """The hyperbolic sine."""
    return g.emit("Sinh", g.x())


def _one_plus_square(g: NodeGradient) -> str:
    return g.emit("Add", g.times(g.x(), g.x()), g.number(1))


def _over_root(g: NodeGradient, square: str) -> str:
    return g.emit("Reciprocal", g.emit("Sqrt", square))


def asin(g: NodeGradient) -> str:
    """1 / sqrt(1 - x squared)."""
    return _over_root(g, slopes.tanh(g, g.x()))


def acos(g: NodeGradient) -> str:
    """-1 / sqrt(1 - x squared)."""
    return g.emit("Neg", asin(g))


def atan(g: NodeGradient) -> str:
    """1 / (1 + x squared)."""
    return g.emit("Reciprocal", _one_plus_square(g))


def asinh(g: NodeGradient) -> str:
    """1 / sqrt(x squared + 1)."""
    return _over_root(g, _one_plus_square(g))


def acosh(g: NodeGradient) -> str:
    """1 / sqrt(x squared - 1)."""
    return _over_root(g, g.emit("Sub", g.times(g.x(), g.x()), g.number(1)))


def atanh(g: NodeGradient) -> str:
    """1 / (1 - x squared)."""
    return g.emit("Reciprocal", slopes.tanh(g, g.x()))


for _name, _derivative in {
    "Sin": sin,
    "Cos": cos,
    "Tan": tan,
    "Sinh": sinh,
    "Cosh": cosh,
    "Asin": asin,
    "Acos": acos,
    "Atan": atan,
    "Asinh": asinh,
    "Acosh": acosh,
    "Atanh": atanh,
}.items():
    unary(_name, _derivative)
