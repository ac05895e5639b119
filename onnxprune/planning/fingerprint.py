"""A hash of a model's architecture, by which a plan recognises the models that it fits."""

from __future__ import annotations

import hashlib
from typing import Any

import onnx
from onnx import AttributeProto, GraphProto

from onnxprune.coupling.groups import QUANTISED
from onnxprune.model.tensors import WEIGHT_TYPES


def fingerprint(proto: onnx.ModelProto) -> str:
    """SHA-256 over the graph: operators, names, attributes, types and shapes; weights and descriptions aside."""
    digest = hashlib.sha256()

    def say(*parts: object) -> None:
        digest.update(repr(parts).encode())

    for o in sorted(proto.opset_import, key=lambda o: o.domain):
        say("opset", o.domain, o.version)
    for f in proto.functions:
        say("function", f.domain, f.name, list(f.input), list(f.output))
        for node in f.node:
            _say_node(node, say)
    _say_graph(proto.graph, say)
    return digest.hexdigest()


def _say_graph(graph: GraphProto, say: Any) -> None:
    for info in [*graph.input, *graph.output]:
        t = info.type.tensor_type
        say(info.name, t.elem_type, [d.dim_value or d.dim_param for d in t.shape.dim])
    weights = {name for node in graph.node if node.op_type.startswith(QUANTISED) for name in node.input}
    for t in sorted(graph.initializer, key=lambda t: t.name):  # their order says nothing, and sparse ones come last
        _say_tensor(t, say, t.name in weights)
    for s in graph.sparse_initializer:
        say("sparse", s.values.name, list(s.dims))
    for node in graph.node:
        _say_node(node, say)


def _say_tensor(t: onnx.TensorProto, say: Any, weight: bool = False) -> None:
    say("tensor", t.name, t.data_type, list(t.dims))
    small = sum(t.dims) <= 4096 and not weight
    if small and t.data_type not in WEIGHT_TYPES and t.data_location != onnx.TensorProto.EXTERNAL:
        say(onnx.numpy_helper.to_array(t).tobytes() if t.data_type != onnx.TensorProto.STRING else "")


def _say_node(node: onnx.NodeProto, say: Any) -> None:
    say("node", node.domain, node.op_type, list(node.input), list(node.output))
    for a in sorted(node.attribute, key=lambda a: a.name):
        if a.type == AttributeProto.GRAPH:
            say(a.name)
            _say_graph(a.g, say)
        elif a.type == AttributeProto.TENSOR:
            say(a.name)
            _say_tensor(a.t, say)
        else:
            bare = AttributeProto()
            bare.CopyFrom(a)
            bare.ClearField("doc_string")
            say(a.name, a.type, bare.SerializeToString(deterministic=True))
