"""Gradients of grouped attention with caches, as decoders for onnxruntime have it (com.microsoft GroupQueryAttention).

A run adds new keys and values to those of the past. A query at position p sees the keys up to p, and of a window as
many of these as it is long, its own included (as onnxruntime counts from 1.24 on; before, one more). What the operator
returns at and behind the end of a sequence is unspecified, and in some versions no number: none of it is read or
passed on.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from onnxprune.ops.gradients.attention import (
    MS,
    Heads,
    hidden,
    merged,
    of_shared,
    parted,
    refuse,
    repeated,
    summed,
    through,
)
from onnxprune.ops.gradients.node_gradient import NodeGradient
from onnxprune.ops.registry import gradient


@gradient("GroupQueryAttention", domain=MS)
def group_query_attention(g: NodeGradient) -> None:
    """Scores and weights are computed again: of the new keys, or of the caches where there may be a past."""
    _check(g)
    heads, pairs, size = _sizes(g)
    cached, turn, shared = _cached(g), bool(g.attr("do_rotary", 0)), heads // pairs
    q, k, v = _parts(g, heads, pairs, size)
    length = _length(g, q)
    last = g.emit("Cast", g.x(5), to=TensorProto.INT64)
    ends = g.write.reshape(g.emit("Add", last, _whole(g, 1)), [-1, 1, 1, 1])
    rows, start = g.write.reshape(_numbers(g, length), [1, 1, -1, 1]), g.write.ints([0])
    if cached:
        rows = g.emit("Add", rows, _first(g, ends, length))
        start = g.write.reshape(rows, [0, -1])
    if turn:
        q = _turned(g, q, heads, size, start)
    keys, values = (g.y(1), g.y(2)) if cached else (_turned(g, k, pairs, size, start) if turn else k, v)
    columns = g.write.reshape(_numbers(g, _length(g, keys)), [1, 1, -1, 1])
    asked, kept = (g.emit("Less", places, ends) for places in (rows, columns))
    k, v = (repeated(g, _only(g, kept, name), pairs, size, shared) for name in (keys, values))
    scale = float(g.attr("scale", 0) or 1 / math.sqrt(size))
    parts = Heads(_only(g, asked, q), k, v, scale, _biases(g, rows, columns), float(g.attr("softcap", 0)))
    found = through(g, parts, _only(g, asked, parted(g, g.d(), heads, size)))
    if g.wants(10):
        batch, steps = g.lengths(g.node.input(0))[:2]
        g.give(10, summed(g, found.scores, 10, [batch, heads, steps, steps]))
    new = [found.q]
    for i, name in enumerate((found.k, found.v), start=1):
        own = of_shared(g, name, pairs, size, shared)
        present = g.d_or_none(i) if i < len(g.node.outputs) else None
        if present is not None:
            own = g.emit("Add", own, _only(g, kept, present))
        new.append(_split(g, i, own, rows, columns, _first(g, ends, length)) if cached else own)
    if turn:
        new[:2] = (_turned(g, n, h, size, start, back=True) for n, h in zip(new[:2], (heads, pairs), strict=True))
    flat = [merged(g, name, n * size) for name, n in zip(new, (heads, pairs, pairs), strict=True)]
    if g.node.has(1):
        for i, name in enumerate(flat):
            g.give(i, name)
    else:
        g.give(0, g.emit("Concat", *flat, axis=2))


def _check(g: NodeGradient) -> None:
    """Raises LookupError for what has no gradient."""
    refuse(g, [9, 11, 12, 13, 14, 15, 16], ["smooth_softmax", "sliding_window_cache"])
    if g.attr("local_window_size", -1) == 0:
        raise LookupError(f"{g.node.label} has a window of no keys")
    if not g.attr("causal", 1):
        raise LookupError(f"{g.node.label} lets queries see what follows them")
    if g.wants(7) or g.wants(8):
        raise LookupError(f"{g.node.label} turns by computed angles")
    if g.node.has(1) and g.node.has(2):
        lengths = {g.node.input(i).axis(1).length for i in range(3)} - {None}
        if len(lengths) > 1:
            raise LookupError(f"{g.node.label} has not as many keys as queries")


def _sizes(g: NodeGradient) -> tuple[int, int, int]:
    """Heads of queries, heads of keys, and the size of a head."""
    heads, pairs = int(g.attr("num_heads")), int(g.attr("kv_num_heads"))
    width = g.node.input(0).axis(-1).length
    if width is None:
        raise LookupError(f"the width of '{g.x()}' is only known when {g.node.label} runs")
    return heads, pairs, width // (heads if g.node.has(1) else heads + 2 * pairs)


def _cached(g: NodeGradient) -> bool:
    """Whether there may be keys of the past."""
    if not g.node.has(3) or g.node.input(3).axis(2).length == 0:
        return False
    if not all(i < len(g.node.outputs) and g.node.outputs[i] for i in (1, 2)):
        raise LookupError(f"{g.node.label} has a past, and does not return its caches")
    if g.node.has(10):
        raise LookupError(f"{g.node.label} has a bias of its scores and a past")
    return True


def _parts(g: NodeGradient, heads: int, pairs: int, size: int) -> list[str]:
    """Queries, keys and values of shape (batch, heads, length, size)."""
    counts = (heads, pairs, pairs)
    if g.node.has(1):
        return [parted(g, g.x(i), count, size) for i, count in enumerate(counts)]
    ends = [int(end) * size for end in np.cumsum((0, *counts))]
    return [
        parted(g, g.write.slice(g.x(), [ends[i]], [ends[i + 1]], [2], [1]), count, size)
        for i, count in enumerate(counts)
    ]


def _length(g: NodeGradient, name: str) -> str:
    """The length of the third axis, as a scalar."""
    return g.emit("Gather", g.emit("Shape", name), g.write.constant(np.array(2, np.int64)), axis=0)


def _numbers(g: NodeGradient, count: str) -> str:
    """0, 1, 2, ... as a vector."""
    return g.emit("Range", _whole(g, 0), count, _whole(g, 1))


def _whole(g: NodeGradient, number: int) -> str:
    return g.write.constant(np.array(number, np.int64))


def _first(g: NodeGradient, ends: str, length: str) -> str:
    """How many keys of the past each sequence has: a padded prompt none."""
    behind = g.emit("Sub", ends, length)
    return g.emit("Where", g.emit("Less", behind, _whole(g, 0)), _whole(g, 0), behind)


def _only(g: NodeGradient, condition: str, name: str) -> str:
    """A value where a condition holds, 0 elsewhere, whatever it is there."""
    return g.emit("Where", condition, name, g.number(0))


def _biases(g: NodeGradient, rows: str, columns: str) -> list[str]:
    """What is added to the scores.

    Args:
        g: The node.
        rows: Positions of queries; shape (1 or batch, 1, length, 1).
        columns: Positions of keys; shape (1, 1, length, 1).
    """
    window = int(g.attr("local_window_size", -1))
    columns = g.write.reshape(columns, [-1])
    seen = g.emit("Not", g.emit("Less", rows, columns))
    if window > 0:
        seen = g.emit("And", seen, g.emit("Less", g.emit("Sub", rows, _whole(g, window)), columns))
    behind = hidden(g, seen, float(np.finfo(g.dtype(g.node.input(0))).min))
    return [g.x(10), behind] if g.node.has(10) else [behind]


def _turned(g: NodeGradient, name: str, heads: int, size: int, start: str, *, back: bool = False) -> str:
    """Queries or keys, rotated by the angles of their positions, or back.

    Args:
        g: The node.
        name: Name of them; shape (batch, heads, length, size).
        heads: How many heads they have.
        size: Size of a head.
        start: Name of the positions, or of the first one.
        back: Whether the angles have the opposite sign.
    """
    width = g.node.input(7).axis(1).length
    part = {} if width is None or 2 * width == size else {"num_heads": heads, "rotary_embedding_dim": 2 * width}
    sine = g.emit("Neg", g.x(8)) if back else g.x(8)
    interleaved = int(g.attr("rotary_interleaved", 0))
    return g.emit("RotaryEmbedding", name, start, g.x(7), sine, domain=MS, interleaved=interleaved, **part)


def _split(g: NodeGradient, i: int, name: str, rows: str, columns: str, first: str) -> str:
    """The gradient of new keys (1) or values (2) from that of a cache; gives that of the past.

    Args:
        g: The node.
        i: Number of the output.
        name: The gradient of the cache.
        rows: Positions of what is new; shape (batch, 1, length, 1).
        columns: Positions in the cache; shape (1, 1, length, 1).
        first: The first new position of each sequence; shape (batch, 1, 1, 1).
    """
    if g.wants(i + 2):
        old = _only(g, g.emit("Less", columns, first), name)
        end = g.write.reshape(_length(g, g.x(i + 2)), [1])
        g.give(i + 2, g.write.slice_at(old, g.write.ints([0]), end, [2]))
    return g.emit("MatMul", g.mask(g.emit("Equal", rows, g.write.reshape(columns, [-1]))), name)
