"""Gradients of quantised values: those of the numbers that they stand for.

Rounding counts as if it had a slope of 1, and clipping as what it is (the straight-through estimator of Bengio et al.,
"Estimating or propagating gradients through stochastic neurons", 2013).
"""

from __future__ import annotations

from onnxprune.graph.operators import operator_of
from onnxprune.ops.gradients.node_gradient import NodeGradient
from onnxprune.ops.registry import gradient


@gradient("DynamicQuantizeLinear")
def dynamic_quantize(g: NodeGradient) -> None:
    """The gradient of what the numbers stand for; nothing is clipped, and the range counts as given."""
    for i in (1, 2):
        g.d_or_none(i)
    g.give(0, g.d())


@gradient("DequantizeLinear")
def dequantize(g: NodeGradient) -> None:
    """The gradient of a number is that of what it stands for; the scale that it was rounded at has none."""
    maker, scale = g.node.input(0).producer, g.node.input(1)
    if g.wants(1):
        if maker is None or not operator_of(maker).quantises or scale not in [*maker.inputs, *maker.outputs]:
            raise LookupError(f"the scale of {g.node.label} varies")
        g.give(1, g.zeros(scale))
    g.give(0, g.d())


@gradient("QuantizeLinear")
def quantize(g: NodeGradient) -> None:
    """1 where the value is within a step of what it is rounded to, 0 where it was clipped."""
    scale, axis = g.node.input(1), g.attr("axis", None)
    operands = [g.y(), *(v.name for v in g.node.inputs[1:] if v is not None)]
    missed = g.emit("Abs", g.emit("Sub", g.x(), g.emit("DequantizeLinear", *operands, axis=axis)))
    step = scale.name
    if any(length.length != 1 for length in scale.axes()):
        if g.rank(scale) != 1:
            raise LookupError(f"{g.node.label} has scales of blocks")
        lengths = [1] * g.rank(g.node.input(0))
        lengths[g.axis(g.node.input(0), 1 if axis is None else int(axis))] = -1
        step = g.write.reshape(step, lengths)
    clipped = g.mask(g.emit("Greater", missed, step))
    g.give(0, g.times(g.d(), g.emit("Sub", g.number(1.0), clipped)))
