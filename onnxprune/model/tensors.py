"""The tensors of a ModelProto: iteration over all of them at any depth, and reading and writing of their values."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Message
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from onnxprune.model.opset import opset_of

_BITS_BELOW_A_BYTE = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2, "FLOAT6E2M3": 6, "FLOAT6E3M2": 6}
_EARLY_CONSTANT_TYPES = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})
_PACKED = {getattr(TensorProto, k): bits for k, bits in _BITS_BELOW_A_BYTE.items() if hasattr(TensorProto, k)}
FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
"""Element types that are computed with."""
_WEIGHT_NAMES = re.compile(r"FLOAT.*|BFLOAT16|DOUBLE|U?INT(2|4|8|16)")
WEIGHT_TYPES = frozenset(n for name, n in TensorProto.DataType.items() if _WEIGHT_NAMES.fullmatch(name))
"""Element types of weights: floating-point numbers, and integers of up to 16 bits.

Integers of 32 and 64 bits are shapes, indices and the biases of quantised layers.
"""
PAYLOAD_FIELDS = ("raw_data", "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
REPEATED_FIELDS = ("dims", "external_data", "metadata_props")
# Messages that can hold a tensor somewhere below; all others are copied whole.
TENSOR_HOLDERS = {"ModelProto", "GraphProto", "NodeProto", "AttributeProto", "FunctionProto", "TrainingInfoProto"}
# Attributes of these types hold no tensor: most of a model's messages need no look inside.
_PLAIN_ATTRIBUTES = frozenset(
    getattr(AttributeProto, name) for name in ("FLOAT", "INT", "STRING", "FLOATS", "INTS", "STRINGS")
)
_GRAPH, _GRAPHS = AttributeProto.GRAPH, AttributeProto.GRAPHS
STRIPPED = "*stripped*"
"""Location of external data that does not exist: marks tensors without values."""


def constants(proto: onnx.ModelProto) -> Iterator[tuple[str, str, TensorProto]]:
    """Yields every initializer and every `value` tensor of a Constant node, in the main graph and all subgraphs.

    Bodies of local functions are skipped.

    Yields:
        (scope, name, tensor). The scope is "" in the main graph and "OUTER/attribute" in a subgraph, where OUTER is
        the first output of the node with that attribute ("OUTER/attribute.i" for the i-th graph of a list); nested
        scopes are joined with "|". The name is that of the initializer or of the Constant's output.
    """
    yield from _graph_constants(proto.graph, "")


def qualified(scope: str, name: str) -> str:
    """Returns a name that is unique in the whole model: `OUTER/attribute|NAME`, or NAME in the main graph."""
    return f"{scope}|{name}" if scope else name


def _graph_constants(graph: onnx.GraphProto, scope: str) -> Iterator[tuple[str, str, TensorProto]]:
    for tensor in graph.initializer:
        yield scope, tensor.name, tensor
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            for attribute in node.attribute:
                if attribute.name == "value" and node.output:
                    yield scope, node.output[0], attribute.t
        for inner, subgraph in subgraphs(node):
            yield from _graph_constants(subgraph, qualified(scope, inner))


def subgraphs(node: onnx.NodeProto) -> Iterator[tuple[str, onnx.GraphProto]]:
    """Yields the graphs in the attributes of a node, each with its scope relative to the node's graph."""
    for attribute in node.attribute:
        if attribute.type == _GRAPH:
            yield f"{_label(node)}/{attribute.name}", attribute.g
        elif attribute.type == _GRAPHS:
            for i, graph in enumerate(attribute.graphs):
                yield f"{_label(node)}/{attribute.name}.{i}", graph


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yields all nodes of a graph and of its subgraphs."""
    for node in graph.node:
        yield node
        for _, inner in subgraphs(node):
            yield from all_nodes(inner)


def sparse_initializers(graph: onnx.GraphProto) -> Iterator[onnx.SparseTensorProto]:
    """Yields the sparse initializers of a graph and of its subgraphs."""
    yield from graph.sparse_initializer
    for node in graph.node:
        for _, below in subgraphs(node):
            yield from sparse_initializers(below)


def replace_entries(field: Any, entries: Sequence[Any]) -> None:
    """Replaces the entries of a repeated field, some of which may stay."""
    del field[:]
    field.extend(entries)


def strip(tensor: TensorProto) -> None:
    """Marks the values of a tensor as stripped."""
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    tensor.external_data.add(key="location", value=STRIPPED)


def _label(node: onnx.NodeProto) -> str:
    return next((name for name in node.output if name), node.name)


def tensors(message: Any) -> Iterator[TensorProto]:
    """Yields every TensorProto of a model, in graphs, functions, sparse tensors and training information."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        kind = field.message_type.name
        if kind not in TENSOR_HOLDERS and kind not in ("TensorProto", "SparseTensorProto"):
            continue
        for item in [value] if isinstance(value, Message) else value:
            if kind == "TensorProto":
                yield item
            elif kind != "AttributeProto" or item.type not in _PLAIN_ATTRIBUTES:
                yield from tensors(item)


def is_external(tensor: TensorProto) -> bool:
    """Whether the values are stored in a data file beside the model."""
    return tensor.HasField("data_location") and tensor.data_location == TensorProto.EXTERNAL


def is_stripped(tensor: TensorProto) -> bool:
    """Whether the values were stripped (see `anonymize`)."""
    return any(e.key == "location" and e.value == STRIPPED for e in tensor.external_data)


def elements(tensor: TensorProto) -> int:
    """Returns the number of elements, from the dimensions."""
    return math.prod(tensor.dims)


def packed_elements(tensor: TensorProto) -> int:
    """Returns the number of entries in the typed field: a complex number takes two, types below a byte share one."""
    if tensor.data_type in _PACKED:
        return payload_bytes(tensor)
    return elements(tensor) * (2 if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128) else 1)


def payload_bytes(tensor: TensorProto) -> int:
    """Returns the size of the values as raw data in bytes, from type and shape; 0 for strings and unknown types."""
    if tensor.data_type in _PACKED:
        return (elements(tensor) * _PACKED[tensor.data_type] + 7) // 8
    if tensor.data_type == TensorProto.STRING:
        return 0
    try:
        return elements(tensor) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError:
        return 0


def encode(array: np.ndarray, data_type: int, dims: tuple[int, ...] | None = None) -> TensorProto:
    """Returns a tensor of the given ONNX element type with these values, as raw data (strings as string data).

    Args:
        array: Values; converted to the element type.
        data_type: A `TensorProto.DataType`.
        dims: Dimensions; the shape of the array by default.

    Raises:
        TypeError: The values cannot be stored in this element type.
    """
    if data_type != TensorProto.STRING:
        array = np.asarray(array, dtype=helper.tensor_dtype_to_np_dtype(data_type))
    tensor = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape))
    if tensor.data_type != data_type:
        raise TypeError(f"values of {TensorProto.DataType.Name(data_type)} cannot be made from {array.dtype}")
    if dims is not None:
        tensor.dims[:] = dims
    return tensor


def add_constant(proto: onnx.ModelProto, tensor: TensorProto, position: int = 0) -> None:
    """Adds a constant to the main graph of a model.

    Before IR version 4 every initializer is an input as well, so a Constant node is added instead; before opset 9
    Constant nodes support floating-point types only, and other types become an initializer with an input.

    Args:
        proto: The model.
        tensor: The constant, under a name that is new to the model.
        position: Where a Constant node is inserted: before the nodes that read it.
    """
    graph, opset = proto.graph, opset_of(proto)
    if proto.ir_version >= 4:
        graph.initializer.append(tensor)
    elif opset < 9 and tensor.data_type not in _EARLY_CONSTANT_TYPES:
        graph.initializer.append(tensor)
        graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    else:
        graph.node.insert(position, helper.make_node("Constant", [], [tensor.name], name=tensor.name, value=tensor))


def overwrite_values(tensor: TensorProto, array: np.ndarray) -> None:
    """Replaces the values and dimensions of a tensor; type, name, doc string and metadata are kept."""
    for field in (*PAYLOAD_FIELDS, "external_data", "data_location"):
        tensor.ClearField(field)
    tensor.dims[:] = array.shape
    if tensor.data_type in _PACKED or tensor.data_type == TensorProto.STRING:
        tensor.MergeFrom(encode(array, tensor.data_type, ()))
    else:  # without the copies that `encode` makes
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        tensor.raw_data = np.asarray(array, dtype=dtype.newbyteorder("<")).tobytes()


def inline_bytes(tensor: TensorProto) -> bytes:
    """Returns the values of an inline tensor as raw data, whichever field stores them."""
    if tensor.HasField("raw_data"):
        return bytes(tensor.raw_data)
    return bytes(encode(numpy_helper.to_array(tensor), tensor.data_type).raw_data)


def bytes_an_element(data_type: int) -> float:
    """Stored size of one element of a type in bytes; types of less than a byte are packed."""
    if data_type in _PACKED:
        return _PACKED[data_type] / 8
    try:
        return float(helper.tensor_dtype_to_np_dtype(data_type).itemsize)
    except KeyError:
        return 1.0
