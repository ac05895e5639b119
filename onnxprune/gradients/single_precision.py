"""Models in single precision, in which training computes, and what the types of the original hold of their weights.

Steps are smaller than what half precision or whole numbers can tell apart. So the weights are trained in single
precision, and the model computes with what is left of them after rounding, as if that had a slope of 1 (the
straight-through estimator of Bengio et al., "Estimating or propagating gradients through stochastic neurons", 2013).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxprune.graph.graph import Graph
from onnxprune.layers.real_weights import RealWeights
from onnxprune.model.model import Model
from onnxprune.model.tensors import all_nodes, subgraphs, tensors

Array = NDArray[Any]
Weights = Mapping[str, NDArray[np.float32]]

HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")
"""Attributes that name the element type of an output."""


class SinglePrecision:
    """A copy of a model that computes in single precision, with quantised weights as floats.

    Attributes:
        model: The copy.
    """

    def __init__(self, model: Model) -> None:
        """Copies a model; it is not changed."""
        self._real = RealWeights(model)
        values = Graph(self._real.model.proto).main.names
        self._types = {name: v.elem_type for name, v in values.items() if v.tensor is not None}
        self.model = self._real.model.copy()
        _widen(self.model)

    def stored(self, weights: Weights) -> dict[str, NDArray[np.float32]]:
        """What the types of the original hold of some weights, by their names in the copy."""
        return {name: self._stored(name, array) for name, array in weights.items()}

    def _stored(self, name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
        kind = self._types.get(name)
        narrow = array.astype(helper.tensor_dtype_to_np_dtype(kind)) if kind in HALVES else array
        return self._real.rounded(name, narrow).astype(np.float32, copy=False)

    @staticmethod
    def feeds(batch: Mapping[str, Array]) -> dict[str, Array]:
        """Inputs as the copy takes them."""
        halves = {helper.tensor_dtype_to_np_dtype(kind) for kind in HALVES}
        return {name: a.astype(np.float32) if a.dtype in halves else a for name, a in batch.items()}


def write_back(model: Model, weights: Weights) -> None:
    """Stores trained weights in a model, in place, in the types that it has.

    Args:
        model: The model that a `SinglePrecision` was made of, or one with the same weights.
        weights: The weights by their names in the `SinglePrecision`.
    """
    real = RealWeights(model)
    target = real.model if real.found else model
    values = Graph(target.proto).main.names
    for name, array in weights.items():
        tensor = values[name].tensor
        assert isinstance(tensor, TensorProto)
        target.set_array(tensor, array)
    if real.found:
        model.proto.CopyFrom(real.restore(keep_scales=True).proto)


def _widen(model: Model) -> None:
    """Turns half precision into single precision, in place."""
    proto = model.proto
    for tensor in tensors(proto):
        if tensor.data_type in HALVES:
            tensor.CopyFrom(numpy_helper.from_array(model.array(tensor).astype(np.float32), tensor.name))
    for node in [*all_nodes(proto.graph), *(node for f in proto.functions for node in f.node)]:
        for attribute in node.attribute:
            if attribute.name in TYPE_ATTRIBUTES and attribute.i in HALVES:
                attribute.i = TensorProto.FLOAT
    for info in _infos(proto.graph):
        if info.type.tensor_type.elem_type in HALVES:
            info.type.tensor_type.elem_type = TensorProto.FLOAT


def _infos(graph: onnx.GraphProto) -> Iterable[onnx.ValueInfoProto]:
    """What a graph and its bodies say of the types of their values."""
    yield from (*graph.input, *graph.output, *graph.value_info)
    for node in graph.node:
        for _, body in subgraphs(node):
            yield from _infos(body)
