"""Sparse initializers (``SparseTensorProto``): tensors stored as the values and positions of their nonzero elements.

A nonzero element takes its own size plus 8 bytes for its position (int64), so that a float32 tensor gets smaller from
two thirds of zeros on. ONNX has sparse initializers since IR version 6; onnxruntime converts them to dense tensors when
it loads a model.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, SparseTensorProto, TensorProto

from onnxprune.errors import ModelError
from onnxprune.model.model import PROTOBUF_LIMIT, Model
from onnxprune.model.tensors import (
    bytes_an_element,
    elements,
    encode,
    is_external,
    is_stripped,
    overwrite_values,
    payload_bytes,
    qualified,
    strip,
    subgraphs,
    tensors,
)

IR_VERSION = 6
"""The first IR version with sparse initializers."""
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
"""Element types of sparse initializers that onnxruntime supports."""


@dataclass
class SparseStorage:
    """The result of `store_sparse`.

    Attributes:
        bytes: Qualified name of each tensor that was made sparse -> its size in bytes before and after.
        dense_because: Why no tensor, or not every suitable one, was made sparse; None if there is no reason to report.
        gzip: Size in bytes of the gzip-compressed model.
    """

    bytes: dict[str, tuple[int, int]] = field(default_factory=dict)
    dense_because: str | None = None
    gzip: int | None = None


SparseOriginals = list[tuple[str, SparseTensorProto]]
"""Pairs of scope and sparse initializer."""


def densify(model: Model) -> SparseOriginals:
    """Replaces sparse initializers by dense ones, in place, so that they are processed like any other weight.

    Sparse initializers that are graph inputs as well are kept, and so are those of models before IR version 4, in which
    every initializer is an input. Of stripped ones the dense form is stripped too.

    Returns:
        The replaced initializers, for `resparsify`.

    Raises:
        ModelError: A position is not in its tensor, or a dense one does not fit into memory.
    """
    originals: SparseOriginals = []
    for scope, graph in _graphs(model.proto.graph):
        fed = {v.name for v in graph.input}
        if model.proto.ir_version < 4 or any(s.values.name in fed for s in graph.sparse_initializer):
            continue
        for sparse in graph.sparse_initializer:
            copy = SparseTensorProto()
            copy.CopyFrom(sparse)
            originals.append((scope, copy))
            if is_stripped(sparse.values) or is_stripped(sparse.indices):
                dense = TensorProto(data_type=sparse.values.data_type, dims=sparse.dims)
                strip(dense)
            else:
                dense = encode(_to_dense(model, sparse), sparse.values.data_type)
            dense.name, dense.doc_string = sparse.values.name, sparse.values.doc_string
            graph.initializer.append(dense)
        del graph.sparse_initializer[:]
    return originals


def densities(originals: SparseOriginals) -> dict[str, float]:
    """Share of the bytes of each dense tensor that the sparse one takes in the file, by its qualified name."""
    found = {}
    for scope, sparse in originals:
        dense = math.prod(sparse.dims) * bytes_an_element(sparse.values.data_type)
        found[qualified(scope, sparse.values.name)] = (
            payload_bytes(sparse.values) + payload_bytes(sparse.indices)
        ) / max(dense, 1)
    return found


def resparsify(model: Model, originals: SparseOriginals) -> None:
    """Makes the initializers that `densify` replaced sparse again, in place; unchanged ones are restored exactly."""
    graphs = dict(_graphs(model.proto.graph))
    for scope, sparse in originals:
        graph = graphs.get(scope, GraphProto())
        found = next((t for t in graph.initializer if t.name == sparse.values.name), None)
        if found is None:
            continue
        array = model.array(found)
        old = _to_dense(model, sparse)
        changed = old.shape != array.shape or not np.array_equal(old, array, equal_nan=array.dtype.kind == "f")
        graph.sparse_initializer.append(_to_sparse(found, array, len(sparse.indices.dims)) if changed else sparse)
        graph.initializer.remove(found)


def store_sparse(model: Model) -> SparseStorage:
    """Replaces initializers and Constant nodes by sparse initializers where those are smaller, in place."""
    result = SparseStorage()
    if model.proto.ir_version < IR_VERSION:
        result.dense_because = (
            f"sparse initializers need IR version {IR_VERSION}; the model has {model.proto.ir_version}"
        )
        return result
    room = PROTOBUF_LIMIT // 2 - sum(payload_bytes(t) for t in tensors(model.proto) if not is_external(t))
    for scope, graph in _graphs(model.proto.graph):
        interface = {v.name for v in [*graph.input, *graph.output]}
        for holder, tensor in list(_constants(graph)):
            name = tensor.name if isinstance(holder, TensorProto) else holder.output[0]
            if name in interface or tensor.data_type not in TYPES or not tensor.dims or not elements(tensor):
                continue
            before = payload_bytes(tensor)
            if _nonzero(model, tensor) * (before / elements(tensor) + 8) >= before:
                continue
            sparse = _to_sparse(tensor, model.array(tensor), 1)
            sparse.values.name = name
            after = sparse.ByteSize()
            if after >= before:
                continue
            if (room := room - after) < 0:
                result.dense_because = "a model file takes at most 2 GB, and sparse tensors cannot be external data"
                return result
            graph.sparse_initializer.append(sparse)
            (graph.initializer if isinstance(holder, TensorProto) else graph.node).remove(holder)
            result.bytes[qualified(scope, name)] = before, after
    if not result.bytes:
        result.dense_because = (
            "no weight has so many zeros that it would be smaller: each nonzero value takes 8 more bytes"
        )
    return result


def gzip_bytes(model: Model) -> int:
    """Returns the size in bytes of the gzip-compressed model, external data included."""
    compressor = zlib.compressobj(wbits=31)
    size = len(compressor.compress(model.proto.SerializeToString(deterministic=True)))
    for tensor in tensors(model.proto):
        if is_external(tensor):
            for part in model.raw_parts(tensor):
                size += len(compressor.compress(part.data))
    return size + len(compressor.flush())


def _graphs(graph: GraphProto, scope: str = "") -> Iterator[tuple[str, GraphProto]]:
    yield scope, graph
    for node in graph.node:
        for inner, below in subgraphs(node):
            yield from _graphs(below, qualified(scope, inner))


def _constants(graph: GraphProto) -> Iterator[tuple[TensorProto | onnx.NodeProto, TensorProto]]:
    """Yields initializers and Constant nodes, each with its tensor."""
    yield from ((t, t) for t in graph.initializer)
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx") and len(node.output) == 1:
            yield from ((node, a.t) for a in node.attribute if a.name == "value")


def _to_dense(model: Model, sparse: SparseTensorProto) -> NDArray[Any]:
    """Returns a sparse tensor as a dense array.

    Raises:
        ModelError: A position is not in the tensor, or it has more elements than there is memory for.
    """
    values, positions = model.array(sparse.values), model.array(sparse.indices)
    lengths = np.array(sparse.dims) if positions.ndim == 2 else math.prod(sparse.dims)
    if np.any(positions < 0) or np.any(positions >= lengths):
        raise ModelError(
            f"the sparse tensor {sparse.values.name!r} of the shape {list(sparse.dims)} has a value outside of it"
        )
    try:
        dense = np.zeros(tuple(sparse.dims), dtype=values.dtype)
    except (MemoryError, ValueError):  # the latter beyond what an address counts
        raise ModelError(
            f"the sparse tensor {sparse.values.name!r} of the shape {list(sparse.dims)} does not fit into memory"
        ) from None
    if positions.ndim == 2:
        dense[tuple(positions.T)] = values
    else:
        dense.reshape(-1)[positions] = values
    return dense


def _nonzero(model: Model, tensor: TensorProto) -> int:
    """How many elements of a tensor its sparse form would hold."""
    return sum(int(np.count_nonzero(_stored(block))) for block in model.values(tensor).blocks())


def _stored(array: NDArray[Any]) -> NDArray[np.bool_]:
    """Which elements a sparse tensor holds: a negative zero would be restored as a positive one."""
    found: NDArray[np.bool_] = array.view(f"u{array.dtype.itemsize}") != 0
    return found


def _to_sparse(tensor: TensorProto, array: NDArray[Any], rank: int) -> SparseTensorProto:
    """Returns the sparse form of a tensor.

    Args:
        tensor: The tensor.
        array: Its values.
        rank: Rank of the positions: 1 for indices of the flattened array, 2 for one index per axis.
    """
    flat = array.reshape(-1)
    positions = np.flatnonzero(_stored(flat))
    values = TensorProto(name=tensor.name, data_type=tensor.data_type, doc_string=tensor.doc_string)
    overwrite_values(values, flat[positions])
    indices = positions if rank == 1 else np.stack(np.unravel_index(positions, array.shape), axis=1)
    return SparseTensorProto(values=values, indices=encode(indices, TensorProto.INT64), dims=array.shape)
