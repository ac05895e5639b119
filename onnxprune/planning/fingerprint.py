"""A hash of a model's architecture, by which a plan recognises the models that it fits."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import onnx
from onnx import AttributeProto, GraphProto

from onnxprune.graph.operators import operator_of
from onnxprune.model.tensors import WEIGHT_TYPES

HASHED = 4096
"""Elements up to which the values of a tensor that is no weight (a shape, indices) count."""


def fingerprint(proto: onnx.ModelProto) -> str:
    """SHA-256 over the graph: operators, names, attributes, types and shapes; weights and descriptions aside."""
    digest = hashlib.sha256()

    def add(*parts: object) -> None:
        digest.update(repr(parts).encode())

    for o in sorted(proto.opset_import, key=lambda o: o.domain):
        add("opset", o.domain, o.version)
    for f in proto.functions:
        add("function", f.domain, f.name, list(f.input), list(f.output))
        for node in f.node:
            _add_node(node, add)
    _add_graph(proto.graph, add)
    return digest.hexdigest()


def _add_graph(graph: GraphProto, add: Any) -> None:
    for info in [*graph.input, *graph.output]:
        t = info.type.tensor_type
        add(info.name, t.elem_type, [d.dim_value or d.dim_param for d in t.shape.dim])
    weights = {name for node in graph.node if operator_of(node).reads_zero_points for name in node.input}
    for t in sorted(graph.initializer, key=lambda t: t.name):  # their order has no meaning, and sparse ones come last
        _add_tensor(t, add, t.name in weights)
    for s in graph.sparse_initializer:
        add("sparse", s.values.name, list(s.dims))
    for node in graph.node:
        _add_node(node, add)


def _add_tensor(t: onnx.TensorProto, add: Any, weight: bool = False) -> None:
    add("tensor", t.name, t.data_type, list(t.dims))
    small = math.prod(t.dims) <= HASHED and not weight
    if small and t.data_type not in WEIGHT_TYPES and t.data_location != onnx.TensorProto.EXTERNAL:
        add(onnx.numpy_helper.to_array(t).tobytes() if t.data_type != onnx.TensorProto.STRING else "")


def _add_node(node: onnx.NodeProto, add: Any) -> None:
    add("node", node.domain, node.op_type, list(node.input), list(node.output))
    for a in sorted(node.attribute, key=lambda a: a.name):
        if a.type == AttributeProto.GRAPH:
            add(a.name)
            _add_graph(a.g, add)
        elif a.type == AttributeProto.TENSOR:
            add(a.name)
            _add_tensor(a.t, add)
        else:
            bare = AttributeProto()
            bare.CopyFrom(a)
            bare.ClearField("doc_string")
            add(a.name, a.type, bare.SerializeToString(deterministic=True))
