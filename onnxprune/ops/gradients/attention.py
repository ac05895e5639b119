"""Gradients of fused attention: scores and weights are computed again.

With P = softmax(c q k' + bias) and y = P v, and the gradient d of y: that of v is P' d, that of the scores
S = P (d v' - sum of P (d v')), and those of q and k are c S k and c S' q.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from onnxprune.ops.gradients.node_gradient import NodeGradient
from onnxprune.ops.registry import gradient

MS = "com.microsoft"


@dataclass(frozen=True)
class Heads:
    """Attention of all heads at once.

    Attributes:
        q: Name of the queries; shape (batch, heads, length, size).
        k: Name of the keys.
        v: Name of the values.
        scale: Factor of the scores.
        biases: Names of what is added to them, broadcast.
        cap: What they stay below, before that; 0 for no such limit.
    """

    q: str
    k: str
    v: str
    scale: float
    biases: Sequence[str]
    cap: float = 0.0


@dataclass(frozen=True)
class Found:
    """Gradients of the parts of `Heads`, and of what the biases are added to."""

    q: str
    k: str
    v: str
    scores: str


def through(g: NodeGradient, heads: Heads, d: str) -> Found:
    """Gradients from that of the weighted values; shape (batch, heads, length, size)."""
    scale = g.number(heads.scale)
    scores = g.times(g.emit("MatMul", heads.q, _turned(g, heads.k)), scale)
    if heads.cap:
        cap = g.number(heads.cap)
        bent = g.emit("Tanh", g.emit("Div", scores, cap))
        scores, slope = g.times(bent, cap), g.emit("Sub", g.number(1), g.times(bent, bent))
    for bias in heads.biases:
        scores = g.emit("Add", scores, bias)
    weights = g.emit("Softmax", scores, axis=3)
    weighted = g.times(weights, g.emit("MatMul", d, _turned(g, heads.v)))
    total = g.write.reduce_sum(weighted, [3], keepdims=True)
    biased = g.emit("Sub", weighted, g.times(weights, total))
    s = g.times(biased, slope) if heads.cap else biased
    q, k = g.emit("MatMul", s, heads.k), g.emit("MatMul", _turned(g, s), heads.q)
    return Found(g.times(q, scale), g.times(k, scale), g.emit("MatMul", _turned(g, weights), d), biased)


def _turned(g: NodeGradient, name: str) -> str:
    return g.emit("Transpose", name, perm=[0, 1, 3, 2])


def parted(g: NodeGradient, name: str, heads: int, size: int) -> str:
    """(batch, length, heads * size) as (batch, heads, length, size)."""
    return g.emit("Transpose", g.write.reshape(name, [0, 0, heads, size]), perm=[0, 2, 1, 3])


def merged(g: NodeGradient, name: str, width: int) -> str:
    """The other way round."""
    return g.write.reshape(g.emit("Transpose", name, perm=[0, 2, 1, 3]), [0, 0, width])


def summed(g: NodeGradient, scores: str, index: int, shape: Sequence[int]) -> str:
    """The gradient of a summand of the scores, which have some shape."""
    lengths = [1] * (4 - g.rank(g.node.input(index))) + g.lengths(g.node.input(index))
    axes = [axis for axis, length in enumerate(lengths) if length == 1 and shape[axis] != 1]
    return g.reshaped(g.write.reduce_sum(scores, axes, keepdims=True), g.node.input(index))


def hidden(g: NodeGradient, seen: str, least: float) -> str:
    """What is added to scores: 0 where something is seen, else a number that leaves hardly any weight."""
    return g.emit("Where", seen, g.number(0), g.number(least))


def refuse(g: NodeGradient, inputs: Sequence[int], attributes: Sequence[str]) -> None:
    """Raises LookupError where a node has one of some inputs, or an attribute that is not 0."""
    for i in inputs:
        if g.node.has(i):
            raise LookupError(f"{g.node.label} has an input number {i}")
    for name in attributes:
        if g.attr(name, 0):
            raise LookupError(f"{g.node.label} has an attribute {name}")


@gradient("Attention")
def attention(g: NodeGradient) -> None:
    """Scores and weights are computed again; keys that several queries share get the sum of their gradients."""
    refuse(g, [4, 5, 6], ["softcap"])
    flat = g.rank(g.node.input(0)) == 3
    shapes = [g.lengths(g.node.input(i)) for i in range(3)]
    counts = [int(g.attr(name, 0)) for name in ("q_num_heads", "kv_num_heads", "kv_num_heads")]
    if flat:
        shapes = [[b, n, s, width // n] for (b, s, width), n in zip(shapes, counts, strict=True)]
    names = [parted(g, g.x(i), shape[1], shape[3]) if flat else g.x(i) for i, shape in enumerate(shapes)]
    (batch, queries, length, size), (_, keys, seen, _) = shapes[:2]
    shared = queries // keys
    q, k, v = names[0], *(repeated(g, names[i], shapes[i][1], shapes[i][3], shared) for i in (1, 2))
    scale, least = float(g.attr("scale", 0) or 1 / math.sqrt(size)), float(np.finfo(g.dtype(g.node.input(0))).min)
    biases = []
    if g.node.has(3):
        if g.node.input(3).axis(-1).length not in (1, seen):
            raise LookupError(f"the mask of {g.node.label} has not one number a key")
        chosen = g.node.input(3).elem_type == TensorProto.BOOL
        biases.append(hidden(g, g.x(3), least) if chosen else g.x(3))
    if g.attr("is_causal", 0):
        biases.append(hidden(g, g.write.constant(np.tri(length, seen, dtype=bool)), least))
    d = parted(g, g.d(), queries, shapes[2][3]) if flat else g.d()
    found = through(g, Heads(q, k, v, scale, biases), d)
    for i, name in enumerate((found.q, found.k, found.v)):
        own = of_shared(g, name, shapes[i][1], shapes[i][3], shared) if i else name
        g.give(i, merged(g, own, shapes[i][1] * shapes[i][3]) if flat else own)
    if g.wants(3):
        g.give(3, summed(g, found.scores, 3, [batch, queries, length, seen]))


def repeated(g: NodeGradient, name: str, heads: int, size: int, times: int) -> str:
    """Each head of keys or values as often as queries share it."""
    if times == 1:
        return name
    wide = g.emit("Expand", g.write.unsqueeze(name, [2]), g.write.ints([1, 1, times, 1, 1]))
    return g.write.reshape(wide, [0, heads * times, -1, size])


def of_shared(g: NodeGradient, name: str, heads: int, size: int, times: int) -> str:
    """The gradient of what `repeated` repeats."""
    if times == 1:
        return name
    return g.write.reduce_sum(g.write.reshape(name, [0, heads, times, -1, size]), [2], keepdims=False)


def _filled(g: NodeGradient, index: int) -> list[str]:
    """What a mask of shape (batch, keys) adds to the scores, where the operator has one."""
    if not g.node.has(index):
        return []
    if g.rank(g.node.input(index)) != 2:
        raise LookupError(f"the mask of {g.node.label} has not one number a key")
    seen = g.write.unsqueeze(g.emit("Cast", g.x(index), to=TensorProto.BOOL), [1, 2])
    return [hidden(g, seen, float(g.attr("mask_filter_value", -10000.0)))]


@gradient("MultiHeadAttention", domain=MS, parameters=(3,))
def multi_head_attention(g: NodeGradient) -> None:
    """Scores and weights are computed again; a bias is that of queries, keys and values, one after the other."""
    refuse(g, [6, 7, 8, 9], ["unidirectional"])
    if not (g.node.has(1) and g.node.has(2)) or any(g.rank(g.node.input(i)) != 3 for i in range(3)):
        raise LookupError(f"{g.node.label} has its queries, keys or values packed")
    heads, shapes = int(g.attr("num_heads")), [g.lengths(g.node.input(i)) for i in range(3)]
    widths = [shape[2] for shape in shapes]
    starts = np.cumsum([0, *widths])
    names = []
    for i, width in enumerate(widths):
        name = g.x(i)
        if g.node.has(3):
            name = g.emit("Add", name, g.write.slice(g.x(3), [int(starts[i])], [int(starts[i + 1])], [0], [1]))
        names.append(parted(g, name, heads, width // heads))
    scale = float(g.attr("scale", 0) or 1 / math.sqrt(widths[0] // heads))
    biases = [*_filled(g, 4), *([g.x(5)] if g.node.has(5) else [])]
    d = parted(g, g.d(), heads, widths[2] // heads)
    found = through(g, Heads(names[0], names[1], names[2], scale, biases), d)
    given = [merged(g, name, width) for name, width in zip((found.q, found.k, found.v), widths, strict=True)]
    for i, name in enumerate(given):
        g.give(i, name)
    if g.wants(3):
        g.give(3, g.emit("Concat", *(g.write.reduce_sum(name, [0, 1], keepdims=False) for name in given), axis=0))
    if g.wants(5):
        g.give(5, summed(g, found.scores, 5, [shapes[0][0], heads, shapes[0][1], shapes[1][1]]))


@gradient("Attention", domain=MS, parameters=(1, 2))
def packed_attention(g: NodeGradient) -> None:
    """Scores and weights are computed again, behind one product that makes queries, keys and values."""
    refuse(g, [4, 6], ["unidirectional", "do_rotary"])
    x, w = g.node.input(0), g.node.input(1)
    (batch, length, _), (rows, columns), heads = g.lengths(x), g.lengths(w), int(g.attr("num_heads"))
    widths = [int(n) for n in g.attr("qkv_hidden_sizes", None) or [columns // 3] * 3]
    product = g.emit("MatMul", g.x(), g.x(1))
    made = g.emit("Add", product, g.x(2)) if g.node.has(2) else product
    starts = [int(n) for n in np.cumsum([0, *widths])]
    names = [
        parted(g, g.write.slice(made, [starts[i]], [starts[i + 1]], [2], [1]), heads, width // heads)
        for i, width in enumerate(widths)
    ]
    scale = float(g.attr("scale", 0) or 1 / math.sqrt(widths[0] // heads))
    biases = [*_filled(g, 3), *([g.x(5)] if g.node.has(5) else [])]
    found = through(g, Heads(names[0], names[1], names[2], scale, biases), parted(g, g.d(), heads, widths[2] // heads))
    parts = [merged(g, name, width) for name, width in zip((found.q, found.k, found.v), widths, strict=True)]
    of_made = g.write.reshape(g.emit("Concat", *parts, axis=2), [batch * length, columns])
    if g.wants(0):
        turned = g.emit("Transpose", g.x(1), perm=[1, 0])
        g.give(0, g.reshaped(g.emit("MatMul", of_made, turned), x))
    if g.wants(1):
        flat = g.emit("Transpose", g.write.reshape(g.x(), [batch * length, rows]), perm=[1, 0])
        g.give(1, g.emit("MatMul", flat, of_made))
    if g.wants(2):
        g.give(2, g.write.reduce_sum(of_made, [0], keepdims=False))
    if g.wants(5):
        g.give(5, summed(g, found.scores, 5, [batch, heads, length, length]))
