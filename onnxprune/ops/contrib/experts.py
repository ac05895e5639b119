"""Mixtures of experts, fused: whole experts go with their values of the router, and channels inside all experts alike.

The operator chooses the best experts by the router's values and weighs them, so that without one of them others are
taken: whole experts are of grade *mixing*. What is left is what the model computes where the values of the others are
minus infinity. Channels inside of experts are exact. Numbers of a few bits go in units that share no byte and no scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph.graph import Axis, Node, Value
from onnxprune.graph.operators import Term
from onnxprune.ops.op import Op, arange
from onnxprune.ops.registry import macs, rule
from onnxprune.ops.ties import Experts, Labels, Link, NewShape

MS = "com.microsoft"
Floats = NDArray[np.float64]
ROUTER_WEIGHTS = 14
"""Input of QMoE that weighs the chosen experts, one number for each."""


@macs("MoE", domain=MS)
def experts_macs(node: Node) -> list[Term]:
    """Each token goes through k experts: both products of each, and a third one where the gate is apart."""
    x, count = node.input(0).ranked_axes(), float(node.attribute("k", 1))
    matrices = [node.input(i).ranked_axes() for i in (2, 4, 6) if node.has(i)]
    return [(count, [*x[:-1], *matrix[1:]]) for matrix in matrices]


@macs("QMoE", domain=MS)
def quantised_experts_macs(node: Node) -> list[Term]:
    """The same; how many numbers a byte of the inner axis holds is a factor."""
    x, count = node.input(0).ranked_axes(), float(node.attribute("k", 1))
    matrices = [(n, node.input(i).ranked_axes()) for n, i in ((1, 2), (2, 5), (3, 8)) if node.has(i)]
    return [(count * 8 / _bits(node, n), [*x[:-1], *matrix[1:]]) for n, matrix in matrices]


@rule("MoE", domain=MS)
def experts(op: Op) -> None:
    """Whole experts change which others are taken; the same channels inside all of them go exactly."""
    _carry_experts(op, [op.input(i) for i in range(2, 8) if op.has(i)])
    _carry_channels(op, [_Matrix(op, weight=i, bias=i + 1) for i in (2, 4, 6) if op.has(i)])


@rule("QMoE", domain=MS)
def quantised_experts(op: Op) -> None:
    """As MoE; inside of experts channels go in units that share no byte and no scale."""
    parameters = [i for i in range(2, len(op.node.inputs)) if op.has(i)]
    _carry_experts(op, [op.input(i) for i in parameters if i != ROUTER_WEIGHTS])
    if op.has(ROUTER_WEIGHTS):
        op.tie(op.input(1).axis(1), op.input(ROUTER_WEIGHTS).axis(1))
        op.pin(op.input(ROUTER_WEIGHTS).axis(0), f"tokens at {op.node.label}")
    if op.attr("quant_type", "int") != "int" or op.attr("weights_prepacked", 0) or max(parameters) > ROUTER_WEIGHTS:
        for value in [*(op.input(i) for i in parameters if i != ROUTER_WEIGHTS), op.input(0), op.output()]:
            inside = value.axes()[-1:] if value in (op.input(0), op.output()) else value.axes()[1:]
            for axis in inside:
                op.pin(axis, f"{op.node.label} stores its numbers in the order of a device, or in blocks of floats")
        return
    _carry_channels(
        op,
        [
            _Matrix(op, i, bias=i + 2, scale=i + 1, zero=10 + n, bits=_bits(op.node, n))
            for n, i in ((1, 2), (2, 5), (3, 8))
            if op.has(i)
        ],
    )


def _bits(node: Node, matrix: int) -> int:
    return int(node.attribute(f"fc{matrix}_expert_weight_bits", node.attribute("expert_weight_bits", 4)))


@dataclass(frozen=True)
class _Matrix:
    """One matrix of all experts, ``(experts, rows, columns)``, and what belongs to it.

    Attributes:
        op: The operator.
        weight: The input with its numbers.
        bias: The input with a number a row; it may be absent.
        scale: The input with a scale for each row, or for each block of a row; None for floats.
        zero: The input with zero points, packed like the numbers; it may be absent.
        bits: Bits of a number; 8 for floats, of which each is one element too.
    """

    op: Op
    weight: int
    bias: int
    scale: int | None = None
    zero: int | None = None
    bits: int = 8

    @property
    def shared(self) -> int:
        """Numbers of an element."""
        if 8 % self.bits:
            raise ValueError(f"numbers of {self.bits} bits lie across bytes")
        return 8 // self.bits

    @property
    def block(self) -> int:
        """Columns that have a scale of their own; 0 where whole rows have."""
        return int(self.op.attr("block_size", 0)) if self.scale is not None else 0

    @property
    def points(self) -> Value | None:
        """The zero points."""
        return self.op.input(self.zero) if self.zero is not None and self.op.has(self.zero) else None

    @property
    def row_unit(self) -> int:
        """Rows that share an element."""
        return self.shared if self.points is not None and not self.block else 1

    @property
    def column_unit(self) -> int:
        """Columns that share an element or a scale."""
        if not self.block:
            return self.shared
        return self.block * (self.shared if self.points is not None else 1)

    def by_row(self, units: Labels) -> Link:
        """What is stored for rows of these units; one unit a row."""
        found: Link = [(self.op.input(self.weight).axis(1), units)]
        for i in (self.bias, self.scale):
            if i is not None and self.op.has(i):
                found.append((self.op.input(i).axis(1), units))
        if self.points is not None:
            found.append((self.points.axis(1), units if self.block else units[:: self.shared]))
        return found

    def by_column(self, units: Labels) -> Link:
        """The same for columns."""
        found: Link = [(self.op.input(self.weight).axis(2), units[:: self.shared])]
        if self.block and self.scale is not None:
            found.append((self.op.input(self.scale).axis(2), units[:: self.block]))
            if self.points is not None:
                found.append((self.points.axis(2), units[:: self.block * self.shared]))
        return found

    def zero_columns(self) -> list[Axis]:
        """Axes that make columns zero once masked."""
        if self.scale is None:
            return [self.op.input(self.weight).axis(2)]
        return [self.op.input(self.scale).axis(2)] if self.block else []

    def zero_rows(self) -> list[Axis]:
        """Axes that make a row of the result zero once all of them are."""
        parts = [self.weight if self.scale is None else self.scale, self.bias]
        return [self.op.input(i).axis(1) for i in parts if self.op.has(i)]


def _carry_channels(op: Op, matrices: list[_Matrix]) -> None:
    """Ties the channels inside of experts, and the width that they read and write."""
    x, out, (first, second, *third) = op.input(0), op.output(), matrices
    width, hidden = x.axis(-1).length, _columns(second)
    if width != _columns(first) or op.input(second.weight).axis(1).length != width or hidden is None or width is None:
        raise ValueError("weights of experts are stored in another order")
    outer = np.arange(width) // math.lcm(first.column_unit, second.row_unit, *(m.column_unit for m in third))
    inner = np.arange(hidden) // math.lcm(first.row_unit, second.column_unit, *(m.row_unit for m in third))
    carried: Link = [(x.axis(-1), outer), (out.axis(-1), outer), *second.by_row(outer)]
    _together(op, [*carried, *(part for m in (first, *third) for part in m.by_column(outer))])
    op.sum_over(x.axis(-1), x.axis(-1), *first.zero_columns())
    halves = _halves(op, op.input(first.weight).axis(1), hidden)
    inside = [*second.by_column(inner), *first.by_row(inner[halves])]
    _together(op, [*inside, *(part for m in third for part in m.by_row(inner))])
    op.keep_zero(out.axis(-1), *second.zero_rows())
    for m in matrices:
        if m.scale is not None and op.input(m.weight).tensor is not None:
            op.packed(op.input(m.weight), op.input(m.scale), m.points, m.bits)


def _together(op: Op, parts: Link) -> None:
    """Ties axes index by index where each index is a unit, else by their units."""
    (first, _), *others = parts
    if all(np.array_equal(units, arange(first)) for _, units in parts):
        for axis, _ in others:
            op.tie(first, axis)
    else:
        op.link(*parts)


def _columns(matrix: _Matrix) -> int | None:
    stored = matrix.op.input(matrix.weight).axis(2).length
    return None if stored is None else stored * (matrix.shared if matrix.scale is not None else 1)


def _carry_experts(op: Op, stored: list[Value]) -> None:
    """Ties the experts of the router and of weights, and the axes of tokens."""
    x, router, out = op.input(0), op.input(1), op.output()
    for axis in x.axes()[:-1]:
        op.tie(axis, out.axis(axis.position))
        op.pin(axis, f"tokens at {op.node.label}")
    op.pin(router.axis(0), f"tokens at {op.node.label}")
    chosen = router.axis(1)
    op.mix(chosen, f"{op.node.label} chooses among them")
    for axis in _of_experts(stored, chosen.length):
        op.tie(chosen, axis)
    routing = [i for i in (1, ROUTER_WEIGHTS) if op.has(i)]
    normalised = op.attr("normalize_routing_weights", 0) or (op.type == "QMoE" and len(routing) == 1)
    op.experts(Experts(op.node, chosen, routing, lambda found: gates(found, op.attr("k", 1), bool(normalised))))

    def choose_fewer(new: NewShape) -> None:
        new.set_attribute("k", min(op.attr("k", 1), len(new.kept(chosen))))

    op.resize(choose_fewer)


def gates(routing: Sequence[Floats], k: int, normalised: bool) -> Floats:
    """The factors of the k chosen experts of each token, and 0 for the others; shape (tokens, experts).

    Args:
        routing: The router's values, of which the largest are chosen; shape (tokens, experts). The factors are their
            softmax, or what a second array holds.
        k: Experts of a token.
        normalised: Whether the factors of the chosen ones sum to 1.
    """
    values = routing[0].astype(np.float64)
    shares = np.exp(values - values.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    weights = routing[1].astype(np.float64) if len(routing) > 1 else shares
    chosen = np.argsort(-values, axis=1, kind="stable")[:, :k]
    found = np.zeros_like(weights)
    np.put_along_axis(found, chosen, np.take_along_axis(weights, chosen, axis=1), axis=1)
    return found / found.sum(axis=1, keepdims=True) if normalised else found


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
