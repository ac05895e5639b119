"""Skeletons: copies of a model without the values of its large tensors, for shape inference, checking and hashing."""

from __future__ import annotations

from typing import Any

import onnx
from google.protobuf import unknown_fields
from google.protobuf.message import Message
from onnx import TensorProto, inliner

from onnxprune.model.tensors import (
    PAYLOAD_FIELDS,
    REPEATED_FIELDS,
    TENSOR_HOLDERS,
    is_external,
    payload_bytes,
    strip,
    subgraphs,
)


def add_dense_initializers(skeleton: onnx.ModelProto) -> None:
    """Replaces the sparse initializers of a skeleton by dense initializers without values, in place.

    onnx's shape inference gives a sparse initializer a sparse tensor type, which no operator accepts; runtimes take it
    as a storage format and convert it to a dense tensor.
    """
    graphs = [skeleton.graph]
    while graphs:
        graph = graphs.pop()
        for sparse in graph.sparse_initializer:
            tensor = graph.initializer.add(name=sparse.values.name, data_type=sparse.values.data_type, dims=sparse.dims)
            strip(tensor)
        del graph.sparse_initializer[:]
        graphs += [below for node in graph.node for _, below in subgraphs(node)]


def skeleton(proto: onnx.ModelProto, limit: int = 1024) -> onnx.ModelProto:
    """Returns a copy without the values of large tensors; time and memory do not depend on the size of the weights.

    A tensor of `limit` bytes or more keeps name, type, dimensions and all other fields, and is marked as external data
    at a location that does not exist (`STRIPPED`), unless it is external already. All other fields are copied, unknown
    ones included.

    Args:
        proto: The model; not modified.
        limit: Size in bytes from which values are dropped.
    """
    copy = onnx.ModelProto()
    _copy_without_data(proto, copy, limit)
    return copy


def _copy_without_data(source: Any, target: Any, limit: int) -> None:
    """Copies a message that may contain tensors into an empty message of its type, without large values."""
    for field, value in source.ListFields():
        kind = field.message_type.name if field.message_type is not None else ""
        if kind not in TENSOR_HOLDERS and kind != "TensorProto":
            _copy_field(field.name, value, target)
            continue
        step = _copy_tensor if kind == "TensorProto" else _copy_without_data
        if isinstance(value, Message):
            getattr(target, field.name).SetInParent()
            step(value, getattr(target, field.name), limit)
            continue
        container = getattr(target, field.name)
        for item in value:
            if kind == "NodeProto" and item.op_type != "Constant" and not any(subgraphs(item)):
                container.append(item)  # nearly all nodes; copying the whole message is fast
            else:
                step(item, container.add(), limit)
    _copy_unknown(source, target)


def _copy_tensor(source: TensorProto, target: TensorProto, limit: int) -> None:
    if payload_bytes(source) < limit:
        target.CopyFrom(source)
        return
    _copy_description(source, target)
    if not is_external(source):
        strip(target)


def _copy_description(source: TensorProto, target: TensorProto) -> None:
    """Copies all fields of a tensor but its inline values; those are never read, since each access copies them."""
    for name in source.DESCRIPTOR.fields_by_name:
        if name not in PAYLOAD_FIELDS and (name in REPEATED_FIELDS or source.HasField(name)):
            _copy_field(name, getattr(source, name), target)
    _copy_unknown(source, target)


def _copy_field(name: str, value: Any, target: Any) -> None:
    if isinstance(value, Message):
        getattr(target, name).SetInParent()
        getattr(target, name).CopyFrom(value)
    elif isinstance(value, (str, bytes, int, float)):
        setattr(target, name, value)
    else:
        getattr(target, name).extend(value)


def serialized_size(message: Any) -> int:
    """Returns `message.ByteSize()` of a model without serializing its weights."""
    if isinstance(message, TensorProto):
        return _tensor_size(message)
    if isinstance(message, onnx.NodeProto) and message.op_type != "Constant" and not any(subgraphs(message)):
        return int(message.ByteSize())
    total = len(_encode_unknown(unknown_fields.UnknownFieldSet(message)))
    for field, value in message.ListFields():
        kind = field.message_type.name if field.message_type is not None else ""
        if kind in TENSOR_HOLDERS or kind == "TensorProto":
            sizes = [serialized_size(item) for item in ([value] if isinstance(value, Message) else value)]
            total += sum(len(_varint(field.number << 3)) + len(_varint(size)) + size for size in sizes)
        else:
            alone = type(message)()
            _copy_field(field.name, value, alone)
            total += alone.ByteSize()
    return total


def _tensor_size(tensor: TensorProto) -> int:
    if not tensor.HasField("raw_data"):
        return int(tensor.ByteSize())
    described = TensorProto()
    _copy_description(tensor, described)
    length = payload_bytes(tensor)
    return int(described.ByteSize()) + 1 + len(_varint(length)) + length


def _copy_unknown(source: Any, target: Any) -> None:
    """Copies fields that this version of onnx does not define."""
    encoded = _encode_unknown(unknown_fields.UnknownFieldSet(source))
    if encoded:
        target.MergeFromString(encoded)


def _encode_unknown(fields: Any) -> bytes:
    """Encodes a set of unknown fields in the protobuf wire format."""
    out = bytearray()
    for field in fields:
        out += _varint(field.field_number << 3 | field.wire_type)
        if field.wire_type == 0:
            out += _varint(field.data)
        elif field.wire_type == 2:
            out += _varint(len(field.data)) + field.data
        elif field.wire_type == 3:  # a group is closed by an end tag (wire type 4)
            out += _encode_unknown(field.data) + _varint(field.field_number << 3 | 4)
        else:
            out += int(field.data).to_bytes(8 if field.wire_type == 1 else 4, "little")
    return bytes(out)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def inlined_skeleton(proto: onnx.ModelProto, limit: int = 4096) -> onnx.ModelProto:
    """Returns a skeleton with dense initializers and with calls of local functions replaced by their bodies."""
    copy = skeleton(proto, limit)
    add_dense_initializers(copy)
    return inliner.inline_local_functions(copy) if copy.functions else copy
