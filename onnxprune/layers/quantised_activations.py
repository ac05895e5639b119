"""Operators on quantised activations, and what computes the same on floats."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import NodeProto

from onnxprune.graph.operators import operator_of
from onnxprune.layers.quantised_weight import MS, Form, Replacement, Surroundings, attribute, make_node, real_name


def _without_weights(node: NodeProto, around: Surroundings) -> Replacement | None:
    """An operator on quantised activations as one on floats, between DequantizeLinear and QuantizeLinear."""
    op_type, first, result = _ON_FLOATS[node.op_type]
    flattens = node.op_type == "QLinearSoftmax" and attribute(node, "opset", 13) < 13  # all axes from one on
    if attribute(node, "channels_last", 0) or (flattens and attribute(node, "axis", 1) != -1):
        return None
    starts = range(first, len(node.input) if first else result, 3)
    given = {real_name(node, i, around): i for i in starts}
    out = node.output[0]
    floats = around.fresh(f"{out}_real")
    layer = make_node(op_type, list(given), floats, name=node.name)
    layer.attribute.extend(a for a in node.attribute if a.name not in ("channels_last", "opset"))
    reads = [make_node("DequantizeLinear", list(node.input[i : i + 3]), name) for name, i in given.items()]
    writes = make_node("QuantizeLinear", [floats, *node.input[result : result + 2]], out)
    aliases = {**{name: node.input[i] for name, i in given.items()}, floats: out}
    return Replacement([node], [*reads, layer, writes], [], aliases)


def _quantised_pool(node: NodeProto, around: Surroundings) -> Replacement | None:
    """MaxPool of quantised numbers as one of floats."""
    maker = around.producer(node.input[0])
    zero = None if maker is None else operator_of(maker).zero_point
    if maker is None or not zero or len(node.output) > 1:
        return None
    parameters = list(maker.input[zero - 1 : zero + 1])
    x, out = real_name(node, 0, around), node.output[0]
    floats = around.fresh(f"{out}_real")
    layer = make_node("MaxPool", [x], floats, name=node.name)
    layer.attribute.extend(node.attribute)
    reads = make_node("DequantizeLinear", [node.input[0], *parameters], x)
    writes = make_node("QuantizeLinear", [floats, *parameters], out)
    return Replacement([node], [reads, layer, writes], [], {x: node.input[0], floats: out})


_ON_FLOATS: Mapping[str, tuple[str, int, int]] = {
    "QLinearAdd": ("Add", 0, 6),
    "QLinearMul": ("Mul", 0, 6),
    "QLinearSigmoid": ("Sigmoid", 0, 3),
    "QLinearSoftmax": ("Softmax", 0, 3),
    "QLinearLeakyRelu": ("LeakyRelu", 0, 3),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", 0, 3),
    "QLinearAveragePool": ("AveragePool", 0, 3),
    "QLinearConcat": ("Concat", 2, 0),
}
"""The operator on floats, its first operand, and the scale of the result: each is followed by what belongs to it."""

FORMS: Mapping[tuple[str, str], Form] = {
    ("", "MaxPool"): _quantised_pool,
    **{(MS, name): _without_weights for name in _ON_FLOATS},
}
"""By the domain and the name of the operator."""
