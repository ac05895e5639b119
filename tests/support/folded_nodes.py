"""Random nodes that merge a batch with what comes after it, and take it apart again, by lengths that are computed."""

from __future__ import annotations

import numpy as np

from tests.support.graph_builder import Builder, Tensor

FOLDED = (0,) * 5
"""What stands for the shape of tensors with another batch: other nodes are not to take them for images or rows."""


def _target(b: Builder, x: Tensor, factor: int, *inside: str) -> tuple[str, str]:
    """Names of a computed shape whose batch is `factor` times that of `x`, and of that batch."""
    shape = b.node("Shape", [x.name], FOLDED)
    batch = b.node("Gather", [shape.name, b.constant(np.array([0]))], FOLDED)
    many = b.node("Mul", [batch.name, b.constant(np.array([factor]))], FOLDED)
    return b.node("Concat", [many.name, *inside], FOLDED, axis=0).name, batch.name


def _blocks(b: Builder) -> None:
    """Blocks of channels lie in the batch."""
    x = b.choose.pick(b.images())
    _, c, h, w = x.shape
    divisors = [g for g in (2, 3, 4) if c % g == 0]
    if not divisors:
        return
    g, space, hole = b.choose.pick(divisors), b.constant(np.array([h, w])), b.constant(np.array([-1]))
    target, batch = _target(b, x, g, b.choose.pick([hole, b.constant(np.array([c // g]))]), space)
    folded = b.node("Reshape", [x.name, target], FOLDED)
    back = b.node("Concat", [batch, b.choose.pick([hole, b.constant(np.array([c]))]), space], FOLDED, axis=0)
    made = _within_block(b, folded, c // g)
    b.node("Reshape", [made.name, back.name], x.shape)


def _within_block(b: Builder, x: Tensor, channels: int) -> Tensor:
    kind = b.choose.integer(0, 3)
    if kind == 0:
        return b.node("Relu", [x.name], FOLDED)
    if kind == 1:
        weight = b.weight(channels, channels, 1, 1, fan_in=channels)
        return b.node("Conv", [x.name, weight], FOLDED)
    if kind == 2:
        zeros = b.node("ConstantOfShape", [b.node("Shape", [x.name], FOLDED).name], FOLDED)
        return b.node("Sub", [zeros.name, x.name], FOLDED)
    total = b.node("ReduceSum", [x.name, b.constant(np.array([b.choose.integer(0, 1)]))], FOLDED)
    return b.node("Mul", [x.name, b.node("Sigmoid", [total.name], FOLDED).name], FOLDED)


def _heads(b: Builder) -> None:
    """Attention whose heads lie in the batch."""
    if not b.rows():
        return
    x = b.choose.pick(b.rows())
    _, s, d = x.shape
    heads, size = b.choose.pick([2, 3, 4]), b.choose.pick([2, 3])
    width = heads * size
    target, batch = _target(b, x, heads, b.constant(np.array([s, size])))

    def project() -> Tensor:
        y = b.node("MatMul", [x.name, b.weight(d, width, fan_in=d)], FOLDED)
        r = b.node("Reshape", [y.name, b.constant(np.array([0, 0, heads, size]))], FOLDED)
        t = b.node("Transpose", [r.name], FOLDED, perm=[0, 2, 1, 3])
        return b.node("Reshape", [t.name, target], FOLDED)

    q, k, v = project(), project(), project()
    scores = b.node("MatMul", [q.name, b.node("Transpose", [k.name], FOLDED, perm=[0, 2, 1]).name], FOLDED)
    o = b.node("MatMul", [b.node("Softmax", [scores.name], FOLDED, axis=-1).name, v.name], FOLDED)
    split = b.node("Concat", [batch, b.constant(np.array([-1, s, size]))], FOLDED, axis=0)
    apart = b.node("Transpose", [b.node("Reshape", [o.name, split.name], FOLDED).name], FOLDED, perm=[0, 2, 1, 3])
    flat = b.node("Reshape", [apart.name, b.constant(np.array([0, 0, width]))], FOLDED)
    b.node("MatMul", [flat.name, b.weight(width, d, fan_in=width)], x.shape)


def _frames(b: Builder) -> None:
    """Features are mixed over the batch, which is cut in pairs of frames."""
    x = b.choose.pick(b.images())
    _, c, h, w = x.shape
    apart = b.constant(np.array([-1, 2, c, h, w]))
    clips = b.node("Reshape", [x.name, apart], FOLDED)
    total = b.node("ReduceSum", [clips.name, b.constant(np.array([1]))], FOLDED)
    both = b.node("Add", [clips.name, total.name], FOLDED)
    b.node("Reshape", [both.name, b.node("Shape", [x.name], FOLDED).name], x.shape)


FOLDED_STEPS = {"blocks in batch": _blocks, "heads in batch": _heads, "frames": _frames}
