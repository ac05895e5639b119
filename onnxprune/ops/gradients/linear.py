"""Gradients of matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxprune.graph.graph import Value
from onnxprune.ops.gradients import slopes
from onnxprune.ops.gradients.node_gradient import NodeGradient
from onnxprune.ops.registry import gradient


@gradient("Gemm", parameters=(1, 2))
def gemm(g: NodeGradient) -> None:
    """Products of the gradient with the other factor."""
    turned_a, turned_b = int(g.attr("transA", 0)), int(g.attr("transB", 0))
    alpha, beta = float(g.attr("alpha", 1.0)), float(g.attr("beta", 1.0))
    if g.wants(0):
        if turned_a:
            g.give(0, _gemm(g, g.x(1), g.d(), alpha=alpha, transA=turned_b, transB=1))
        else:
            g.give(0, _gemm(g, g.d(), g.x(1), alpha=alpha, transB=1 - turned_b))
    if g.wants(1):
        if turned_b:
            g.give(1, _gemm(g, g.d(), g.x(0), alpha=alpha, transA=1, transB=turned_a))
        else:
            g.give(1, _gemm(g, g.x(0), g.d(), alpha=alpha, transA=1 - turned_a))
    if g.wants(2):
        scaled = g.d() if beta == 1 else g.times(g.d(), g.number(beta))
        g.give(2, g.sum_to(scaled, g.node.output(), g.node.input(2)))


@gradient("FusedGemm", domain="com.microsoft", parameters=(1, 2))
def fused_gemm(g: NodeGradient) -> None:
    """A Gemm behind which is an activation whose slope its value tells."""
    names = [f"activation_{name}" for name in ("alpha", "beta", "gamma")]
    gemm(g.before(slopes.before_activation(g, [float(n) for n in map(g.attr, names) if n is not None])))


def _gemm(g: NodeGradient, a: str, b: str, **attributes: Any) -> str:
    """A product of matrices; before opset 11 Gemm could not do without a third operand."""
    rest = [] if g.write.opset >= 11 else [g.number(0)]
    return g.emit("Gemm", a, b, *rest, **attributes)


@gradient("MatMul", parameters=(0, 1))
def matmul(g: NodeGradient) -> None:
    """Products of the gradient with the other factor, summed over samples that share one."""
    a, b, out = g.node.input(0), g.node.input(1), g.node.output()
    if g.rank(a) < 2 or g.rank(b) < 2:
        _of_vector(g, g.rank(a), g.rank(b))
        return
    if g.wants(0):
        g.give(0, g.sum_to(g.emit("MatMul", g.d(), _turned(g, b)), out, a, own=2))
    if not g.wants(1):
        return
    if g.rank(b) == 2 and g.rank(a) > 2 and all(n is not None for n in (a.axis(-1).length, b.axis(1).length)):
        rows = g.write.reshape(g.x(0), [-1, int(a.axis(-1).length or 0)])
        d = g.write.reshape(g.d(), [-1, int(b.axis(1).length or 0)])
        g.give(1, _gemm(g, rows, d, transA=1))
    else:
        g.give(1, g.sum_to(g.emit("MatMul", _turned(g, a), g.d()), out, b, own=2))


def _of_vector(g: NodeGradient, a: int, b: int) -> None:
    """A product with a vector, or of two: a sum of products of elements.

    Args:
        g: The node.
        a: Rank of the first factor.
        b: Rank of the second one.
    """
    if a == 1 and b == 1:
        g.give(0, g.times(g.d(), g.x(1)))
        g.give(1, g.times(g.d(), g.x(0)))
    elif a == 1:
        d = g.write.unsqueeze(g.d(), [b - 2])
        if g.wants(0):
            g.give(0, g.write.reduce_sum(g.times(d, g.x(1)), [*range(b - 2), b - 1], keepdims=False))
        if g.wants(1):
            g.give(1, g.times(d, g.write.unsqueeze(g.x(0), [1])))
    else:
        d = g.write.unsqueeze(g.d(), [a - 1])
        if g.wants(0):
            g.give(0, g.times(d, g.x(1)))
        if g.wants(1):
            g.give(1, g.write.reduce_sum(g.times(d, g.x(0)), range(a - 1), keepdims=False))


@gradient("FusedMatMul TransposeMatMul", domain="com.microsoft", parameters=(0, 1))
def fused_matmul(g: NodeGradient) -> None:
    """A product of factors whose axes are permuted, times a number."""
    orders = [_order(g, 0, "A"), _order(g, 1, "B")]
    factors = [g.emit("Transpose", g.x(i), perm=order) for i, order in enumerate(orders)]
    d = g.times(g.d(), g.number(float(g.attr("alpha", 1.0))))
    for i, letter in enumerate("AB"):
        if not g.wants(i):
            continue
        value, out = g.node.input(i), g.node.output()
        other = g.emit("Transpose", factors[1 - i], perm=_swapped(len(orders[1 - i])))
        product = g.emit("MatMul", *((d, other) if i == 0 else (other, d)))
        if not g.attr(f"transBatch{letter}", 0):
            turned = bool(g.attr(f"trans{letter}", 0))
            product = g.emit("Transpose", product, perm=_swapped(g.rank(out))) if turned else product
            g.give(i, g.sum_to(product, out, value, own=2))
        elif [value.axis(axis).length for axis in orders[i][:-2]] == [axis.length for axis in out.axes()[:-2]]:
            g.give(i, g.emit("Transpose", product, perm=[int(axis) for axis in np.argsort(orders[i])]))
        else:
            raise LookupError(f"{g.node.label} stretches a factor whose first axes are permuted")


def _order(g: NodeGradient, index: int, letter: str) -> list[int]:
    """The order of the axes of a factor in which it is multiplied."""
    rank = g.rank(g.node.input(index))
    if rank < 2:
        raise LookupError(f"{g.node.label} multiplies with a vector")
    order = list(range(rank))
    if g.attr(f"transBatch{letter}", 0):
        order = [*order[1:-1], 0, rank - 1]
    return [*order[:-2], order[-1], order[-2]] if g.attr(f"trans{letter}", 0) else order


def _swapped(rank: int) -> list[int]:
    """The order of axes that swaps the last two."""
    return [*range(rank - 2), rank - 1, rank - 2]


def _turned(g: NodeGradient, value: Value) -> str:
    """A value with its last two axes swapped."""
    return g.emit("Transpose", value.name, perm=_swapped(g.rank(value)))


def _lengths_by_letter(g: NodeGradient, factors: Sequence[str]) -> dict[str, set[int | None]]:
    """The lengths of the axes that each letter of an equation stands for."""
    found: dict[str, set[int | None]] = {}
    for i, term in enumerate(factors):
        for letter, axis in zip(term, g.node.input(i).axes(), strict=True):
            found.setdefault(letter, set()).add(axis.length)
    return found


@gradient("Einsum", parameters=(0, 1))
def einsum(g: NodeGradient) -> None:
    """A sum of products again: the gradient takes the place of the factor."""
    equation = str(g.attr("equation")).replace(" ", "")
    if "->" not in equation or "." in equation:
        raise LookupError(f"{g.node.label} leaves its output's axes open")
    terms, out = equation.split("->")
    factors = terms.split(",")
    if any(1 in found and len(found) > 1 for found in _lengths_by_letter(g, factors).values()):
        raise LookupError(f"{g.node.label} stretches an axis of length 1")
    for i, term in enumerate(factors):
        rest = [t for n, t in enumerate(factors) if n != i]
        if len(set(term)) < len(term) or not set(term) <= set(out).union(*rest):
            raise LookupError(f"{g.node.label} sums over an axis of one factor alone")
        if g.wants(i):
            others = [g.x(n) for n in range(len(factors)) if n != i]
            g.give(i, g.emit("Einsum", g.d(), *others, equation=",".join([out, *rest]) + "->" + term))
