"""Fused attention: whole heads are removed, in queries, keys, values and caches alike.

Query heads that share a key and value head go with it or, where key and value heads stay (a cache has their number),
as many of each: those at the same place among the queries of a key head. The size of a head does not change, so
neither does a scale that is derived from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.graph.graph import Axis, Node
from onnxprune.graph.node_shapes import like_first, need
from onnxprune.graph.operators import Shape, Term
from onnxprune.ops.op import Op, arange
from onnxprune.ops.registry import macs, output_shape, rule
from onnxprune.ops.ties import Alternative, Labels, Link, NewShape

MS = "com.microsoft"


class Heads:
    """Collects the axes that hold heads, and pins all others.

    Heads are numbered: those of queries from 0, then those of keys and values where these are fewer.
    """

    def __init__(self, op: Op, heads: int, shared: int | None = None) -> None:
        self.op = op
        self.heads = heads
        self.shared = shared or heads
        if heads < 1 or heads % self.shared:
            raise ValueError("query heads do not divide among keys")
        self.per_key = heads // self.shared
        self.parts: list[tuple[Axis, Labels]] = []
        self.free: set[int] = set()

    def query(self, axis: Axis) -> Labels:
        """Head of each index of an axis over query heads."""
        return head_of(axis, self.heads)

    @property
    def keys(self) -> Labels:
        """The heads of keys and values."""
        return np.arange(self.shared) + (self.heads if self.per_key > 1 else 0)

    def key(self, axis: Axis) -> Labels:
        """Head of each index of an axis over key and value heads."""
        return self.keys[head_of(axis, self.shared)]

    def add(self, axis: Axis, numbers: Labels) -> None:
        """The indices of the axis belong to these heads."""
        if len(numbers) != axis.length:
            raise ValueError(f"{axis} has another length")
        self.free.add(axis.id)
        self.parts.append((axis, numbers))

    def add_query(self, *axes: Axis) -> None:
        """The axes hold query heads."""
        for axis in axes:
            self.add(axis, self.query(axis))

    def add_key(self, *axes: Axis) -> None:
        """The axes hold key and value heads."""
        for axis in axes:
            self.add(axis, self.key(axis))

    def add_mask(self, index: int) -> None:
        """A bias or mask on scores may have an axis of heads."""
        mask = self.op.input(index) if self.op.has(index) else None
        if mask is not None and (mask.rank or 0) >= 3 and mask.axis(-3).length != 1:
            self.add_query(mask.axis(-3))

    def settle(self, *carried: Axis, zero: Sequence[Axis] = ()) -> None:
        """Ties the heads and pins every axis but those and `carried`.

        Args:
            carried: Axes that the rule ties itself.
            zero: The output's axis of heads, and the axes of which it is zero where they all are; none if it never is.
        """
        if self.per_key == 1:
            self.op.link(*self.parts)
            if zero:
                self.op.keep_zero(*zero)
        else:
            self.op.choose(
                Alternative(
                    "keys with their queries",
                    [self._linked(by_key=True)],
                    zeros=[tuple(zero)] if zero else [],
                    weight=1,
                ),
                Alternative("queries of each key", [self._linked(by_key=False)], kept=self._keys()),
            )
        self.free.update(axis.id for axis in carried)
        for value in self.op.inputs + self.op.outputs:
            for axis in value.axes():
                if axis.id not in self.free:
                    self.op.pin(axis, f"batch, time or the inside of heads at {self.op.node.label}")

    def left(self, new: NewShape) -> tuple[int, int]:
        """How many heads are left: of queries, and of keys and values."""
        kept = np.concatenate([numbers[new.kept(axis)] for axis, numbers in self.parts])
        queries = len(np.unique(kept[kept < self.heads]))
        return queries, len(np.unique(kept[kept >= self.heads])) if self.per_key > 1 else queries

    def _linked(self, *, by_key: bool) -> Link:
        """The heads tied to those of the same key, or of the same place among the queries of a key."""
        of = np.arange(self.heads)
        labels = np.concatenate(
            [of // self.per_key, np.arange(self.shared)] if by_key else [of % self.per_key, np.full(self.shared, -1)]
        )
        return [(axis, labels[numbers]) for axis, numbers in self.parts]

    def _keys(self) -> list[tuple[Axis, Labels]]:
        """The indices that belong to keys and values."""
        return [(axis, np.flatnonzero(n >= self.heads)) for axis, n in self.parts if (n >= self.heads).any()]


def head_of(axis: Axis, heads: int) -> Labels:
    """The head of each index of an axis; raises ValueError where they do not divide evenly."""
    if not axis.length or axis.length % heads:
        raise ValueError(f"{axis} does not hold {heads} heads")
    return arange(axis) // (axis.length // heads)


def tie_caches(op: Op, heads: Heads, inputs: tuple[int, ...], outputs: tuple[int, ...], place: int = 1) -> None:
    """Caches have an axis of key heads."""
    values = [op.input(i) for i in inputs if op.has(i)]
    values += [v for i in outputs if (v := op.optional_output(i)) is not None]
    for value in values:
        heads.add_key(value.axis(place))


def resize_heads(op: Op, heads: Heads, name: str = "num_heads", shared: str | None = None) -> None:
    """Gives the node the number of heads that is left, in the attribute `name` and for keys in `shared`."""

    def follow(new: NewShape) -> None:
        queries, keys = heads.left(new)
        new.set_attribute(name, queries)
        if shared is not None:
            new.set_attribute(shared, keys)

    op.resize(follow)


@macs("MultiHeadAttention GroupQueryAttention", domain=MS)
@macs("Attention")
def attention_macs(node: Node) -> list[Term]:
    """Scores and weighted values of queries against keys: (batch, length, width) or (batch, heads, length, width)."""
    query, out = node.input(0).ranked_axes(), node.output().ranked_axes()
    if len(query) == 5:  # queries, keys and values in one: (batch, length, heads, 3, head)
        return [(2.0, [query[0], query[1], query[1], query[2], query[4]])]
    keyed = node.has(1)  # else keys and values are packed after the queries
    keys = node.input(1).ranked_axes() if keyed else query
    length = keys[1] if len(keys) == 5 else keys[-2]
    cache = node.outputs[1] if len(node.outputs) > 1 else None
    if cache is not None and cache.rank is not None:
        length = cache.axes()[-2]  # the keys of this call and of those before it
    rows = [*query[:-1], length]
    return [(1.0, [*rows, (query if keyed else out)[-1]]), (1.0, [*rows, out[-1]])]


@output_shape("Attention")
def standard_attention_shape(node: Node, shapes: list[Shape]) -> list[Shape]:
    """(batch, length, width of values) or (batch, heads, length, size of values); the caches; the scores."""
    query, key, value = (list(need(shape)) for shape in shapes[:3])
    if len(query) == 4:
        (batch, heads, rows, size), shared, columns, width = query, key[1], key[2], value[3]
        out = [batch, heads, rows, width]
    else:
        heads, shared = node.attribute("q_num_heads"), node.attribute("kv_num_heads")
        (batch, rows, _), columns = query, key[1]
        size, width = (d // shared if isinstance(d, int) else None for d in (key[2], value[2]))
        out = [batch, rows, heads * width if width is not None else None]
    if node.has(4):
        past = need(shapes[4])[2]
        columns = past + columns if isinstance(past, int) and isinstance(columns, int) else None
    return [out, [batch, shared, columns, size], [batch, shared, columns, width], [batch, heads, rows, columns]]


@rule("Attention")
def standard_attention(op: Op) -> None:
    """Whole heads: query heads go with the key and value head that they share, or as many of each."""
    query, key, value, out = op.input(0), op.input(1), op.input(2), op.output()
    if query.rank == 4:
        place = 1
        heads = Heads(op, query.axis(1).length or 0, key.axis(1).length)
    else:
        place = 2
        heads = Heads(op, op.attr("q_num_heads"), op.attr("kv_num_heads"))
        resize_heads(op, heads, "q_num_heads", "kv_num_heads")
    heads.add_query(query.axis(place), out.axis(place))
    heads.add_key(key.axis(place), value.axis(place))
    heads.add_mask(3)
    tie_caches(op, heads, (4, 5), (1, 2))
    scores = op.optional_output(3)
    if scores is not None:
        heads.add_query(scores.axis(1))
    heads.settle(zero=[out.axis(place), value.axis(place), *([op.input(5).axis(1)] if op.has(5) else [])])


output_shape("RotaryEmbedding RemovePadding", domain=MS)(like_first)


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
        op.link((x.axis(2), head_of(x.axis(2), count)))
        carried = {x.axis(2).id, out.axis(2).id}
        size = width // count
        if op.attr("num_heads", 0):
            op.resize(lambda new: new.set_attribute("num_heads", len(new.kept(x.axis(2))) // size))
    for value in op.inputs + op.outputs:
        for axis in value.axes():
            if axis.id not in carried:
                op.pin(axis, f"batch, time or the inside of heads at {op.node.label}")


@rule("LinearAttention CausalConvWithState", any_rank=True)
@rule("FlexAttention", domain="ai.onnx.preview", any_rank=True)
def state_not_carried(op: Op) -> None:
    """Attention with a state of its own: pinned."""
    op.pin_all(f"{op.node.label}: its heads are not followed")
