"""Gradients of quantised values: those of the numbers that they stand for.

Rounding counts as if it had a slope of 1, and clipping as what it is (the straight-through estimator of Bengio et al.,
"Estimating or propagating gradients through stochastic neurons", 2013).
"""

from __future__ import annotations

from onnxprune.ops.gradients.node_gradient import NodeGradient
from onnxprune.ops.registry import gradient


@gradient("DequantizeLinear")
def dequantize(g: NodeGradient) -> None:
    """The gradient of a number is that of what it stands for."""
    g.give(0, g.d())


@gradient("QuantizeLinear")
def quantize(g: NodeGradient) -> None:
    """1 where the value is within a step of what it is rounded to, 0 where it was clipped."""
    scale = g.node.input(1)
    if any(axis.length != 1 for axis in scale.axes()):
        raise LookupError(f"{g.node.label} has several scales")
    operands = [g.y(), *(v.name for v in g.node.inputs[1:] if v is not None)]
    missed = g.emit("Abs", g.emit("Sub", g.x(), g.emit("DequantizeLinear", *operands)))
    clipped = g.mask(g.emit("Greater", missed, scale.name))
    g.give(0, g.times(g.d(), g.emit("Sub", g.number(1.0), clipped)))
