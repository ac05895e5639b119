"""Layers with quantised weights, and what computes the same with the real values of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from onnxprune.layers.dequantize import dequantised, unpacked
from onnxprune.layers.quantised_weight import (
    MS,
    RANGES,
    Form,
    Operand,
    QuantisedWeight,
    Replacement,
    Surroundings,
    attribute,
    copy_of,
    make_node,
    real_name,
)
from onnxprune.layers.scale_blocks import AlongAxis, OfColumns

Array = NDArray[Any]


def _dequantize(node: NodeProto, around: Surroundings) -> Replacement | None:
    """A dequantised constant is one of floats."""
    stored, out = around.array(node.input[0]), node.output[0]
    weight = _weight((Operand(node, 0), Operand(node, 1), Operand(node, 2)), attribute(node, "axis", 1), out, around)
    if stored is None or weight is None:
        return None
    return Replacement([node], [], [weight])


def _product_of_bits(node: NodeProto, around: Surroundings) -> Replacement | None:
    """MatMulNBits as MatMul, and Add where it has a bias."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    b, scale, zero, order, bias = (Operand(node, i) for i in range(1, 6))
    bits, deep, wide = int(attributes.get("bits", 4)), attributes["K"], attributes["N"]
    stored, scales = around.array(b.name), around.array(scale.name)
    points = around.array(zero.name) if zero.name else None
    if order.name or attributes.get("weight_prepacked") or 8 % bits:
        return None
    if stored is None or scales is None or (zero.name and points is None) or stored.ndim != 3:
        return None
    if not around.take(b.name):
        return None
    real = unpacked(stored, scales, points, bits).reshape(wide, -1)[:, :deep].T.astype(scales.dtype)
    blocks, limits = OfColumns(deep, wide, int(attributes["block_size"])), (0, 2**bits - 1)
    zeros = _points(points, wide, blocks.blocks, bits)
    floats = around.fresh(f"{b.name}_real")
    weight = QuantisedWeight(floats, real, blocks, scales, zeros, limits, b, scale, bits)
    return _product(node, node.input[0], weight, bias, around)


def _product_to_float(node: NodeProto, around: Surroundings) -> Replacement | None:
    """MatMulIntegerToFloat as MatMul of dequantised values."""
    weight = _weight((Operand(node, 1), Operand(node, 3), Operand(node, 5)), -1, real_name(node, 1, around), around)
    if weight is None:
        return None
    x = real_name(node, 0, around)
    given = make_node("DequantizeLinear", [node.input[0], node.input[2], Operand(node, 4).name], x)
    return _product(node, x, weight, Operand(node, 6), around, [given], {x: node.input[0]})


def _dynamic_product(node: NodeProto, around: Surroundings) -> Replacement | None:
    """DynamicQuantizeMatMul as MatMul of values that were quantised and dequantised."""
    weight = _weight((Operand(node, 1), Operand(node, 2), Operand(node, 3)), -1, real_name(node, 1, around), around)
    if weight is None:
        return None
    numbers, scale, zero, x = (around.fresh(f"{node.input[0]}_{part}") for part in ("numbers", "scale", "zero", "real"))
    given = [
        make_node("DynamicQuantizeLinear", [node.input[0]], numbers, scale, zero),
        make_node("DequantizeLinear", [numbers, scale, zero], x),
    ]
    return _product(node, x, weight, Operand(node, 4), around, given, {x: node.input[0]})


def _product(
    node: NodeProto,
    x: str,
    weight: QuantisedWeight,
    bias: Operand,
    around: Surroundings,
    given: Sequence[NodeProto] = (),
    aliases: Mapping[str, str] | None = None,
) -> Replacement:
    """MatMul, and Add where there is a bias of floats."""
    out = node.output[0]
    if not bias.name:
        return Replacement(
            [node], [*given, make_node("MatMul", [x, weight.floats], out, name=node.name)], [weight], aliases or {}
        )
    product = around.fresh(f"{out}_product")
    layer = make_node("MatMul", [x, weight.floats], product, name=node.name)
    add = make_node("Add", [product, bias.name], out)
    aliases = {**(aliases or {}), product: out}
    return Replacement([node], [*given, layer, add], [weight], aliases, (bias, Operand(add, 1)))


def _quantised_convolution(node: NodeProto, around: Surroundings) -> Replacement | None:
    """QLinearConv as Conv between DequantizeLinear and QuantizeLinear."""
    if attribute(node, "channels_last", 0):
        return None
    weight = _weight((Operand(node, 3), Operand(node, 4), Operand(node, 5)), 0, real_name(node, 3, around), around)
    attributes = [a for a in node.attribute if a.name != "channels_last"]
    return None if weight is None else _between("Conv", node, weight, Operand(node, 8), 6, attributes, around)


def _quantised_product(node: NodeProto, around: Surroundings) -> Replacement | None:
    """QLinearMatMul as MatMul between DequantizeLinear and QuantizeLinear."""
    weight = _weight((Operand(node, 3), Operand(node, 4), Operand(node, 5)), -1, real_name(node, 3, around), around)
    return None if weight is None else _between("MatMul", node, weight, None, 6, [], around)


def _quantised_gemm(node: NodeProto, around: Surroundings) -> Replacement | None:
    """QGemm as Gemm behind DequantizeLinear; without a scale for the result it is a float."""
    axis = 0 if attribute(node, "transB", 0) else 1
    weight = _weight((Operand(node, 3), Operand(node, 4), Operand(node, 5)), axis, real_name(node, 3, around), around)
    return None if weight is None else _between("Gemm", node, weight, Operand(node, 6), 7, node.attribute, around)


def _between(
    op_type: str,
    node: NodeProto,
    weight: QuantisedWeight,
    bias: Operand | None,
    result: int,
    attributes: Any,
    around: Surroundings,
) -> Replacement | None:
    """A layer of floats between DequantizeLinear and, where the scale of the result is given, QuantizeLinear."""
    x, out, weights = real_name(node, 0, around), node.output[0], [weight]
    inputs, aliases = [x, weight.floats], {x: node.input[0]}
    if bias is not None and bias.name:
        alpha = next((a.f for a in attributes if a.name == "alpha"), 1.0)
        whole = _bias(bias, around.array(node.input[1]), weight, alpha, around)
        if whole is None:
            return None
        weights.append(whole)
        inputs.append(whole.floats)
    scale = Operand(node, result).name
    product = around.fresh(f"{out}_product") if scale else out
    layer = make_node(op_type, inputs, product, name=node.name)
    layer.attribute.extend(attributes)
    made = [make_node("DequantizeLinear", list(node.input[:3]), x), layer]
    if scale:
        aliases[product] = out
        made.append(make_node("QuantizeLinear", [product, scale, Operand(node, result + 1).name], out))
    return Replacement([node], made, weights, aliases)


def _integers(node: NodeProto, around: Surroundings) -> Replacement | None:
    """MatMulInteger or ConvInteger, cast and scaled, as a layer of floats behind DequantizeLinear."""
    cast = around.reader(node.output[0])
    scaled = None if cast is None or cast.op_type != "Cast" else around.reader(cast.output[0])
    if cast is None or attribute(cast, "to", 0) != TensorProto.FLOAT or scaled is None or scaled.op_type != "Mul":
        return None
    other = _other(scaled, cast.output[0])
    scales = around.producer(other)
    if scales is None or scales.op_type != "Mul" or around.reader(other) is None:
        return None
    own = [i for i, name in enumerate(scales.input) if around.array(name) is not None]
    if len(own) != 1:
        return None
    chain = [node, copy_of(cast), copy_of(scales), copy_of(scaled)]
    conv = node.op_type == "ConvInteger"
    operands = Operand(node, 1), Operand(chain[2], own[0]), Operand(node, 3)
    weight = _weight(operands, 0 if conv else -1, real_name(node, 1, around), around)
    if weight is None:
        return None
    x, biased = real_name(node, 0, around), _spread_bias(scaled, around) if conv else None
    layer = make_node("Conv" if conv else "MatMul", [x, weight.floats], scaled.output[0], name=node.name)
    layer.attribute.extend(node.attribute)
    given = make_node("DequantizeLinear", [node.input[0], scales.input[1 - own[0]], Operand(node, 2).name], x)
    if biased is None:
        return Replacement(chain, [given, layer], [weight], {x: node.input[0]})
    layer.input.append(biased[0].input[0])
    layer.output[0] = biased[1].output[0]
    bias = Operand(biased[0], 0), Operand(layer, 2)
    return Replacement([*chain, *biased], [given, layer], [weight], {x: node.input[0]}, bias)


def _spread_bias(scaled: NodeProto, around: Surroundings) -> tuple[NodeProto, NodeProto] | None:
    """Reshape and Add of a vector that is all that is added to what a node makes."""
    add = around.reader(scaled.output[0])
    spread = None if add is None or add.op_type != "Add" else around.producer(_other(add, scaled.output[0]))
    if add is None or spread is None or spread.op_type != "Reshape" or around.reader(spread.output[0]) is None:
        return None
    vector = around.array(spread.input[0])
    return None if vector is None or vector.ndim != 1 or vector.size < 2 else (copy_of(spread), copy_of(add))


def _other(node: NodeProto, name: str) -> str:
    """The other input of a node with two."""
    return next((other for other in node.input if other != name), "")


FORMS: Mapping[tuple[str, str], Form] = {
    ("", "DequantizeLinear"): _dequantize,
    ("", "QLinearConv"): _quantised_convolution,
    (MS, "QLinearConv"): _quantised_convolution,
    ("", "QLinearMatMul"): _quantised_product,
    ("", "MatMulInteger"): _integers,
    ("", "ConvInteger"): _integers,
    (MS, "QGemm"): _quantised_gemm,
    (MS, "MatMulNBits"): _product_of_bits,
    (MS, "MatMulIntegerToFloat"): _product_to_float,
    (MS, "DynamicQuantizeMatMul"): _dynamic_product,
}
"""By the domain and the name of the operator."""


def _weight(
    operands: tuple[Operand, Operand, Operand], axis: int, floats: str, around: Surroundings
) -> QuantisedWeight | None:
    """A constant that is read with its scales and zero points; None where one of them is none, or too large."""
    numbers, scales, zero = operands
    stored, scale = around.array(numbers.name), around.array(scales.name)
    points = around.array(zero.name) if zero.name else None
    if stored is None or scale is None or (zero.name and points is None):
        return None
    kind = helper.np_dtype_to_tensor_dtype(stored.dtype)
    flat = scale if scale.ndim == stored.ndim else scale.reshape(() if scale.size == 1 else -1)
    blocks = AlongAxis(stored.shape, flat.shape, axis % max(stored.ndim, 1))
    if kind not in RANGES or not blocks.divides or not around.take(numbers.name):
        return None
    if points is not None:
        points = np.broadcast_to(points.reshape(flat.shape if points.size > 1 else ()), flat.shape)
    real = dequantised(stored, flat, points, axis).astype(scale.dtype)
    zeros = np.zeros(scale.size) if points is None else points.astype(np.float64).reshape(-1)
    is_bias = kind == TensorProto.INT32
    return QuantisedWeight(floats, real, blocks, scale, zeros, _range(stored, kind), numbers, scales, is_bias=is_bias)


def _bias(
    numbers: Operand, given: Array | None, weight: QuantisedWeight, alpha: float, around: Surroundings
) -> QuantisedWeight | None:
    """A bias of 32 bits, whose scale is that of the activation times that of the weight."""
    stored = around.array(numbers.name)
    if stored is None or given is None or stored.ndim != 1 or not around.take(numbers.name):
        return None
    scale = (alpha * given.reshape(()) * weight.scale).astype(weight.scale.dtype)
    scale = scale.reshape(() if scale.size == 1 else -1)
    blocks = AlongAxis(stored.shape, scale.shape, 0)
    real = dequantised(stored, scale, None, 0).astype(scale.dtype)
    floats, zeros = around.fresh(f"{numbers.name}_real"), np.zeros(scale.size)
    return QuantisedWeight(floats, real, blocks, scale, zeros, RANGES[TensorProto.INT32], numbers, None, is_bias=True)


def _range(stored: Array, kind: int) -> tuple[int, int]:
    """The numbers that a weight uses: quantisers keep to 7 bits, say, where processors would saturate sums of more."""
    if kind == TensorProto.INT32:
        return RANGES[kind]
    numbers = stored.astype(np.int64)
    low, high = int(numbers.min(initial=0)), int(numbers.max(initial=0))
    return (low, high) if low < high else RANGES[kind]


def _points(zero: Array | None, columns: int, blocks: int, bits: int) -> NDArray[np.float64]:
    """The zero point of each block of MatMulNBits."""
    if zero is None:
        return np.full(columns * blocks, 2.0 ** (bits - 1))
    if zero.dtype != np.uint8:
        return zero.astype(np.float64).reshape(-1)
    numbers = unpacked(zero.reshape(columns, -1), np.ones(columns), np.zeros(columns, np.float32), bits)
    return numbers.reshape(columns, -1)[:, :blocks].astype(np.float64).reshape(-1)
