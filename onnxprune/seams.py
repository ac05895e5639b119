"""Seams: where what is computed of constants alone meets the rest of the graph.

A weight that is standardised in the graph, a norm that is divided out, a table that is addressed by position: what
computes them may average over an axis or pin it, and so hold channels that the rest of the model would let go. But
what was computed can lose its indices afterwards, exactly, by a Gather of those that stay, which runtimes fold with
the rest when they load the model. So where it helps, the value is parted in two: as it is made, and as it is read,
with axes that are not tied to those it is made with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.graph import Axis, Graph, Node, Value
from onnxprune.groups import WEIGHT_TYPES, Channels, Grade
from onnxprune.ties import Ties

_VARYING = frozenset({"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli",
                      "Multinomial", "Dropout"})
"""What these make may differ from run to run."""


@dataclass(eq=False)
class Seam:
    """A value that is computed of constants alone, parted in two.

    Attributes:
        made: As it is made.
        read: As the nodes read it that read data too.
        cut: Positions of the axes that may lose indices on the reading side alone; the others are tied.
    """

    made: Value
    read: Value
    cut: frozenset[int]


def wanted(coupling: Channels) -> dict[Value, frozenset[int]]:
    """Values to part, with the axes that readers add up over and that the side of the constants mixes or pins.

    Over another axis than that of a sum, what stays uncut would have to be zero where channels are masked.
    """
    graph, ties = coupling.graph, coupling.ties
    fixed = _fixed(graph)
    seen = [v for node in fixed for v in node.outputs if v is not None and v not in ties.data
            and v.elem_type in WEIGHT_TYPES and _readers(v, fixed)]
    if not seen:
        return {}
    constant = {v for node in fixed for v in [*node.inputs, *node.outputs]}
    blamed = np.zeros(len(coupling.channel), dtype=bool)
    for axis, where, _ in [*ties.pins, *ties.mixes]:
        if axis.value in constant:
            channels = coupling.channel[coupling.classes.span(axis.id)]
            blamed[channels if where is None else channels[where]] = True
    summed = {i for _, sources, _ in ties.sums for i in sources}
    found = {}
    for value in seen:
        held = {axis.position for axis in value.axes() if axis.id in summed
                for span in [coupling.classes.span(axis.id)]
                if (blamed[coupling.channel[span]] & (coupling.grade[span] > Grade.EXACT)).any()}
        if held:
            found[value] = frozenset(held)
    return found


def part(graph: Graph, values: dict[Value, frozenset[int]]) -> list[Seam]:
    """Gives values a second one for the nodes that read data too, in place."""
    fixed, seams = _fixed(graph), []
    for made, cut in values.items():
        readers = _readers(made, fixed)
        read = Value(made.name, made.key, len(graph.values), made.scope, list(made.shape or []), made.elem_type,
                     None, made.producer, readers)
        graph.values.append(read)
        made.consumers = [c for c in made.consumers if c not in readers]
        _point(readers, read)
        seams.append(Seam(made, read, cut))
    return seams


def join(graph: Graph, seams: Iterable[Seam]) -> None:
    """Takes back what `part` did last."""
    for seam in reversed(list(seams)):
        assert graph.values[-1] is seam.read
        graph.values.pop()
        seam.made.consumers += seam.read.consumers
        _point(seam.read.consumers, seam.made)


def helpful(seams: Sequence[Seam], before: Channels, after: Channels) -> dict[Value, frozenset[int]]:
    """What to part of what was: the axes on which more is exact than before."""
    found = {}
    for seam in seams:
        gained = {p for p in seam.cut if _exact(after, seam.read.axis(p)) > _exact(before, seam.made.axis(p))}
        if gained:
            found[seam.made] = frozenset(gained)
    return found


def tie(seams: Iterable[Seam], ties: Ties) -> None:
    """Says what holds between the two sides: as much as for a node that hands the value on, but for what is cut."""
    for seam in seams:
        for made, read in zip(seam.made.axes(), seam.read.axes(), strict=True):
            if made.position in seam.cut:
                ties.ordered.append(read)
                ties.pins.append((made, None, f"{made} stays, and its readers take of it what is left to them"))
            else:
                ties.whole.append((made.id, read.id))
                ties.zeros.append((read.id, (made.id,), False))


def _fixed(graph: Graph) -> dict[Node, None]:
    """Nodes that read constants or what is made of them, and nothing else, in order."""
    found: dict[Node, None] = {}
    for node in graph.nodes:
        sources = [v for v in node.inputs if v is not None]
        if sources and not node.bodies and node.op_type not in _VARYING and all(
                v.tensor is not None or v.producer in found for v in sources):
            found[node] = None
    return found


def _readers(value: Value, fixed: dict[Node, None]) -> list[tuple[Node, int]]:
    return [(node, i) for node, i in value.consumers if node not in fixed]


def _point(readers: Iterable[tuple[Node, int]], value: Value) -> None:
    for node, i in readers:
        node.inputs[i] = value


def _exact(coupling: Channels, axis: Axis) -> int:
    return int((coupling.grade[coupling.classes.span(axis.id)] == Grade.EXACT).sum())
