"""Mixtures of experts, fused: whole experts go with their values of the router, and channels inside all experts alike.

The operator chooses the best experts by the router's values and weighs them, so that without one of them others are
taken: whole experts are of grade *mixing*. What is left is what the model computes where the values of the others are
minus infinity. Channels inside of experts are exact.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxprune.graph.graph import Axis, Node, Value
from onnxprune.graph.operators import Term
from onnxprune.ops.op import Op, arange
from onnxprune.ops.registry import macs, rule
from onnxprune.ops.ties import Labels, NewShape

MS = "com.microsoft"


@macs("MoE", domain=MS)
def experts_macs(node: Node) -> list[Term]:
    """Each token goes through k experts: both products of each, and a third one where the gate is apart."""
    x, count = node.input(0).ranked_axes(), float(node.attribute("k", 1))
    matrices = [node.input(i).ranked_axes() for i in (2, 4, 6) if node.has(i)]
    return [(count, [*x[:-1], *matrix[1:]]) for matrix in matrices]


@rule("MoE", domain=MS)
def experts(op: Op) -> None:
    """Whole experts change which others are taken; the same channels inside all of them go exactly."""
    x, out, first, second = op.input(0), op.output(), op.input(2), op.input(4)
    _carry_experts(op, [op.input(i) for i in range(2, 8) if op.has(i)])
    third = op.input(6) if op.has(6) else None
    width = x.axis(-1).length
    if (first.axis(2).length, second.axis(1).length) != (width, width):
        raise ValueError("weights of experts are stored in another order")
    for axis in (out.axis(-1), first.axis(2), second.axis(1), *([third.axis(2)] if third is not None else [])):
        op.tie(x.axis(-1), axis)
    op.sum_over(x.axis(-1), first.axis(2))
    inner = second.axis(2)
    links = [(inner, arange(inner)), (first.axis(1), _halves(op, first.axis(1), inner.length or 0))]
    links += [(third.axis(1), arange(inner))] if third is not None else []
    for i, width_of in ((3, links[1][1]), (7, arange(inner))):
        if op.has(i):
            links.append((op.input(i).axis(1), width_of))
    op.link(*links)
    if op.has(5):
        op.tie(op.input(5).axis(1), out.axis(-1))
    op.keep_zero(out.axis(-1), second.axis(1), *([op.input(5).axis(1)] if op.has(5) else []))


@rule("QMoE", domain=MS)
def quantised_experts(op: Op) -> None:
    """Whole experts change which others are taken; inside of them numbers are packed."""
    stored = [op.input(i) for i in range(2, len(op.node.inputs)) if op.has(i) and i != 14]
    _carry_experts(op, stored)
    for value in [*stored, *([op.input(14)] if op.has(14) else [])]:
        for axis in value.axes()[1:]:
            op.pin(axis, f"{op.node.label} has packed numbers")
    for value in (op.input(0), op.output()):
        op.pin(value.axis(-1), f"{op.node.label} has packed numbers")


def _carry_experts(op: Op, stored: list[Value]) -> None:
    """Ties the experts of the router and of weights, and the axes of tokens."""
    x, router, out = op.input(0), op.input(1), op.output()
    for axis in x.axes()[:-1]:
        op.tie(axis, out.axis(axis.position))
    op.pin(router.axis(0), f"tokens at {op.node.label}")
    chosen = router.axis(1)
    op.mix(chosen, f"{op.node.label} chooses among them")
    for axis in _of_experts(stored, chosen.length):
        op.tie(chosen, axis)

    def choose_fewer(new: NewShape) -> None:
        new.set_attribute("k", min(op.attr("k", 1), len(new.kept(chosen))))

    op.resize(choose_fewer)


def _of_experts(stored: list[Value], count: int | None) -> Iterator[Axis]:
    """The first axes of what is stored for each expert; a scale may be one for all."""
    for value in stored:
        if value.axis(0).length == count:
            yield value.axis(0)
        elif value.axis(0).length != 1:
            raise ValueError(f"{value.key} is not stored for each expert")


def _halves(op: Op, rows: Axis, inner: int) -> Labels:
    """The channel of each row of the first matrix, which may hold a gate beside each: in turn, or one half each."""
    if rows.length == inner:
        return arange(rows)
    layout = op.attr("swiglu_fusion", 0)
    if rows.length != 2 * inner or layout not in (1, 2):
        raise ValueError("gates are stored in another way")
    return np.arange(2 * inner) // 2 if layout == 1 else np.arange(2 * inner) % inner
