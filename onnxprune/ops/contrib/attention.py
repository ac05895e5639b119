"""Fused attention of onnxruntime's own domain: see `ops.attention` for what is tied."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.graph.graph import Axis, Node
from onnxprune.graph.lengths import Dim
from onnxprune.graph.node_shapes import need
from onnxprune.graph.operators import Shape, Term, WeightLayout
from onnxprune.ops.attention import Heads, resize_heads, tie_caches
from onnxprune.ops.linear import contract
from onnxprune.ops.op import Op
from onnxprune.ops.quantization import mark
from onnxprune.ops.registry import facts_of, macs, output_shape, rule, weights
from onnxprune.ops.ties import Labels, NewShape

MS = "com.microsoft"


@macs("Attention QAttention", domain=MS)
def packed_attention_macs(node: Node) -> list[Term]:
    """Projection of (batch, length, width) to queries, keys and values; then scores and weighted values.

    Queries and keys have the same width, values that of the output: (columns - width of values) / 2.
    """
    batch, length, _ = node.input(0).ranked_axes()
    columns, out = node.input(1).ranked_axes()[1], node.output().ranked_axes()[-1]
    pairs = [batch, length, length]
    projection = [batch, length, *node.input(1).axes()]
    return [(1.0, projection), (0.5, [*pairs, columns]), (0.5, [*pairs, out])]


@weights("Attention QAttention", domain=MS)
def packed_attention_weights(node: Node, i: int, shape: Sequence[int]) -> WeightLayout | None:
    """The projection's matrix of shape (in, queries + keys + values)."""
    return WeightLayout(0, 1) if i == 1 and len(shape) == 2 else None


facts_of("QAttention", domain=MS, type_of=(3,))


@output_shape("Attention QAttention", domain=MS)
def packed_attention_shape(node: Node, shapes: list[Shape]) -> list[Shape]:
    """(batch, length, width of values) and the cache."""
    x, w = need(shapes[0]), need(shapes[1])
    sizes = node.attribute("qkv_hidden_sizes")
    width = sizes[2] if sizes else (w[1] // 3 if isinstance(w[1], int) else None)
    key = sizes[1] if sizes else width
    heads = node.attribute("num_heads")
    present: list[Dim] = [2, x[0], heads, None, key // heads if isinstance(key, int) else None]
    return [[x[0], x[1], width], present]


@output_shape("MultiHeadAttention", domain=MS)
def multi_head_shape(node: Node, shapes: list[Shape]) -> list[Shape]:
    """(batch, length, width of values) and the caches, from queries, keys and values packed or apart."""
    q, heads = need(shapes[0]), node.attribute("num_heads")
    key = shapes[1] if len(shapes) > 1 else None
    value = shapes[2] if len(shapes) > 2 else None
    if len(q) != 3:  # packed
        return [[q[0], q[1], heads * q[4] if isinstance(q[4], int) else None]] if len(q) == 5 else []
    width = q[2]
    if value is not None:
        width = value[2] if len(value) == 3 else (heads * value[3] if isinstance(value[3], int) else None)
    cache: list[Shape] = []
    for size in (q[2] if key is not None else None, width):
        cache.append([q[0], heads, None, size // heads if isinstance(size, int) else None])
    return [[q[0], q[1], width], *cache]


@output_shape("GroupQueryAttention", domain=MS)
def grouped_query_shape(node: Node, shapes: list[Shape]) -> list[Shape]:
    """(batch, length, width of queries) and the caches."""
    q = need(shapes[0])
    heads, pairs = node.attribute("num_heads"), node.attribute("kv_num_heads")
    packed = len(shapes) < 2 or shapes[1] is None
    size = q[2] // (heads + 2 * pairs if packed else heads) if isinstance(q[2], int) else None
    cache: list[Dim] = [q[0], pairs, None, size]
    return [[q[0], q[1], heads * size if size is not None else None], cache, list(cache)]


@rule("MultiHeadAttention", domain=MS)
def multi_head_attention(op: Op) -> None:
    """Heads go whole, packed or apart."""
    heads = Heads(op, op.attr("num_heads"))
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
    tie_caches(op, heads, (6, 7), (1, 2, 3))
    if op.has(7):
        sources.append(op.input(7).axis(1))
    if op.has(8) or op.has(9):
        raise ValueError("caches shared between steps")
    heads.settle(zero=[out.axis(2), *sources])
    resize_heads(op, heads)


@rule("Attention QAttention", domain=MS)
def attention(op: Op) -> None:
    """Projection to queries, keys and values, and attention: heads go whole, input features contract."""
    quantised = op.type == "QAttention"
    past, extra = (8, -1) if quantised else (4, 5)
    x, w, out = op.input(0), op.input(1), op.output()
    heads = Heads(op, op.attr("num_heads"))
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
    tie_caches(op, heads, (past,), (1,), 2)
    heads.settle(x.axis(2), w.axis(0))
    if not op.has(past) and not quantised:
        op.keep_zero(out.axis(2), w.axis(1), *(v.axis(0) for v in vectors))
    if quantised:
        mark(op, 1, 4, 7, 1)
    resize_heads(op, heads)
    if op.attr("qkv_hidden_sizes"):

        def widths(new: NewShape) -> None:
            left, _ = heads.left(new)
            new.set_attribute("qkv_hidden_sizes", [s // heads.heads * left for s in sizes])

        op.resize(widths)


@rule("GroupQueryAttention", domain=MS)
def group_query_attention(op: Op) -> None:
    """Query heads go with the key and value head that they share, or as many of each."""
    heads = Heads(op, op.attr("num_heads"), op.attr("kv_num_heads"))
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
        size = (out.axis(2).length or 0) // heads.heads
        keys = np.repeat(heads.keys, size)
        heads.add(query.axis(2), np.concatenate([heads.query(out.axis(2)), keys, keys]))
        sources.append(query.axis(2))
    heads.add_mask(10)
    if op.has(11):
        heads.add_query(op.input(11).axis(0))
    if op.has(4):
        sources.append(op.input(4).axis(1))
    tie_caches(op, heads, (3, 4), (1, 2))
    scores = op.optional_output(3)
    if scores is not None:
        heads.add_query(scores.axis(1))
    heads.settle(zero=[out.axis(2), *sources])
    resize_heads(op, heads, shared="kv_num_heads")


@rule(
    "DecoderMaskedMultiHeadAttention DecoderMaskedSelfAttention DecoderAttention PackedAttention "
    "PackedMultiHeadAttention SparseAttention PagedAttention LongformerAttention LinearAttention "
    "GemmaRotaryEmbedding MRotaryEmbedding RemovePadding RestorePadding",
    domain=MS,
    any_rank=True,
)
def attention_not_carried(op: Op) -> None:
    """Attention of decoders with packed or shared caches: pinned."""
    op.pin_all(f"{op.node.label}: its heads are not followed")
