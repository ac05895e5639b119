"""Cut points between constant subgraphs and the data path.

A subgraph that is computed of constants alone (a standardised weight, a norm that is divided out, a table of positions)
may average over an axis or pin it, and so hold channels that its readers could lose. Its result can lose indices
afterwards, exactly: a Gather of the kept ones, which runtimes fold when they load the model. Where that helps, the
value is split in two, as it is produced and as it is read, whose axes are not tied along the cut.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.coupling.groups import Channels, Grade
from onnxprune.graph.graph import Axis, Graph, Node, Value
from onnxprune.graph.operators import Copies, operator_of
from onnxprune.model.tensors import WEIGHT_TYPES
from onnxprune.ops.ties import Ties


@dataclass(eq=False)
class ConstantCut:
    """A value computed of constants alone, split in two.

    Attributes:
        made: The value as it is produced.
        read: The value as it is read by nodes that also read data.
        positions: Axes that may lose indices on the reading side alone; the others are tied.
        uniform: Whether all elements are equal, whatever they are computed of.
    """

    made: Value
    read: Value
    positions: frozenset[int]
    uniform: bool = False


def sources(value: Value) -> Iterator[Value]:
    """The constants that a value is computed of, each once."""
    todo, seen = [value], {value}
    while todo:
        one = todo.pop()
        if one.tensor is not None:
            yield one
        elif one.producer is not None:
            fresh = dict.fromkeys(v for v in one.producer.inputs if v is not None and v not in seen)
            seen |= fresh.keys()
            todo += reversed(fresh)


def tries(coupling: Channels) -> list[frozenset[Axis]]:
    """Candidate axes for a cut, on the producing side: sets that are tried one after the other.

    Where readers add up over an axis, it is enough that what they multiply it by is zero once masked: there the cuts
    are tried that free what the side of the constants mixes or pins. Where that side divides by what is zero once
    masked (the norm of a row, say), a cut keeps the masked model defined; along an axis that readers carry, what
    reads on then has to be zero.
    """
    seen = _seen(coupling)
    if not seen:
        return []
    constant = {v for node in coupling.graph.constant_nodes for v in [*node.inputs, *node.outputs]}
    blamed = np.zeros(len(coupling.channel), dtype=bool)
    for axis, where, _ in [*coupling.ties.pins, *coupling.ties.mixes]:
        if axis.value in constant:
            channels = coupling.channel[coupling.classes.span(axis.id)]
            blamed[channels if where is None else channels[where]] = True
    held = blamed[coupling.channel] & (coupling.grade > Grade.EXACT)
    undefined = _undefined(coupling)
    summed = {i for one in coupling.ties.sums for i in one.zero}
    within, carried = ([a for a in seen if (a.id in summed) == is_summed] for is_summed in (True, False))
    asked = [
        frozenset(a for a in axes if marks[coupling.classes.span(a.id)].any())
        for axes, marks in ((within, held), (carried, undefined), (within, undefined))
    ]
    return [axes for axes in asked if axes]


def quotients(coupling: Channels) -> frozenset[Axis]:
    """Axes to cut where the cuts of `tries` leave something undefined: what is read has to be zero there.

    They are those of quotients that are read with constants alone: what these are multiplied by may be zero.
    """
    graph, undefined = coupling.graph, _undefined(coupling) & (coupling.grade == Grade.EXACT)
    divisors = {axis.value for axis in coupling.ties.divisors} if undefined.any() else set[Value]()
    return frozenset(
        axis
        for node in graph.constant_nodes
        for v in (node.outputs if not divisors.isdisjoint(node.inputs) else [])
        if v is not None and v.elem_type in WEIGHT_TYPES and v.consumers and not _readers(graph, v)
        for axis in v.axes()
        if undefined[coupling.classes.span(axis.id)].any()
    )


def part(graph: Graph, cuts: Collection[Axis]) -> list[ConstantCut]:
    """Splits values along the cut axes, in place: nodes that also read data get a second one."""
    found = []
    for made in sorted({axis.value for axis in cuts}, key=lambda v: v.index):
        read = _split(graph, made, _readers(graph, made) or list(made.consumers))
        found.append(ConstantCut(made, read, frozenset(axis.position for axis in made.axes() if axis in cuts)))
    return found


def part_fills(coupling: Channels, weighty: NDArray[np.bool_]) -> list[ConstantCut]:
    """Splits zeros (or other equal numbers) that several nodes read, in place: each gets a value of its own.

    That two recurrent layers start from one state of zeros, say, does not tie their units.

    Args:
        coupling: The analysis.
        weighty: Boolean per channel id, True for the channels of groups; what has none of them is not split.
    """
    graph, found = coupling.graph, list[ConstantCut]()
    returned = graph.returned
    for readings in _readings_of_fills(coupling):
        if len({reader for _, reader in readings}) == 1:
            continue
        for made, reader in readings:
            positions = frozenset(axis.position for axis in made.axes() if (axis.length or 0) > 1)
            elements = [coupling.channel[coupling.classes.span(made.axis(p).id)] for p in positions]
            followed = any(out in coupling.ties.data for node, _ in made.consumers for out in node.outputs)
            if followed or id(made) in returned or not any(weighty[channels].any() for channels in elements):
                continue
            read = _split(graph, made, [c for c in made.consumers if c[0] is reader])
            found.append(ConstantCut(made, read, positions, uniform=True))
    return found


def _readings_of_fills(coupling: Channels) -> list[list[tuple[Value, Node]]]:
    """For each tensor of equal numbers, what it is read as (expanded, cut, ...) by nodes that make something else."""
    source: dict[Value, Value] = {}
    for node in coupling.graph.nodes:
        operator, made = operator_of(node), node.outputs[0] if node.outputs else None
        if made is None or made.elem_type not in WEIGHT_TYPES:
            continue
        if operator.fills:
            source[made] = made
        elif operator.copies in (Copies.ALL, Copies.SOME) and not operator.random and node.has(0):
            copied = node.input(0)
            entries = coupling.ties.data.get(copied) if copied.tensor is not None else None
            equal = entries is not None and entries.size > 0 and all(e == entries.flat[0] for e in entries.flat)
            for out in node.outputs if equal or copied in source else []:
                if out is not None:
                    source[out] = source.get(copied, made)
    readings: dict[Value, list[tuple[Value, Node]]] = {}
    for value, origin in source.items():
        readers = dict.fromkeys(node for node, _ in value.consumers if not any(out in source for out in node.outputs))
        readings.setdefault(origin, []).extend((value, reader) for reader in readers)
    return list(readings.values())


def _split(graph: Graph, made: Value, readers: list[tuple[Node, int]]) -> Value:
    """A second value that some readers read in place of the first one."""
    read = Value(
        made.name,
        made.key,
        len(graph.values),
        made.scope,
        list(made.shape or []),
        made.elem_type,
        None,
        made.producer,
        readers,
    )
    graph.values.append(read)
    made.consumers = [c for c in made.consumers if c not in readers]
    _point(readers, read)
    return read


def join(graph: Graph, found: Iterable[ConstantCut]) -> None:
    """Undoes the last `part`."""
    for cut in reversed(list(found)):
        assert graph.values[-1] is cut.read
        graph.values.pop()
        cut.made.consumers += cut.read.consumers
        _point(cut.read.consumers, cut.made)


def helpful(found: Iterable[ConstantCut], before: Channels, after: Channels) -> frozenset[Axis]:
    """The cuts with which more of an axis is exact, and defined once masked, than without."""
    old, new = _sound(before), _sound(after)
    return frozenset(
        cut.made.axis(p)
        for cut in found
        for p in cut.positions
        if new[after.classes.span(cut.read.axis(p).id)].sum() > old[before.classes.span(cut.made.axis(p).id)].sum()
    )


def tie(found: Iterable[ConstantCut], ties: Ties) -> None:
    """Ties the two sides as an Identity would, but for the cut axes."""
    for cut in found:
        for made, read in zip(cut.made.axes(), cut.read.axes(), strict=True):
            if made.position in cut.positions:
                ties.ordered.append(read)
                ties.pins.append((made, None, f"{made} is kept; its readers gather what is left"))
                if cut.uniform:
                    ties.zeros.append((read.id, (made.id,), False))
            else:
                ties.whole.append((made.id, read.id))
                ties.zeros.append((read.id, (made.id,), False))


def _sound(coupling: Channels) -> NDArray[np.bool_]:
    """Elements that are exact and at which the constant subgraph is defined once they are masked."""
    found: NDArray[np.bool_] = (coupling.grade == Grade.EXACT) & ~_undefined(coupling)
    return found


def _undefined(coupling: Channels) -> NDArray[np.bool_]:
    """Elements whose channel the constant subgraph divides by, being zero once masked.

    A stored tensor that is divided by as it is stands for itself, copied or not.
    """
    constant = set[Value | None]()
    for node in coupling.graph.constant_nodes:
        if operator_of(node).copies != Copies.ALL or node.inputs[0] in constant:
            constant.update(node.outputs)
    bad = np.zeros(len(coupling.channel), dtype=bool)
    for axis in coupling.ties.divisors:
        if axis.value in constant:
            bad[coupling.channel[coupling.classes.span(axis.id)]] = True
    found: NDArray[np.bool_] = bad[coupling.channel]
    return found


def _seen(coupling: Channels) -> list[Axis]:
    """Axes of values computed of constants alone that are read together with data."""
    graph = coupling.graph
    return [
        axis
        for node in graph.constant_nodes
        for v in node.outputs
        if v is not None and v not in coupling.ties.data and v.elem_type in WEIGHT_TYPES and _readers(graph, v)
        for axis in v.axes()
    ]


def _readers(graph: Graph, value: Value) -> list[tuple[Node, int]]:
    return [(node, i) for node, i in value.consumers if node not in graph.constant_nodes]


def _point(readers: Iterable[tuple[Node, int]], value: Value) -> None:
    for node, i in readers:
        node.inputs[i] = value
