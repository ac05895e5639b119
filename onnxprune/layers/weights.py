"""Weights and biases of layers: read for scores and fits, and written back into a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.graph.operators import operator_of
from onnxprune.layers.linear import LinearLayer
from onnxprune.model.model import Model
from onnxprune.model.tensors import add_constant
from onnxprune.model.unique_names import Names

Floats = NDArray[np.float64]


def finite_part(array: NDArray[Any]) -> NDArray[Any]:
    """The array with zeros in place of infinities and NaN, which are no magnitudes (a mask of -inf)."""
    finite = np.isfinite(array)
    found: NDArray[Any] = array if finite.all() else np.where(finite, array, np.zeros((), array.dtype))
    return found


def takes_bias(layer: LinearLayer) -> bool:
    """Whether the layer's bias may change: it has one of its own, or its operator takes one."""
    if layer.bias is not None:
        return not layer.bias_shared
    return layer.kind in ("conv", "conv_transpose") and len(layer.node.proto.input) == 2


def bias_of(model: Model, layer: LinearLayer) -> Floats:
    """The bias of a layer, zeros where it has none; shape (groups, out)."""
    if layer.bias is not None and layer.bias.tensor is not None:
        return layer.vector(model.array(layer.bias.tensor)).astype(np.float64)
    return np.zeros((layer.groups, layer.features[1] // layer.groups))


def set_weight(model: Model, layer: LinearLayer, matrix: Floats) -> None:
    """Gives a layer another weight; shape (groups, out, columns)."""
    tensor = layer.weight.tensor
    assert tensor is not None
    stored = model.array(tensor)
    model.set_array(tensor, layer.unmatrix(matrix, stored.shape).astype(stored.dtype))


def set_bias(model: Model, layer: LinearLayer, bias: Floats) -> None:
    """Gives a layer another bias; shape (groups, out). A convolution without one gets one."""
    if layer.bias is not None and layer.bias.tensor is not None:
        stored = model.array(layer.bias.tensor)
        model.set_array(layer.bias.tensor, layer.unvector(bias, stored.shape).astype(stored.dtype))
        return
    dtype = onnx.helper.tensor_dtype_to_np_dtype(_kind(layer))
    name = Names(model.proto).fresh(f"{layer.name}_bias")
    add_constant(model.proto, onnx.numpy_helper.from_array(bias.reshape(-1).astype(dtype), name))
    layer.node.proto.input.append(name)


def _kind(layer: LinearLayer) -> int:
    """The type that a convolution reads its weight in, which may be stored in another one and cast."""
    value = layer.node.inputs[1]
    while value is not None and value.tensor is None and value.producer is not None:
        if operator_of(value.producer).casts:
            return int(value.producer.attribute("to"))
        value = value.producer.inputs[0]
    assert value is not None and value.tensor is not None
    return value.tensor.data_type
