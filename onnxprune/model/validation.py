"""Consistency checks of a loaded model, run once before any analysis.

Model files are untrusted input. Later stages rely on the following: every tensor has as much data as its type and
dimensions require (so that memory is bounded by the size of the files), every name that is read has exactly one
definition, the graph has no cycles, and inlining the local functions gives a graph of bounded size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

from onnxprune.common.text import short
from onnxprune.errors import ModelError
from onnxprune.model.tensors import (
    all_nodes,
    is_external,
    is_stripped,
    packed_elements,
    payload_bytes,
    sparse_initializers,
    subgraphs,
    tensors,
)
from onnxprune.model.topology import defined_names, describe, topological_order

MAX_ELEMENTS = 2**63 - 1
"""Maximum number of elements of a tensor (int64)."""
MAX_STRIPPED = 2**25
"""Maximum sum of the axis lengths of all stripped tensors: without data, dimensions can have any size."""
INLINED_RATIO = 1000
INLINED_NODES = 10_000
"""The graph with all local functions inlined may have `INLINED_RATIO` times as many nodes as the model, plus these."""
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

_MESSAGE_FIELDS = {
    AttributeProto.TENSOR: ("t", "tensor"),
    AttributeProto.GRAPH: ("g", "graph"),
    AttributeProto.SPARSE_TENSOR: ("sparse_tensor", "sparse tensor"),
}
"""Attribute type -> field and name of its message; protobuf reads a missing message as an empty one."""

Function = tuple[str, str, str]
"""Domain, name and overload of a local function."""


def check(proto: ModelProto) -> None:
    """Checks that a model is consistent.

    Raises:
        ModelError: It is not; the message says where in the model, but not in which file.
    """
    try:
        _check_utf8(proto)
        for tensor in tensors(proto):
            _check_tensor(tensor)
        _check_stripped(proto)
        for sparse in sparse_initializers(proto.graph):
            _check_sparse(sparse)
        functions = {(f.domain, f.name, f.overload): f for f in proto.functions}
        _check_graph(proto.graph, [])
        _check_no_attribute_references(proto.graph)
        for function in proto.functions:
            _check_function(function)
        _check_inlined_size(proto, functions)
    except RecursionError:
        raise ModelError("its graphs are nested too deeply") from None


def _check_utf8(message: Any) -> None:
    """Checks that every string is UTF-8: protobuf does not, and returns bytes for one that is not."""
    if isinstance(message, TensorProto):  # without its values: each access would copy them
        texts: list[Any] = [message.name, message.doc_string]
        nested: list[Any] = [message.external_data, message.metadata_props]
    else:
        present = message.ListFields()
        texts = [value for field, value in present if field.type == FieldDescriptor.TYPE_STRING]
        nested = [value for field, value in present if field.type == FieldDescriptor.TYPE_MESSAGE]
    for text in texts:
        if isinstance(text, bytes) or (not isinstance(text, str) and any(isinstance(t, bytes) for t in text)):
            raise ModelError(f"a text of a {message.DESCRIPTOR.name} is not UTF-8")
    for value in nested:
        for item in (value,) if isinstance(value, Message) else value:
            _check_utf8(item)


def _check_dims(name: str, dims: Iterable[int]) -> None:
    negative = next((d for d in dims if d < 0), None)
    if negative is not None:
        raise ModelError(f"tensor '{short(name)}' has a dimension of {negative}")
    if math.prod(dims) > MAX_ELEMENTS:
        raise ModelError(f"tensor '{short(name)}' has more elements than 64 bits count")


def _check_tensor(tensor: TensorProto) -> None:
    """Checks element type, dimensions and size of the inline data (that of external data: `external_data.locate`)."""
    _check_dims(tensor.name, tensor.dims)
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


def _check_sparse(sparse: SparseTensorProto) -> None:
    """Checks that a sparse tensor has a position, of one index or of one an axis, for each value."""
    name, count = short(sparse.values.name), list(sparse.values.dims)
    _check_dims(sparse.values.name, sparse.dims)
    if len(count) != 1:
        raise ModelError(f"the values of the sparse tensor '{name}' have {len(count)} axes; they are a list")
    wanted = [count, [*count, len(sparse.dims)]]
    if sparse.indices.data_type != TensorProto.INT64 or list(sparse.indices.dims) not in wanted:
        raise ModelError(
            f"the sparse tensor '{name}' has {count[0]} values; its positions are int64 of the shape {wanted[0]} "
            f"or {wanted[1]}, not {TensorProto.DataType.Name(sparse.indices.data_type)} of {list(sparse.indices.dims)}"
        )


def _check_stripped(proto: ModelProto) -> None:
    """Bounds the axis lengths of stripped tensors, which have no data to check them against."""
    if sum(d for t in tensors(proto) if is_stripped(t) for d in t.dims) > MAX_STRIPPED:
        raise ModelError("the weights that were left out have too many indices")


def _check_graph(graph: GraphProto, around: list[set[str]]) -> None:
    """Checks that names are defined once, that names which are read are defined, and that there is no cycle."""
    own = _check_unique(defined_names(graph))
    _check_unique(v.name for v in graph.input)
    scopes = [*around, own]
    for node in graph.node:
        _check_node(node, scopes)
    for output in graph.output:
        if not any(output.name in names for names in scopes):
            raise ModelError(f"graph output '{short(output.name)}' is made by no node")
    topological_order(graph)


def _check_unique(names: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ModelError(f"'{short(name)}' is defined twice in one graph", "names of values must be unique")
        seen.add(name)
    return seen


def _check_node(node: NodeProto, scopes: list[set[str]]) -> None:
    if not node.op_type:
        raise ModelError("a node names no operator")
    for name in filter(None, node.input):
        if not any(name in names for names in scopes):
            raise ModelError(f"{short(describe(node))} reads '{short(name)}', which nothing defines")
    for attribute in node.attribute:
        field = _MESSAGE_FIELDS.get(attribute.type)
        if field is not None and not attribute.ref_attr_name and not attribute.HasField(field[0]):
            raise ModelError(f"attribute '{short(attribute.name)}' of {short(describe(node))} holds no {field[1]}")
    for _, body in subgraphs(node):
        _check_graph(body, scopes)


def _check_no_attribute_references(graph: GraphProto) -> None:
    """Checks that no attribute refers to a function's parameter, which is valid only inside a function."""
    for node in all_nodes(graph):
        for attribute in node.attribute:
            if attribute.ref_attr_name:
                raise ModelError(
                    f"attribute '{short(attribute.name)}' of {short(describe(node))} names a parameter "
                    "of a function, and is in none"
                )


def _check_function(function: FunctionProto) -> None:
    graph = GraphProto(node=function.node)
    scopes = [set(function.input), _check_unique([*function.input, *defined_names(graph)])]
    for node in function.node:
        _check_node(node, scopes)
    topological_order(graph)


def _check_inlined_size(proto: ModelProto, functions: Mapping[Function, FunctionProto]) -> None:
    """Checks that local functions do not recurse and that inlining them gives a graph of bounded size.

    A chain of functions that each call the next one twice doubles the graph with every level: a kilobyte can be inlined
    to any size.
    """
    sizes: dict[Function, int] = {}

    def inlined_size(nodes: Iterable[NodeProto], path: tuple[Function, ...]) -> int:
        total = 0
        for node in nodes:
            total += 1 + sum(inlined_size(body.node, path) for _, body in subgraphs(node))
            name = (node.domain, node.op_type, node.overload)
            if name in path:
                raise ModelError(f"the local function '{short(name[1])}' calls itself")
            if name in functions:
                if name not in sizes:
                    sizes[name] = inlined_size(functions[name].node, (*path, name))
                total += sizes[name]
        return total

    own = sum(1 for f in [proto.graph, *proto.functions] for _ in f.node)
    if inlined_size(proto.graph.node, ()) > INLINED_RATIO * own + INLINED_NODES:
        raise ModelError("its local functions unfold to a graph without bounds", "inline them before")
