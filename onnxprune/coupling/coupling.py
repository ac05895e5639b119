"""Ties -> channels -> groups, with grades and reasons.

The connected components of all ties are the channels. Channels with the same shape of membership (as many indices of
the same axes) form a group: they compete with each other when something has to go.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onnxprune.coupling import constant_cuts, groups, parts
from onnxprune.coupling.choices import decide
from onnxprune.coupling.components import AxisClasses, Index, components, edges
from onnxprune.coupling.constant_cuts import ConstantCut
from onnxprune.coupling.groups import Grade, Group
from onnxprune.coupling.parts import Branch
from onnxprune.coupling.refills import grade_by_zeros, padded_constants, unmet
from onnxprune.coupling.zeros import zero_axes
from onnxprune.graph.contents import Data
from onnxprune.graph.counted import counted_along
from onnxprune.graph.graph import Axis, Graph, Node, Value
from onnxprune.graph.lengths import product, to_dim
from onnxprune.graph.operators import operator_of
from onnxprune.graph.shape_inference import infer
from onnxprune.ops import registry
from onnxprune.ops.op import Op
from onnxprune.ops.ties import Link, Ties

logger = logging.getLogger(__name__)

MAX_ROUNDS = 4
"""How often the rules are applied, as ties may reveal lengths that shape inference did not know."""


@dataclass(eq=False)
class Coupling:
    """Channels and groups of one graph.

    Attributes:
        graph: The analysed graph.
        ties: What the rules said.
        classes: Axes united as a whole, and the numbering of elements.
        channel: Channel of every element.
        grade: Grade of every element.
        mixing: Whether channels of grade *mixing* were open to pruning in the decisions.
        attention: What was taken where whole heads and dimensions within heads were both possible.
        shrinking: Graph inputs and outputs that may lose slices.
        constant_cuts: Values computed of constants alone that may lose indices on the side of their readers.
        branches: What goes with single indices.
    """

    graph: Graph
    ties: Ties
    classes: AxisClasses
    channel: Index
    grade: NDArray[np.int8]
    mixing: bool
    attention: str
    shrinking: frozenset[str]
    constant_cuts: Sequence[ConstantCut]
    branches: Sequence[Branch]

    @property
    def data(self) -> dict[Value, Data]:
        """Contents of small tensors."""
        return self.ties.data

    def channels_of(self, axis: Axis) -> Index:
        """Channel of every index of an axis; empty where the axis is free."""
        return self.channel[self.classes.span(axis.id)]

    @property
    def shrinking_values(self) -> dict[str, Value]:
        """The graph inputs and outputs that may lose slices, by name."""
        ends = [*self.graph.main.inputs, *self.graph.main.outputs]
        return {v.name: v for v in ends if v is not None and v.name in self.shrinking}

    @cached_property
    def padded_constants(self) -> dict[Value, frozenset[int]]:
        """Constants that are stored with their zeros, see `refills.padded_constants`."""
        return padded_constants(self.graph, self.classes, self.channel, self.ties.refills)

    @cached_property
    def groups(self) -> list[Group]:
        """Every group that slices a weight, in execution order."""
        return groups.build(self)


def analyze(
    graph: Graph,
    *,
    mixing: bool = False,
    attention: str = "heads",
    shrinking: Collection[str] = (),
    renumbered: Collection[str] = (),
) -> Coupling:
    """Applies every rule, decides the choices and joins what is tied.

    Args:
        graph: The graph to analyse; its shapes are filled in.
        mixing: Whether channels of grade *mixing* will be pruned too; choices then count them as free.
        attention: ``heads`` to take whole heads where they are open, ``dims`` to take dimensions within heads.
        shrinking: Graph inputs and outputs that may lose slices. What such an input loses counts as zero: it is what
            the pruned model gave out before, or nothing.
        renumbered: Values of the main graph that hold ids, which the caller renumbers: the rows that they look up in
            a table may go.
    """
    ids = frozenset(renumbered)

    def couple(parted: Sequence[ConstantCut] = ()) -> Coupling:
        return _couple(graph, data, parted, ids, mixing=mixing, attention=attention, shrinking=shrinking)

    data = infer(graph)
    whole, cuts = couple(), frozenset[Axis]()
    fills = constant_cuts.part_fills(whole, _weighty(whole))
    if fills:
        apart = couple(fills)
        if _exact_units(apart) > _exact_units(whole):
            whole = apart
        else:
            constant_cuts.join(graph, fills)
            fills = []

    def with_more(asked: frozenset[Axis]) -> frozenset[Axis]:
        tried = constant_cuts.part(graph, cuts | asked)
        helpful = constant_cuts.helpful(tried, whole, couple([*fills, *tried]))
        constant_cuts.join(graph, tried)
        return helpful if helpful >= cuts else cuts

    for asked in constant_cuts.tries(whole):
        cuts = with_more(asked)
    parted = constant_cuts.part(graph, cuts)
    found = couple([*fills, *parted]) if cuts else whole
    if asked := constant_cuts.quotients(found):
        constant_cuts.join(graph, parted)
        cuts = with_more(asked)
        found = couple([*fills, *constant_cuts.part(graph, cuts)]) if cuts else whole
    return found


def _weighty(coupling: Coupling) -> NDArray[np.bool_]:
    """Whether a channel belongs to a group; shape (elements,)."""
    found = np.zeros(coupling.classes.elements, dtype=bool)
    for group in coupling.groups:
        found[group.channels] = True
    return found


def _exact_units(coupling: Coupling) -> int:
    """How many units may be removed exactly."""
    return sum(g.units for g in coupling.groups if g.grade == Grade.EXACT)


def _couple(
    graph: Graph,
    data: dict[Value, Data],
    parted: Sequence[ConstantCut],
    renumbered: frozenset[str],
    *,
    mixing: bool,
    attention: str,
    shrinking: Collection[str],
) -> Coupling:
    """The analysis with the values in `parted` cut."""
    for _ in range(MAX_ROUNDS):
        ties = Ties(graph, data, graph.number_axes(), renumbered, counted_along(graph))
        for node in graph.nodes:
            _apply_rule(node, ties)
        constant_cuts.tie(parted, ties)
        classes = AxisClasses(graph, ties.whole, ties.linked_axes(), ties.axis_count)
        if not _learn(graph, classes):
            break
    _pin_interface(graph, ties, shrinking)
    branches = parts.open_branches(ties, classes)
    parts.pin_returned(ties)
    links = []
    for link in ties.links:
        if classes.fits(link):
            links.append(link)
        else:
            ties.pins.extend((axis, None, f"axes of different lengths are tied to {axis}") for axis, _ in link)
    barred = np.zeros(classes.elements, dtype=bool)
    _mark(barred, classes, [p[:2] for p in ties.pins], True)
    _mark(barred, classes, [(axis, None) for axis in _conflicting(graph, classes)], True)
    if not mixing:
        _mark(barred, classes, [m[:2] for m in ties.mixes], True)
    links, zero = _decided(ties, classes, links, barred, shrinking, mixing=mixing, heads=attention == "heads")
    _pin_decided(ties)
    branches = parts.zero_branches(ties, branches, zero)
    parts.forget_refills(ties, classes)
    grade_by_zeros(ties, classes, zero)
    element_grade = np.zeros(classes.elements, dtype=np.int8)
    _mark(element_grade, classes, [m[:2] for m in ties.mixes], Grade.MIXING)
    for axis in _conflicting(graph, classes):
        ties.pins.append((axis, None, f"axes of different lengths are tied to {axis}"))
    _mark(element_grade, classes, [p[:2] for p in ties.pins], Grade.PINNED)
    channel = np.arange(classes.elements, dtype=np.int64)
    channel[: classes.linked] = components(classes.linked, *edges(classes, links))
    worst = np.zeros(classes.elements, dtype=np.int8)
    np.maximum.at(worst, channel, element_grade)
    return Coupling(
        graph, ties, classes, channel, worst[channel], mixing, attention, frozenset(shrinking), parted, branches
    )


def _decided(
    ties: Ties,
    classes: AxisClasses,
    links: list[Link],
    barred: NDArray[np.bool_],
    shrinking: Collection[str],
    *,
    mixing: bool,
    heads: bool,
) -> tuple[list[Link], NDArray[np.bool_]]:
    """Takes every choice; again where an axis that was to be refilled with zeros turns out not to be zero.

    Returns:
        The links with those that were taken, and which axes are zero once masked.
    """
    mixed: set[Axis] = set()
    while True:
        held, taken = barred.copy(), list(links)
        _mark(held, classes, [(axis, None) for axis in mixed], True)
        decide(ties.choices, classes, taken, held, ties.batch_axes, prefer_heads=heads)
        zero = zero_axes(ties, shrinking)
        found = unmet(ties, classes, zero)
        if mixing or not ties.choices or found <= mixed:
            return taken, zero
        mixed |= found


def _learn(graph: Graph, classes: AxisClasses) -> bool:
    """Gives axes of unknown length, or digits, those of the axes they are tied to; whether there were any."""
    news = False
    for value in graph.values:
        for axis in value.axes():
            class_ = int(classes.of[axis.id])
            length = int(classes.length[class_])
            if axis.length is not None or length <= 1 or value.shape is None:
                continue
            factors = classes.factors.get(class_)
            if factors is None:
                value.shape[axis.position] = length
                news = True
            elif axis.position not in value.factors and to_dim(product(factors)) == value.shape[axis.position]:
                value.factors[axis.position] = factors
                news = True
    return news


def _apply_rule(node: Node, ties: Ties) -> None:
    """Applies the rule of a node; pins every axis of the node if there is none or it fails."""
    stated = ties.empty()
    op = Op(node, stated)
    entry = registry.find(node.domain, node.op_type, node.opset)
    if entry is None:
        name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        op.pin_all(f"no rule for {name}")
    elif not entry.any_rank and any(v.rank is None for v in op.inputs + op.outputs):
        op.pin_all(f"rank unknown at {node.label}")
    else:
        try:
            entry.function(op)
            op.pin_unmentioned()
        except Exception as e:  # whatever a rule does wrong: this node is left whole, the rest is pruned
            level = logging.DEBUG if isinstance(e, registry.REFUSALS) else logging.WARNING
            logger.log(level, "the rule of %s failed: it is pinned", node.label, exc_info=True)
            stated = ties.empty()
            Op(node, stated).pin_all(f"{node.label} could not be analysed: {e}")
    ties.add(stated)


def _pin_interface(graph: Graph, ties: Ties, shrinking: Collection[str]) -> None:
    for value in graph.main.inputs:
        for axis in value.axes() if value.name not in shrinking else []:
            ties.pins.append((axis, None, f"graph input {value.name!r}"))
    for out in graph.main.outputs:
        for axis in out.axes() if out is not None and out.name not in shrinking else []:
            ties.pins.append((axis, None, f"graph output {axis.value.name!r}"))
    for scope in graph.scopes():
        for sparse in scope.proto.sparse_initializer:
            for axis in scope.names[sparse.values.name].axes():
                ties.pins.append((axis, None, "held as a sparse tensor"))
    _pin_returned_shapes(graph, ties)


def _pin_returned_shapes(graph: Graph, ties: Ties) -> None:
    """An axis whose length the graph returns as a number must keep that length."""
    stack = [v for scope in graph.scopes() for v in scope.outputs if v is not None and v in ties.data]
    seen: set[Value] = set()
    while stack:
        value = stack.pop()
        if value in seen or value.producer is None:
            continue
        seen.add(value)
        for source in value.producer.inputs:
            if source is None:
                continue
            if operator_of(value.producer).reads_lengths:
                for axis in source.axes():
                    ties.pins.append((axis, None, "the graph returns its length"))
            elif source in ties.data:
                stack.append(source)


def _conflicting(graph: Graph, classes: AxisClasses) -> list[Axis]:
    """One axis of each class whose members have different lengths."""
    if not len(classes.conflicts):
        return []
    bad, found = set(classes.conflicts.tolist()), []
    for value in graph.values:
        for axis in value.axes():
            if classes.of[axis.id] in bad:
                bad.discard(classes.of[axis.id])
                found.append(axis)
    return found


def _mark(
    target: NDArray[np.generic], classes: AxisClasses, where: Sequence[tuple[Axis, Index | None]], mark: int
) -> None:
    for axis, indices in where:
        span = classes.span(axis.id)
        if indices is None:
            target[span] = mark
        elif span.stop > span.start:
            target[span.start + indices] = mark


def _pin_decided(ties: Ties) -> None:
    for choice in ties.choices:
        if choice.taken is not None:
            for axis in choice.taken.pins:
                ties.pins.append((axis, None, f"{choice.node.label} merges or splits it"))
            for axis, indices in choice.taken.kept:
                ties.pins.append((axis, indices, f"{choice.node.label} carries {choice.taken.name}"))
            continue
        for alternative in choice.alternatives:
            axes = [axis for link in alternative.links for axis, _ in link] + alternative.pins
            for axis in axes:
                ties.pins.append((axis, None, f"{choice.node.label} leaves no way to carry its channels"))
