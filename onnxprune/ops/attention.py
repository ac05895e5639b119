"""Fused attention: whole heads go, in queries, keys, values and caches alike.

Where several query heads share a key and value head they go together; with one key and value head for all, query
heads go one by one. The size of a head does not change, so neither does a scale that is derived from it.
"""

from __future__ import annotations

import numpy as np

from onnxprune.graph.graph import Axis
from onnxprune.ops.linear import contract
from onnxprune.ops.op import Op, arange
from onnxprune.ops.quantization import mark
from onnxprune.ops.registry import rule
from onnxprune.ops.ties import Labels, NewShape

MS = "com.microsoft"


class _Heads:
    """Collects the axes that hold heads, and pins all others."""

    def __init__(self, op: Op, heads: int, shared: int | None = None) -> None:
        self.op = op
        self.heads = heads
        self.shared = shared or heads
        if heads < 1 or heads % self.shared:
            raise ValueError("query heads do not divide among keys")
        self.alone = self.shared == 1 and heads > 1
        self.parts: list[tuple[Axis, Labels]] = []
        self.free: set[int] = set()

    def query(self, axis: Axis) -> Labels:
        """Unit of each index of an axis over query heads."""
        own = _head_of(axis, self.heads)
        return own if self.alone else own // (self.heads // self.shared)

    def key(self, axis: Axis) -> Labels:
        """Unit of each index of an axis over key and value heads; none (-1) where they serve all queries."""
        own = _head_of(axis, self.shared)
        return np.full_like(own, -1) if self.alone else own

    def add(self, axis: Axis, labels: Labels) -> None:
        """The indices of the axis go with the units in `labels`; those of none stay."""
        if len(labels) != axis.length:
            raise ValueError(f"{axis} has another length")
        self.free.add(axis.id)
        self.parts.append((axis, labels))
        if (labels < 0).any():
            self.op.pin(axis, "one head of keys and values serves all queries", np.flatnonzero(labels < 0).tolist())

    def add_query(self, *axes: Axis) -> None:
        for axis in axes:
            self.add(axis, self.query(axis))

    def add_key(self, *axes: Axis) -> None:
        for axis in axes:
            self.add(axis, self.key(axis))

    def add_mask(self, index: int) -> None:
        """A bias or mask on scores may have an axis of heads."""
        mask = self.op.input(index) if self.op.has(index) else None
        if mask is not None and (mask.rank or 0) >= 3 and mask.axis(-3).length != 1:
            self.add_query(mask.axis(-3))

    def settle(self, *carried: Axis) -> None:
        """Ties the heads and pins every axis but those and `carried`."""
        self.op.link(*self.parts)
        self.free.update(axis.id for axis in carried)
        for value in self.op.inputs + self.op.outputs:
            for axis in value.axes():
                if axis.id not in self.free:
                    self.op.pin(axis, f"batch, time or the inside of heads at {self.op.node.label}")


def _head_of(axis: Axis, heads: int) -> Labels:
    if not axis.length or axis.length % heads:
        raise ValueError(f"{axis} does not hold {heads} heads")
    return arange(axis) // (axis.length // heads)


def _caches(op: Op, heads: _Heads, inputs: tuple[int, ...], outputs: tuple[int, ...], place: int = 1) -> None:
    """Caches have an axis of key heads."""
    values = [op.input(i) for i in inputs if op.has(i)]
    values += [v for i in outputs if i < len(op.node.outputs) and (v := op.node.outputs[i]) is not None]
    for value in values:
        heads.add_key(value.axis(place))


def _resize(op: Op, out: Axis, heads: _Heads, name: str = "num_heads", shared: str | None = None) -> None:
    size = (out.length or 0) // heads.heads

    def follow(new: NewShape) -> None:
        left = len(new.kept(out)) // size
        new.set_attribute(name, left)
        if shared is not None and not heads.alone:
            new.set_attribute(shared, left // (heads.heads // heads.shared))

    op.resize(follow)


@rule("MultiHeadAttention", domain=MS)
def multi_head_attention(op: Op) -> None:
    """Heads go whole, packed or apart."""
    heads = _Heads(op, op.attr("num_heads"))
    query, out = op.input(0), op.output()
    values: list[Axis] = []
    parts: list[Labels] = []
    for i in (0, 1, 2):
        if not op.has(i):
            continue
        axis = op.input(i).axis({3: 2, 4: 1, 5: 2}[op.input(i).rank or 0])
        heads.add_query(axis)
        values.append(axis)
        parts.append(heads.query(axis))
    heads.add_query(out.axis(2))
    sources = values[-1:]
    if op.has(3):
        bias = op.input(3).axis(0)
        if query.rank != 3 or (len(parts) == 3 and sum(map(len, parts)) != bias.length):
            parts = [np.tile(heads.query(out.axis(2)), 3)]
        heads.add(bias, np.concatenate(parts))
        sources.append(bias)
    heads.add_mask(5)
    _caches(op, heads, (6, 7), (1, 2, 3))
    if op.has(7):
        sources.append(op.input(7).axis(1))
    if op.has(8) or op.has(9):
        raise ValueError("caches shared between steps")
    heads.settle()
    op.keep_zero(out.axis(2), *sources)
    _resize(op, out.axis(2), heads)


@rule("Attention", "QAttention", domain=MS)
def attention(op: Op) -> None:
    """Projection to queries, keys and values, and attention: heads go whole, input features contract."""
    quantised = op.type == "QAttention"
    past, extra = (8, -1) if quantised else (4, 5)
    x, w, out = op.input(0), op.input(1), op.output()
    heads = _Heads(op, op.attr("num_heads"))
    sizes = list(op.attr("qkv_hidden_sizes") or [(w.axis(1).length or 0) // 3] * 3)
    if w.rank != 2 or sum(sizes) != w.axis(1).length or any(s % heads.heads for s in sizes):
        raise ValueError("widths of queries, keys and values unknown")
    columns = np.concatenate([np.arange(s) // (s // heads.heads) for s in sizes])
    contract(op, x.axis(2), w.axis(0))
    heads.add(w.axis(1), columns)
    heads.add_query(out.axis(2))
    vectors = [op.input(i) for i in ((2, 4, 7) if quantised else (2,)) if op.has(i)]
    for value in vectors:
        if value.rank == 1 and value.axis(0).length != 1:
            heads.add(value.axis(0), columns)
    if extra > 0:
        heads.add_mask(extra)
        if op.has(6):
            raise ValueError("caches shared between steps")
    _caches(op, heads, (past,), (1,), 2)
    heads.settle(x.axis(2), w.axis(0))
    if not op.has(past) and not quantised:
        op.keep_zero(out.axis(2), w.axis(1), *(v.axis(0) for v in vectors))
    if quantised:
        mark(op, 1, 4, 7, 1)
    _resize(op, out.axis(2), heads)
    if op.attr("qkv_hidden_sizes"):

        def widths(new: NewShape) -> None:
            left = len(new.kept(out.axis(2))) * heads.heads // sizes[2]
            new.set_attribute("qkv_hidden_sizes", [s // heads.heads * left for s in sizes])

        op.resize(widths)


@rule("GroupQueryAttention", domain=MS)
def group_query_attention(op: Op) -> None:
    """Query heads go with the key and value head that they share."""
    heads = _Heads(op, op.attr("num_heads"), op.attr("kv_num_heads"))
    query, out = op.input(0), op.output()
    if op.has(12) or op.has(13):
        raise ValueError("a quantised cache")
    heads.add_query(out.axis(2))
    sources: list[Axis] = []
    if op.has(1):
        heads.add_query(query.axis(2))
        heads.add_key(op.input(1).axis(2), op.input(2).axis(2))
        sources.append(op.input(2).axis(2))
    else:
        per_key = np.repeat(np.arange(heads.shared), (out.axis(2).length or 0) // heads.heads)
        if heads.alone:
            per_key = np.full_like(per_key, -1)
        heads.add(query.axis(2), np.concatenate([heads.query(out.axis(2)), per_key, per_key]))
        sources.append(query.axis(2))
    heads.add_mask(10)
    if op.has(11):
        heads.add_query(op.input(11).axis(0))
    if op.has(4):
        sources.append(op.input(4).axis(1))
    _caches(op, heads, (3, 4), (1, 2))
    if len(op.node.outputs) > 3 and op.node.outputs[3] is not None:
        heads.add_query(op.node.outputs[3].axis(1))
    heads.settle()
    if not heads.alone:
        op.keep_zero(out.axis(2), *sources)
    _resize(op, out.axis(2), heads, shared="kv_num_heads")


@rule("Attention")
def standard_attention(op: Op) -> None:
    """Heads go whole; query heads with the key and value head that they share."""
    query, key, value, out = op.input(0), op.input(1), op.input(2), op.output()
    if query.rank == 4:
        place = 1
        heads = _Heads(op, query.axis(1).length or 0, key.axis(1).length)
    else:
        place = 2
        heads = _Heads(op, op.attr("q_num_heads"), op.attr("kv_num_heads"))
        _resize(op, out.axis(2), heads, "q_num_heads", "kv_num_heads")
    heads.add_query(query.axis(place), out.axis(place))
    heads.add_key(key.axis(place), value.axis(place))
    heads.add_mask(3)
    _caches(op, heads, (4, 5), (1, 2))
    if len(op.node.outputs) > 3 and op.node.outputs[3] is not None:
        heads.add_query(op.node.outputs[3].axis(1))
    heads.settle()
    if not heads.alone:
        op.keep_zero(out.axis(place), value.axis(place), *([op.input(5).axis(1)] if op.has(5) else []))


@rule("RotaryEmbedding", domain=MS)
@rule("RotaryEmbedding")
def rotary_embedding(op: Op) -> None:
    """Rotates within heads: whole heads pass."""
    x, out = op.input(0), op.output()
    table = op.input(1 if op.node.domain == "" else 2)
    if x.rank == 4:
        op.tie(x.axis(1), out.axis(1), zero=True)
        carried = {x.axis(1).id, out.axis(1).id}
    else:
        width, count = x.axis(2).length or 0, op.attr("num_heads", 0)
        if not count:
            size = 2 * (table.axis(-1).length or 0)
            if op.attr("rotary_embedding_dim", 0) or not size or width % size:
                raise ValueError("size of a head unknown")
            count = width // size
        op.tie(x.axis(2), out.axis(2), zero=True)
        op.link((x.axis(2), _head_of(x.axis(2), count)))
        carried = {x.axis(2).id, out.axis(2).id}
        size = width // count
        if op.attr("num_heads", 0):
            op.resize(lambda new: new.set_attribute("num_heads", len(new.kept(x.axis(2))) // size))
    for value in op.inputs + op.outputs:
        for axis in value.axes():
            if axis.id not in carried:
                op.pin(axis, f"batch, time or the inside of heads at {op.node.label}")


@rule(
    "DecoderMaskedMultiHeadAttention",
    "DecoderMaskedSelfAttention",
    "DecoderAttention",
    "PackedAttention",
    "PackedMultiHeadAttention",
    "SparseAttention",
    "PagedAttention",
    "LongformerAttention",
    "LinearAttention",
    "GemmaRotaryEmbedding",
    "MRotaryEmbedding",
    "RemovePadding",
    "RestorePadding",
    domain=MS,
    any_rank=True,
)
def attention_not_carried(op: Op) -> None:
    """Attention of decoders with packed or shared caches: pinned."""
    op.pin_all(f"{op.node.label}: its heads are not followed")


@rule("LinearAttention", "CausalConvWithState", any_rank=True)
@rule("FlexAttention", domain="ai.onnx.preview", any_rank=True)
def state_not_carried(op: Op) -> None:
    """Attention with a state of its own: pinned."""
    op.pin_all(f"{op.node.label}: its heads are not followed")
