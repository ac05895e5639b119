"""The graph of a model with its groups, as data to draw: nodes in execution order, and what they pass on."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.group_names import label
from onnxprune.coupling.groups import Grade, Group, group_of_channels
from onnxprune.graph.graph import Node, Scope, Value

GOLDEN = 0.618033988749895
"""Hues that follow each other by this share of the circle stay apart, however many there are."""


@dataclass(frozen=True)
class DrawnGroup:
    """A group in the picture.

    Attributes:
        name: Its name.
        units: How many channels it has.
        grade: ``exact``, ``mixing`` or ``pinned``.
        reasons: Why it is not exact.
        colour: Its colour, as ``#rrggbb``; None for a pinned one.
    """

    name: str
    units: int
    grade: str
    reasons: list[str]
    colour: str | None


@dataclass(frozen=True)
class DrawnNode:
    """A node.

    Attributes:
        name: Its name.
        operator: Its operator.
        shape: Shape of the largest constant that it reads and groups slice; empty where there is none.
        groups: Positions of the groups that slice its constants.
    """

    name: str
    operator: str
    shape: list[int]
    groups: list[int]


@dataclass(frozen=True)
class DrawnValue:
    """What nodes pass on.

    Attributes:
        name: Its name.
        source: Position of the node that makes it; -1 for a graph input.
        readers: Positions of the nodes that read it; the number of nodes stands for the output of the graph.
        groups: Positions of the groups that its axes carry and that may be pruned.
    """

    name: str
    source: int
    readers: list[int]
    groups: list[int]


@dataclass(frozen=True)
class Picture:
    """What is drawn of a model.

    Attributes:
        title: Its name.
        nodes: The nodes of the main graph, in execution order.
        values: What they pass on.
        groups: The groups.
    """

    title: str
    nodes: list[DrawnNode]
    values: list[DrawnValue]
    groups: list[DrawnGroup]


NO_ACTIVATION = ("Shape", "Size")
"""Operators that pass on no values of what they read."""


def picture(title: str, coupling: Coupling) -> Picture:
    """The picture of an analysed model: its main graph, without what computes shapes and constants."""
    main = coupling.graph.main
    activations = _activations(main)
    drawn = [node for node in main.nodes if any(v is not None and v.index in activations for v in node.outputs)]
    position = {inner: i for i, node in enumerate(drawn) for inner in _with_bodies(node)}
    slicing: dict[int, list[int]] = {}
    for i, group in enumerate(coupling.groups):
        for value in {s.value.index: s.value for s in group.slices}.values():
            slicing.setdefault(value.index, []).append(i)
    group_of = _group_of_elements(coupling)
    ends = {value.index for value in main.outputs if value is not None}
    values = [_drawn_value(value, position, ends, coupling, group_of) for value in activations.values()]
    return Picture(
        title,
        [_drawn_node(node, slicing) for node in drawn],
        [value for value in values if value.readers],
        _drawn_groups(coupling.groups),
    )


def _activations(main: Scope) -> dict[int, Value]:
    """The values of the main graph that depend on its inputs, and not on their shapes alone; by their index."""
    found = {value.index: value for value in main.inputs if value.tensor is None}
    for node in main.nodes:
        read = any(value is not None and value.index in found for value in node.inputs)
        if read and node.op_type not in NO_ACTIVATION:
            found |= {value.index: value for value in node.outputs if value is not None}
    return found


def _with_bodies(node: Node) -> Iterator[int]:
    """Index of a node and of all nodes in its bodies."""
    yield node.index
    for body in node.bodies.values():
        for inner in body.nodes:
            yield from _with_bodies(inner)


def _group_of_elements(coupling: Coupling) -> np.ndarray:
    """Position of the group that owns each element of an axis class, where it may be pruned; else -1."""
    pinned = [i for i, group in enumerate(coupling.groups) if group.grade == Grade.PINNED]
    found = group_of_channels(coupling, coupling.groups)[coupling.channel]
    return np.where(np.isin(found, pinned), -1, found)


def _drawn_value(
    value: Value, position: dict[int, int], ends: set[int], coupling: Coupling, group_of: np.ndarray
) -> DrawnValue:
    owners = [group_of[coupling.classes.span(axis.id)] for axis in value.axes()] if value.shape is not None else []
    carried = sorted({int(g) for found in owners for g in np.unique(found)} - {-1})
    readers = sorted({position[node.index] for node, _ in value.consumers if node.index in position})
    source = -1 if value.producer is None else position.get(value.producer.index, -1)
    return DrawnValue(value.name, source, [*readers, *([len(position)] if value.index in ends else [])], carried)


def _drawn_node(node: Node, slicing: dict[int, list[int]]) -> DrawnNode:
    constants = [value for value in node.inputs if value is not None and value.index in slicing]
    shapes = [[n for n in value.shape or [] if isinstance(n, int)] for value in constants]
    largest = max(shapes, key=lambda shape: int(np.prod(shape)), default=[])
    groups = sorted({g for value in constants for g in slicing[value.index]})
    return DrawnNode(label(node), node.op_type, largest, groups)


def _drawn_groups(groups: list[Group]) -> list[DrawnGroup]:
    found, hue = [], 0.0
    for group in groups:
        colour = None
        if group.grade != Grade.PINNED:
            colour, hue = _hex(hue), hue + GOLDEN
        found.append(DrawnGroup(group.name, group.units, str(group.grade), list(group.reasons), colour))
    return found


def _hex(hue: float) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb((0.58 + hue) % 1, 0.45, 0.62))
