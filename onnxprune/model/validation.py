"""Whether a model holds together: looked at once, before anything is computed from it.

Models come from anywhere. What is checked here, nothing behind it has to check again: every tensor has the data that
its type and dimensions ask for (so that memory follows from the size of the files), every name that is read means
exactly one thing, no node waits for itself, and local functions unfold to a bounded graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from onnxprune._text import short
from onnxprune.errors import ModelError
from onnxprune.model.tensors import (
    all_nodes,
    is_external,
    is_left_out,
    packed_elements,
    payload_bytes,
    subgraphs,
    tensors,
)
from onnxprune.model.topology import defined, described, ordered

MAX_ELEMENTS = 2**63 - 1
"""What the dimensions of a tensor may multiply to: what 64 bits count."""
MAX_LEFT_OUT = 2**25
"""Lengths of all axes of weights that were left out: a few bytes can state any."""
_UNFOLDED = 1000
_UNFOLDED_ANYWAY = 10_000
_TYPES = set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}
_FIELDS: dict[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.STRING: "string_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
    TensorProto.COMPLEX64: "float_data",
    TensorProto.COMPLEX128: "double_data",
}

_HELD = {
    AttributeProto.TENSOR: ("t", "tensor"),
    AttributeProto.GRAPH: ("g", "graph"),
    AttributeProto.SPARSE_TENSOR: ("sparse_tensor", "sparse tensor"),
}
"""Where attributes hold messages, and what they are called; those that are not there would read as empty ones."""

Function = tuple[str, str, str]
"""Domain, name and overload."""


def check(proto: ModelProto) -> None:
    """Raises where a model does not hold together.

    Raises:
        ModelError: It does not; the message says where, but not in which file.
    """
    try:
        _texts(proto)
        for tensor in tensors(proto):
            _tensor(tensor)
        _left_out(proto)
        for sparse in proto.graph.sparse_initializer:
            _dims(sparse.values.name, sparse.dims)
        functions = {(f.domain, f.name, f.overload): f for f in proto.functions}
        _graph(proto.graph, [])
        _no_parameters(proto.graph)
        for function in proto.functions:
            _body(function)
        _unfolding(proto, functions)
    except RecursionError:
        raise ModelError("its graphs are nested too deeply") from None


def _texts(message: Any) -> None:
    """Every text is UTF-8: protobuf does not look, and gives bytes for what is not."""
    if isinstance(message, TensorProto):  # not its values: each look would copy them
        texts: list[Any] = [message.name, message.doc_string]
        below: list[Any] = [message.external_data, message.metadata_props]
    else:
        present = message.ListFields()
        texts = [value for field, value in present if field.type == FieldDescriptor.TYPE_STRING]
        below = [value for field, value in present if field.type == FieldDescriptor.TYPE_MESSAGE]
    for text in texts:
        if isinstance(text, bytes) or (not isinstance(text, str) and any(isinstance(t, bytes) for t in text)):
            raise ModelError(f"a text of a {message.DESCRIPTOR.name} is not UTF-8")
    for value in below:
        for item in (value,) if isinstance(value, Message) else value:
            _texts(item)


def _dims(name: str, dims: Iterable[int]) -> None:
    negative = next((d for d in dims if d < 0), None)
    if negative is not None:
        raise ModelError(f"tensor '{short(name)}' has a dimension of {negative}")
    if math.prod(dims) > MAX_ELEMENTS:
        raise ModelError(f"tensor '{short(name)}' has more elements than 64 bits count")


def _tensor(tensor: TensorProto) -> None:
    """Element type, dimensions and the amount of inline data agree (that of external data: see `external.place`)."""
    _dims(tensor.name, tensor.dims)
    if tensor.data_type not in _TYPES:
        raise ModelError(
            f"tensor '{short(tensor.name)}' has element type {tensor.data_type}, which is unknown",
            "a newer version of the package onnx may know it",
        )
    if is_external(tensor):
        return
    if tensor.HasField("raw_data"):
        has, wanted, unit = len(tensor.raw_data), payload_bytes(tensor), "bytes"
    else:
        field = _FIELDS.get(tensor.data_type, "int32_data")
        has, wanted, unit = len(getattr(tensor, field)), packed_elements(tensor), "values"
    if has != wanted:
        raise ModelError(
            f"tensor '{short(tensor.name)}' has {has} {unit} of data; its type and dimensions ask for {wanted}",
            "is the file complete?",
        )


def _left_out(proto: ModelProto) -> None:
    """What was left out (see `anonymous`) has no data to be measured by."""
    if sum(d for t in tensors(proto) if is_left_out(t) for d in t.dims) > MAX_LEFT_OUT:
        raise ModelError("the weights that were left out have too many indices")


def _graph(graph: GraphProto, around: list[set[str]]) -> None:
    """Every name means one thing; what is read is there; no node waits for itself."""
    own = _once(defined(graph))
    _once(v.name for v in graph.input)
    scopes = [*around, own]
    for node in graph.node:
        _node(node, scopes)
    for output in graph.output:
        if not any(output.name in names for names in scopes):
            raise ModelError(f"graph output '{short(output.name)}' is made by no node")
    ordered(graph)


def _once(names: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ModelError(f"'{short(name)}' is defined twice in one graph", "names of values must be unique")
        seen.add(name)
    return seen


def _node(node: NodeProto, scopes: list[set[str]]) -> None:
    if not node.op_type:
        raise ModelError("a node names no operator")
    for name in filter(None, node.input):
        if not any(name in names for names in scopes):
            raise ModelError(f"{short(described(node))} reads '{short(name)}', which nothing defines")
    for attribute in node.attribute:
        held = _HELD.get(attribute.type)
        if held is not None and not attribute.ref_attr_name and not attribute.HasField(held[0]):
            raise ModelError(f"attribute '{short(attribute.name)}' of {short(described(node))} holds no {held[1]}")
    for _, body in subgraphs(node):
        _graph(body, scopes)


def _no_parameters(graph: GraphProto) -> None:
    """Attributes have values of their own: only in a function they may be those of the call."""
    for node in all_nodes(graph):
        for attribute in node.attribute:
            if attribute.ref_attr_name:
                raise ModelError(
                    f"attribute '{short(attribute.name)}' of {short(described(node))} names a parameter "
                    "of a function, and is in none"
                )


def _body(function: FunctionProto) -> None:
    graph = GraphProto(node=function.node)
    scopes = [set(function.input), _once([*function.input, *defined(graph)])]
    for node in function.node:
        _node(node, scopes)
    ordered(graph)


def _unfolding(proto: ModelProto, functions: Mapping[Function, FunctionProto]) -> None:
    """Local functions end, and replacing calls by bodies gives a graph in proportion to the model.

    Functions that call each other twice double the graph with each level: a kilobyte can unfold to any size.
    """
    sizes: dict[Function, int] = {}

    def unfolded(nodes: Iterable[NodeProto], path: tuple[Function, ...]) -> int:
        total = 0
        for node in nodes:
            total += 1 + sum(unfolded(body.node, path) for _, body in subgraphs(node))
            name = (node.domain, node.op_type, node.overload)
            if name in path:
                raise ModelError(f"the local function '{short(name[1])}' calls itself")
            if name in functions:
                if name not in sizes:
                    sizes[name] = unfolded(functions[name].node, (*path, name))
                total += sizes[name]
        return total

    own = sum(1 for f in [proto.graph, *proto.functions] for _ in f.node)
    if unfolded(proto.graph.node, ()) > _UNFOLDED * own + _UNFOLDED_ANYWAY:
        raise ModelError("its local functions unfold to a graph without bounds", "inline them before")
