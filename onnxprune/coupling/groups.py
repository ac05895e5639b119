"""Groups: channels with the same shape of membership, under a name, with a grade and its reasons."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnxprune.coupling.components import AxisClasses, Index
from onnxprune.coupling.group_names import first_reader, label, name_of, nodes_of
from onnxprune.graph.graph import Graph, Value
from onnxprune.model.tensors import WEIGHT_TYPES
from onnxprune.ops.conv import KERNEL
from onnxprune.ops.ties import Ties

MAX_REASONS = 5


class Grade(enum.IntEnum):
    """What removing a channel means."""

    EXACT = 0
    MIXING = 1
    PINNED = 2

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, eq=False)
class Slices:
    """The indices that each unit of a group owns on one axis of one constant; shape (units, indices a unit)."""

    value: Value
    axis: int
    indices: Index


@dataclass(frozen=True, eq=False)
class Group:
    """Channels with the same memberships, of which each can be removed by itself.

    Attributes:
        name: ``CONSTANT:AXIS`` of the first weight that the group slices, or what stands for it (`group_names`).
        channels: Component of each unit, in the order of their indices on the first axis.
        grade: What removal means.
        reasons: Why it is not exact, at most `MAX_REASONS`.
        slices: Every constant that the group slices.
        least: How many units must stay: as many as a node finds among them.
    """

    name: str
    channels: Index
    grade: Grade
    reasons: list[str]
    slices: list[Slices]
    least: int = 1

    def __repr__(self) -> str:
        why = f": {self.reasons[0]}" if self.reasons else ""
        return f"Group({self.name!r}, {self.units} units, {self.grade}{why})"

    @property
    def nodes(self) -> list[str]:
        """Names of the nodes that read what the group slices, in the order in which they run."""
        return [label(node) for node in nodes_of([s.value for s in self.slices])]

    @property
    def units(self) -> int:
        """How many channels compete."""
        return len(self.channels)

    def most(self, min_channels: int = 1) -> int:
        """How many units may go where at least so many are to stay."""
        return self.units - min(max(self.least, min_channels), self.units)


class Channels(Protocol):
    """What groups are made of, see `coupling.Coupling`."""

    graph: Graph
    ties: Ties
    classes: AxisClasses
    channel: Index
    grade: NDArray[np.int8]


def build(coupling: Channels) -> list[Group]:
    """Every group that slices a weight, in the order in which the first layers of the groups run."""
    classes = coupling.classes
    weights = _weights_by_class(coupling)
    sizes = np.maximum(classes.length, 0)
    class_of_element = np.repeat(np.arange(len(sizes)), sizes)
    weighty = np.zeros(len(sizes), dtype=bool)
    weighty[[c for c, members in weights.items() if any(v.elem_type in WEIGHT_TYPES for v, _ in members)]] = True
    groups = [
        _group(coupling, matrix, class_of_element, weights)
        for matrix in [*_linked_units(coupling, class_of_element, weighty), *_single_units(coupling, weighty)]
        if len(matrix) > 1
    ]  # the last unit of a group is always kept
    groups.sort(key=_execution_order)
    return _with_reasons(coupling, groups)


def _execution_order(group: Group) -> tuple[int, int, int, int]:
    first = group.slices[0]
    return first_reader(first.value), first.value.index, first.axis, int(first.indices[0, 0])


def _single_units(coupling: Channels, weighty: NDArray[np.bool_]) -> list[Index]:
    """Elements of the units of each group whose channels are one index of one class; shape (units, 1)."""
    classes, found = coupling.classes, []
    for c in np.flatnonzero(weighty & (classes.offset >= classes.linked)):
        elements = np.arange(classes.offset[c], classes.offset[c] + max(classes.length[c], 0))
        grades = coupling.grade[elements]
        found += [elements[grades == grade][:, None] for grade in np.unique(grades)]
    return found


def _linked_units(coupling: Channels, class_of_element: Index, weighty: NDArray[np.bool_]) -> list[Index]:
    """Elements of the units of each group whose channels were tied index by index; shape (units, elements)."""
    count = coupling.classes.linked
    channel, class_of = coupling.channel[:count], class_of_element[:count]
    has_weight = np.zeros(count, dtype=bool)
    has_weight[channel[weighty[class_of]]] = True
    elements = np.flatnonzero(has_weight[channel])
    if not len(elements):
        return []
    elements = elements[np.argsort(channel[elements], kind="stable")]
    starts = np.flatnonzero(np.r_[True, np.diff(channel[elements]) != 0])
    counts = np.diff(np.r_[starts, len(elements)])
    return [
        elements[starts[members][:, None] + np.arange(counts[members[0]])]
        for members in _alike(class_of[elements], starts, coupling.grade[elements[starts]])
    ]


def _alike(class_of: Index, starts: Index, grades: NDArray[np.int8]) -> list[Index]:
    """Positions of the channels that have the same multiset of classes and the same grade.

    Multisets are compared by a commutative 64-bit hash of their members.
    """
    x = class_of.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)  # splitmix64
        signature = np.add.reduceat(x, starts)
    key = np.stack([signature, grades.astype(np.uint64)], axis=1)
    _, which = np.unique(key, axis=0, return_inverse=True)
    order = np.argsort(which.ravel(), kind="stable")
    return np.split(order, np.flatnonzero(np.diff(which.ravel()[order])) + 1)


def _weights_by_class(coupling: Channels) -> dict[int, list[tuple[Value, int]]]:
    found: dict[int, list[tuple[Value, int]]] = {}
    for value in coupling.graph.constants():
        for axis in value.axes() if value.consumers else []:  # a constant without readers has no channels
            found.setdefault(int(coupling.classes.of[axis.id]), []).append((value, axis.position))
    return found


def _group(
    coupling: Channels, matrix: Index, class_of_element: Index, weights: dict[int, list[tuple[Value, int]]]
) -> Group:
    classes = coupling.classes
    column_class = class_of_element[matrix[0]]
    slices, seen = [], set()
    for c in np.unique(column_class):
        for value, axis in weights.get(int(c), []):
            if (value.key, axis) in seen:
                continue  # readers of one vector
            seen.add((value.key, axis))
            slices.append(Slices(value, axis, matrix[:, column_class == c] - classes.offset[c]))
    slices.sort(key=lambda s: (first_reader(s.value), len(s.value.shape or []) < 2, s.value.index, s.axis))
    first = slices[0]
    order = np.argsort(first.indices[:, 0], kind="stable")
    slices = [Slices(s.value, s.axis, s.indices[order]) for s in slices]
    channels = coupling.channel[matrix[:, 0]][order]
    name = name_of([(s.value, s.axis) for s in slices])
    found = [s.count for s in coupling.ties.searches if int(classes.of[s.axis.id]) in column_class]
    return Group(name, channels, Grade(int(coupling.grade[matrix[0, 0]])), [], slices, max(found, default=1))


def group_of_channels(coupling: Channels, groups: Sequence[Group]) -> Index:
    """Position of the group of each channel, -1 where it is in none; shape (channel ids,)."""
    found = np.full(len(coupling.channel), -1, dtype=np.int64)
    for i, group in enumerate(groups):
        found[group.channels] = i
    return found


def _with_reasons(coupling: Channels, groups: list[Group]) -> list[Group]:
    """The groups with the reasons why they are not exact, under names of their own."""
    group_of = group_of_channels(coupling, groups)
    reasons: list[dict[str, None]] = [{} for _ in groups]
    seen: set[tuple[int, str]] = set()
    ties, classes = coupling.ties, coupling.classes
    for axis, indices, reason in [*ties.pins, *ties.mixes]:
        span = classes.span(axis.id)
        if span.start == span.stop or (indices is None and (int(classes.of[axis.id]), reason) in seen):
            continue
        seen.add((int(classes.of[axis.id]), reason))
        elements = np.arange(span.start, span.stop) if indices is None else span.start + indices
        for i in np.unique(group_of[coupling.channel[elements]]):
            if i >= 0 and groups[i].grade != Grade.EXACT and len(reasons[i]) < MAX_REASONS:
                reasons[i][reason] = None
    pairs = zip(groups, reasons, strict=True)
    return _distinct([replace(group, reasons=list(why)) for group, why in pairs if list(why) != [KERNEL]])


def _distinct(groups: list[Group]) -> list[Group]:
    """The groups under names of their own: of equal names, the first group that is open to pruning keeps its own."""
    count: dict[str, int] = {}
    names: dict[int, str] = {}
    for i in sorted(range(len(groups)), key=lambda i: groups[i].grade):
        name = groups[i].name
        count[name] = count.get(name, 0) + 1
        names[i] = name if count[name] == 1 else f"{name}#{count[name]}"
    return [replace(group, name=names[i]) for i, group in enumerate(groups)]
