"""Copies of a model without its large tensors, for inference of shapes, checking and hashing."""

from __future__ import annotations

from typing import Any

import onnx
from google.protobuf import unknown_fields
from google.protobuf.message import Message
from onnx import TensorProto, inliner

from onnxprune.model.tensors import _HOLDERS, _PAYLOAD, _REPEATED, _strip, is_external, payload_bytes, subgraphs


def make_dense(skeleton: onnx.ModelProto) -> None:
    """Gives a skeleton dense initializers without values for its sparse ones, in place.

    onnx's shape inference says that a sparse initializer is a sparse tensor, which no operator takes; runtimes say that
    it is stored so, and make it dense.
    """
    graphs = [skeleton.graph]
    while graphs:
        graph = graphs.pop()
        for sparse in graph.sparse_initializer:
            tensor = graph.initializer.add(name=sparse.values.name, data_type=sparse.values.data_type, dims=sparse.dims)
            _strip(tensor)
        del graph.sparse_initializer[:]
        graphs += [below for node in graph.node for _, below in subgraphs(node)]


def skeleton(proto: onnx.ModelProto, limit: int = 1024) -> onnx.ModelProto:
    """A copy without the data of big tensors: milliseconds and kilobytes, whatever the model weighs.

    An initializer or Constant value of `limit` bytes or more keeps name, type, dimensions and all other fields, and is
    marked as external data at a location that does not exist (`STRIPPED`), unless it is external already. Everything
    else is copied field by field, unknown fields included.

    Args:
        proto: The model; not changed.
        limit: Bytes from which on values are dropped.
    """
    copy = onnx.ModelProto()
    _copy_without_data(proto, copy, limit)
    return copy


def _copy_without_data(source: Any, target: Any, limit: int) -> None:
    """Copies a message that may hold tensors into an empty one of its kind, big values left out."""
    for field, value in source.ListFields():
        kind = field.message_type.name if field.message_type is not None else ""
        if kind not in _HOLDERS and kind != "TensorProto":
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
                container.append(item)  # nearly all nodes: one quick copy
            else:
                step(item, container.add(), limit)
    _copy_unknown(source, target)


def _copy_tensor(source: TensorProto, target: TensorProto, limit: int) -> None:
    if payload_bytes(source) < limit:
        target.CopyFrom(source)
        return
    _copy_description(source, target)
    if not is_external(source):
        _strip(target)


def _copy_description(source: TensorProto, target: TensorProto) -> None:
    """All of a tensor but its inline values, which are not even looked at: each look would copy them."""
    for name in source.DESCRIPTOR.fields_by_name:
        if name not in _PAYLOAD and (name in _REPEATED or source.HasField(name)):
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
    """`message.ByteSize()` of a model, without its cost: that serializes all weights only to count them."""
    if isinstance(message, TensorProto):
        return _tensor_size(message)
    if isinstance(message, onnx.NodeProto) and message.op_type != "Constant" and not any(subgraphs(message)):
        return int(message.ByteSize())
    total = len(_encode_unknown(unknown_fields.UnknownFieldSet(message)))
    for field, value in message.ListFields():
        kind = field.message_type.name if field.message_type is not None else ""
        if kind in _HOLDERS or kind == "TensorProto":
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
    """Carries over fields that this version of onnx has no name for."""
    left_over = _encode_unknown(unknown_fields.UnknownFieldSet(source))
    if left_over:
        target.MergeFromString(left_over)


def _encode_unknown(fields: Any) -> bytes:
    """Protobuf wire format of a set of unknown fields."""
    out = bytearray()
    for field in fields:
        out += _varint(field.field_number << 3 | field.wire_type)
        if field.wire_type == 0:
            out += _varint(field.data)
        elif field.wire_type == 2:
            out += _varint(len(field.data)) + field.data
        elif field.wire_type == 3:  # a group ends with a tag of its own
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


def flat(proto: onnx.ModelProto, limit: int = 4096) -> onnx.ModelProto:
    """A copy without big weights (see `skeleton`) and with calls of local functions replaced by their bodies."""
    slim = skeleton(proto, limit)
    make_dense(slim)
    return inliner.inline_local_functions(slim) if slim.functions else slim
