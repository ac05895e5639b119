"""Tensors stored by their elements that are not zero: ONNX's sparse initializers (``SparseTensorProto``).

An element that stays takes its own bytes and 8 for its place, so that floats of 32 bits get smaller from two thirds of
zeros on. The spec has sparse initializers since IR version 6; onnxruntime makes them dense when it loads them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, SparseTensorProto, TensorProto

from onnxprune.model.model import PROTOBUF_LIMIT, Model
from onnxprune.model.tensors import encode, is_external, overwrite_values, payload_bytes, qualified, subgraphs, tensors

IR_VERSION = 6
"""The first one with sparse initializers."""
TYPES = frozenset(
    {
        TensorProto.FLOAT,
        TensorProto.DOUBLE,
        TensorProto.FLOAT16,
        TensorProto.BFLOAT16,
        TensorProto.INT8,
        TensorProto.UINT8,
        TensorProto.INT16,
        TensorProto.UINT16,
        TensorProto.INT32,
        TensorProto.UINT32,
        TensorProto.INT64,
        TensorProto.UINT64,
    }
)
"""Element types that onnxruntime makes dense."""


@dataclass
class Stored:
    """What became sparse.

    Attributes:
        bytes: Tensor -> its size before and after.
        dense_because: Why nothing is, or what could not be; None where there is nothing to say.
        gzip: Bytes of the model as a file that was compressed with gzip.
    """

    bytes: dict[str, tuple[int, int]] = field(default_factory=dict)
    dense_because: str | None = None
    gzip: int | None = None

    def told(self) -> dict[str, Any]:
        """What the report says."""
        return {
            "sparse": {name: {"before": a, "after": b} for name, (a, b) in self.bytes.items()},
            "dense_because": self.dense_because,
            "gzip": self.gzip,
        }


Kept = list[tuple[str, SparseTensorProto]]
"""Scope of each sparse initializer, and the initializer."""


def densify(model: Model) -> Kept:
    """Makes sparse initializers dense, in place, so that they are weights like any other; returns them as they were.

    Before IR version 4, where an initializer is an input too, they stay; so do those that a caller may feed.
    """
    kept: Kept = []
    for scope, graph in _graphs(model.proto.graph):
        fed = {v.name for v in graph.input}
        if model.proto.ir_version < 4 or any(s.values.name in fed for s in graph.sparse_initializer):
            continue
        for sparse in graph.sparse_initializer:
            copy = SparseTensorProto()
            copy.CopyFrom(sparse)
            kept.append((scope, copy))
            dense = encode(_dense(model, sparse), sparse.values.data_type)
            dense.name, dense.doc_string = sparse.values.name, sparse.values.doc_string
            graph.initializer.append(dense)
        del graph.sparse_initializer[:]
    return kept


def resparsify(model: Model, kept: Kept) -> None:
    """Stores what came sparse so again, in place: as it was where it did not change."""
    graphs = dict(_graphs(model.proto.graph))
    for scope, sparse in kept:
        graph = graphs.get(scope, GraphProto())
        found = next((t for t in graph.initializer if t.name == sparse.values.name), None)
        if found is None:
            continue
        array = model.array(found)
        old = _dense(model, sparse)
        changed = old.shape != array.shape or not np.array_equal(old, array, equal_nan=array.dtype.kind == "f")
        graph.sparse_initializer.append(_sparse(found, array, len(sparse.indices.dims)) if changed else sparse)
        graph.initializer.remove(found)


def store(model: Model) -> Stored:
    """Makes initializers sparse where that is smaller, in place. Constants in nodes become initializers for that."""
    done = Stored()
    if model.proto.ir_version < IR_VERSION:
        done.dense_because = f"sparse initializers need IR version {IR_VERSION}; the model has {model.proto.ir_version}"
        return done
    room = PROTOBUF_LIMIT // 2 - sum(payload_bytes(t) for t in tensors(model.proto) if not is_external(t))
    for scope, graph in _graphs(model.proto.graph):
        held = {v.name for v in [*graph.input, *graph.output]}
        for holder, tensor in list(_constants(graph)):
            name = tensor.name if isinstance(holder, TensorProto) else holder.output[0]
            if name in held or tensor.data_type not in TYPES or not tensor.dims:
                continue
            sparse = _sparse(tensor, model.array(tensor), 1)
            sparse.values.name = name
            before, after = payload_bytes(tensor), sparse.ByteSize()
            if after >= before:
                continue
            if (room := room - after) < 0:
                done.dense_because = "a model file takes at most 2 GB, and sparse tensors cannot lie outside of it"
                return done
            graph.sparse_initializer.append(sparse)
            (graph.initializer if isinstance(holder, TensorProto) else graph.node).remove(holder)
            done.bytes[qualified(scope, name)] = before, after
    if not done.bytes:
        done.dense_because = "no weight has so many zeros that it would be smaller: what stays takes 8 more bytes each"
    return done


def gzipped(model: Model) -> int:
    """Bytes of the model, with the data that lies outside, once compressed with gzip."""
    squeezer = zlib.compressobj(wbits=31)
    size = len(squeezer.compress(model.proto.SerializeToString(deterministic=True)))
    for tensor in tensors(model.proto):
        if is_external(tensor):
            size += len(squeezer.compress(memoryview(model.raw(tensor).data)))
    return size + len(squeezer.flush())


def _graphs(graph: GraphProto, scope: str = "") -> Iterator[tuple[str, GraphProto]]:
    yield scope, graph
    for node in graph.node:
        for inner, below in subgraphs(node):
            yield from _graphs(below, qualified(scope, inner))


def _constants(graph: GraphProto) -> Iterator[tuple[TensorProto | onnx.NodeProto, TensorProto]]:
    """Initializers and Constant nodes, with the tensor that they hold."""
    yield from ((t, t) for t in graph.initializer)
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx") and len(node.output) == 1:
            yield from ((node, a.t) for a in node.attribute if a.name == "value")


def _dense(model: Model, sparse: SparseTensorProto) -> NDArray[Any]:
    """All elements of a sparse tensor."""
    values, places = model.array(sparse.values), model.array(sparse.indices)
    found = np.zeros(tuple(sparse.dims), dtype=values.dtype)
    if places.ndim == 2:
        found[tuple(places.T)] = values
    else:
        found.reshape(-1)[places] = values
    return found


def _sparse(tensor: TensorProto, array: NDArray[Any], rank: int) -> SparseTensorProto:
    """The sparse form of a tensor: places counted along the flat array, or (`rank` 2) as indices.

    A negative zero is kept as an element: it would come back positive.
    """
    flat = array.reshape(-1)
    held = flat != 0
    if array.dtype.kind not in "iu":
        held = held | np.signbit(flat)
    places = np.flatnonzero(held)
    values = TensorProto(name=tensor.name, data_type=tensor.data_type, doc_string=tensor.doc_string)
    overwrite_values(values, flat[places])
    listed = places if rank == 1 else np.stack(np.unravel_index(places, array.shape), axis=1)
    return SparseTensorProto(values=values, indices=encode(listed, TensorProto.INT64), dims=array.shape)
