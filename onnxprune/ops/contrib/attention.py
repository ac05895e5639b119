"""Fused attention of onnxruntime's own domain: see `ops.attention` for what is tied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
from onnxprune.ops.ties import NewShape

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


@output_shape("GroupQueryAttention SparseAttention PagedAttention", domain=MS)
def grouped_query_shape(node: Node, shapes: list[Shape]) -> list[Shape]:
    """(batch, length, width of queries) and the caches; (tokens, width of queries) where texts have no padding."""
    q = need(shapes[0])
    heads, pairs = node.attribute("num_heads"), node.attribute("kv_num_heads")
    packed = len(shapes) < 2 or shapes[1] is None
    size = q[-1] // (heads + 2 * pairs if packed else heads) if isinstance(q[-1], int) else None
    out = [*q[:-1], heads * size if size is not None else None]
    if node.op_type != "GroupQueryAttention":  # these write into their caches
        return [out, *(None if shape is None else list(shape) for shape in shapes[3:5])]
    cache: list[Dim] = [q[0], pairs, None, size]
    return [out, cache, list(cache)]


@output_shape("PackedMultiHeadAttention", domain=MS)
def packed_multi_head_shape(node: Node, shapes: list[Shape]) -> list[Shape]:
    """(tokens, width of values), from queries, keys and values packed or apart."""
    q = need(shapes[0])
    value = shapes[2] if len(shapes) > 2 else None
    if len(q) == 4:
        return [[q[0], q[1] * q[3] if isinstance(q[1], int) and isinstance(q[3], int) else None]]
    return [[q[0], (value or q)[1]]]


@output_shape("PackedAttention", domain=MS)
def unpadded_attention_shape(node: Node, shapes: list[Shape]) -> list[Shape]:
    """(tokens, width of values)."""
    x, columns = need(shapes[0]), need(shapes[1])[1]
    sizes = node.attribute("qkv_hidden_sizes")
    return [[x[0], sizes[2] if sizes else (columns // 3 if isinstance(columns, int) else None)]]


@rule("MultiHeadAttention", domain=MS)
def multi_head_attention(op: Op) -> None:
    """Heads go whole, packed or apart."""
    if op.has(8) or op.has(9):
        raise ValueError("caches shared between steps")
    heads = Heads(op, op.attr("num_heads"))
    sources = _projections(op, heads, {3: 2, 4: 1, 5: 2}, biased=op.input(0).rank == 3)
    heads.add_mask(5)
    tie_caches(op, heads, (6, 7), (1, 2, 3))
    if op.has(7):
        sources.append(op.input(7).axis(1))
    heads.settle(zero=[op.output().axis(2), *sources])
    resize_heads(op, heads)


@rule("PackedMultiHeadAttention", domain=MS)
def packed_multi_head_attention(op: Op) -> None:
    """Heads go whole, of texts without padding one after another."""
    heads = Heads(op, op.attr("num_heads"))
    sources = _projections(op, heads, {2: 1, 4: 1}, biased=op.input(0).rank == 2)
    heads.add_mask(6)
    heads.settle(zero=[op.output().axis(1), *sources])
    resize_heads(op, heads)


def _projections(op: Op, heads: Heads, places: Mapping[int, int], *, biased: bool) -> list[Axis]:
    """Ties the heads of queries, keys and values, of their bias and of the output.

    Args:
        op: The operator; its first inputs are queries, keys, values and their bias.
        heads: The heads.
        places: The axis that holds heads, by the rank of an input.
        biased: Whether the bias is of parts as they are given.

    Returns:
        What the output is zero at.
    """
    out = op.output().axis(-1)
    axes = [op.input(i).axis(places[op.input(i).rank or 0]) for i in (0, 1, 2) if op.has(i)]
    heads.add_query(*axes, out)
    sources = axes[-1:]
    if op.has(3):
        bias, parts = op.input(3).axis(0), [heads.query(axis) for axis in axes]
        if not biased or (len(parts) == 3 and sum(map(len, parts)) != bias.length):
            parts = [np.tile(heads.query(out), 3)]
        heads.add(bias, np.concatenate(parts))
        sources.append(bias)
    return sources


@rule("Attention QAttention PackedAttention", domain=MS)
def attention(op: Op) -> None:
    """Projection to queries, keys and values, and attention: heads go whole, input features contract."""
    quantised, unpadded = op.type == "QAttention", op.type == "PackedAttention"
    past, extra = (-1, 5) if unpadded else (8, -1) if quantised else (4, 5)
    x, w, out = op.input(0), op.input(1), op.output()
    heads = Heads(op, op.attr("num_heads"))
    sizes = list(op.attr("qkv_hidden_sizes") or [(w.axis(1).length or 0) // 3] * 3)
    if w.rank != 2 or sum(sizes) != w.axis(1).length or any(s % heads.heads for s in sizes):
        raise ValueError("widths of queries, keys and values unknown")
    columns = np.concatenate([np.arange(s) // (s // heads.heads) for s in sizes])
    contract(op, x.axis(-1), w.axis(0))
    heads.add(w.axis(1), columns)
    heads.add_query(out.axis(-1))
    vectors = [op.input(i) for i in ((2, 4, 7) if quantised else (2,)) if op.has(i)]
    for value in vectors:
        if value.rank == 1 and value.axis(0).length != 1:
            heads.add(value.axis(0), columns)
    if extra > 0:
        heads.add_mask(extra)
    if not quantised and not unpadded and op.has(6):
        raise ValueError("caches shared between steps")
    if not unpadded:
        tie_caches(op, heads, (past,), (1,), 2)
    heads.settle(x.axis(-1), w.axis(0))
    if not op.has(past) and not quantised:
        op.keep_zero(out.axis(-1), w.axis(1), *(v.axis(0) for v in vectors))
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
    if op.has(12) or op.has(13):
        raise ValueError("a quantised cache")
    heads, sources = _grouped(op)
    heads.add_mask(10)
    if op.has(11):
        heads.add_query(op.input(11).axis(0))
    scores = op.optional_output(3)
    if scores is not None:
        heads.add_query(scores.axis(1))
    _settle_grouped(op, heads, sources, 1)


@rule("SparseAttention", domain=MS)
def sparse_attention(op: Op) -> None:
    """As GroupQueryAttention, where all heads look at the same blocks."""
    if op.input(5).axis(0).length != 1 or op.input(6).axis(0).length != 1:
        raise ValueError("heads look at blocks of their own")
    _settle_grouped(op, *_grouped(op), 1)


@rule("PagedAttention", domain=MS)
def paged_attention(op: Op) -> None:
    """As GroupQueryAttention, of texts without padding and with caches in pages."""
    if op.attr("kv_cache_layout", "SEPARATE") != "SEPARATE":
        raise ValueError("keys and values in one cache")
    heads, sources = _grouped(op)
    if op.has(11):
        heads.add_query(op.input(11).axis(0))
    for i in (14, 15):
        if op.has(i) and op.input(i).rank == 3:
            heads.add_key(op.input(i).axis(0))
    _settle_grouped(op, heads, sources, 2)


def _grouped(op: Op) -> tuple[Heads, list[Axis]]:
    """The heads of queries, keys and values, packed or apart; and what the output is zero at."""
    heads = Heads(op, op.attr("num_heads"), op.attr("kv_num_heads"))
    query, out = op.input(0).axis(-1), op.output().axis(-1)
    heads.add_query(out)
    if op.has(1):
        heads.add_query(query)
        heads.add_key(op.input(1).axis(-1), op.input(2).axis(-1))
        return heads, [op.input(2).axis(-1)]
    keys = np.repeat(heads.keys, (out.length or 0) // heads.heads)
    heads.add(query, np.concatenate([heads.query(out), keys, keys]))
    return heads, [query]


def _settle_grouped(op: Op, heads: Heads, sources: list[Axis], place: int) -> None:
    """Ties caches, which have their heads at an axis, and settles the heads."""
    if op.has(4):
        sources = [*sources, op.input(4).axis(place)]
    tie_caches(op, heads, (3, 4), (1, 2), place)
    heads.settle(zero=[op.output().axis(-1), *sources])
    resize_heads(op, heads, shared="kv_num_heads")


@rule(
    "DecoderMaskedMultiHeadAttention DecoderMaskedSelfAttention DecoderAttention LongformerAttention LinearAttention "
    "GemmaRotaryEmbedding MRotaryEmbedding RemovePadding RestorePadding",
    domain=MS,
    any_rank=True,
)
def attention_not_carried(op: Op) -> None:
    """Attention of decoders with packed or shared caches: pinned."""
    op.pin_all(f"{op.node.label}: its heads are not followed")
