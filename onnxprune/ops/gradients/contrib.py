"""Gradients of operators that onnxruntime fuses, and of scalers of classical machine learning."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from onnxprune.ops.gradients import slopes
from onnxprune.ops.gradients.elementwise import unary
from onnxprune.ops.gradients.node_gradient import NodeGradient
from onnxprune.ops.registry import gradient

MS = "com.microsoft"


def quick_gelu(g: NodeGradient) -> str:
    """S + alpha x s (1 - s), where s = sigmoid(alpha x)."""
    return slopes.swish(g, g.x(), float(g.attr("alpha", 1.702)))


unary("QuickGelu", quick_gelu, MS)


@gradient("FastGelu BiasGelu", domain=MS, parameters=(1,))
def biased_gelu(g: NodeGradient) -> None:
    """The derivative of Gelu at the sum with a bias."""
    total = g.emit("Add", g.x(), g.x(1)) if g.node.has(1) else g.x()
    d = g.times(g.d(), slopes.gelu(g, total, approximate=g.node.op_type == "FastGelu"))
    g.give(0, d)
    if g.wants(1):
        g.give(1, g.sum_to(d, g.node.output(), g.node.input(1)))


@gradient("RotaryEmbedding")
def rotary_embedding(g: NodeGradient) -> None:
    """Turned back: by the same angles with the opposite sign."""
    _turned_back(g, cosine=1, sine=2)


@gradient("RotaryEmbedding", domain=MS)
def rotary_embedding_of_positions(g: NodeGradient) -> None:
    """Turned back: by the same angles with the opposite sign."""
    _turned_back(g, cosine=2, sine=3)


def _turned_back(g: NodeGradient, cosine: int, sine: int) -> None:
    if g.wants(cosine) or g.wants(sine):
        raise LookupError(f"{g.node.label} turns by computed angles")
    inputs = ["" if value is None else value.name for value in g.node.inputs]
    inputs[0], inputs[sine] = g.d(), g.emit("Neg", g.x(sine))
    attributes = {a.name: g.attr(a.name) for a in g.node.proto.attribute}
    g.give(0, g.emit(g.node.op_type, *inputs, domain=g.node.domain, **attributes))


@gradient("Scaler", domain="ai.onnx.ml")
def scaler(g: NodeGradient) -> None:
    """The factors."""
    factors = g.write.constant(np.array(g.attr("scale", None) or [1.0], np.float32))
    d = g.times(g.d(), factors)
    whole = g.node.input(0).elem_type == TensorProto.DOUBLE
    g.give(0, g.emit("Cast", d, to=TensorProto.DOUBLE) if whole else d)
