"""The layers of a model in execution order, with what a plan leaves of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from onnxprune.cost.measure import macs_by_node
from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.group_names import label
from onnxprune.coupling.groups import Group
from onnxprune.graph.graph import Node, Value
from onnxprune.model.model import Model
from onnxprune.model.tensors import WEIGHT_TYPES
from onnxprune.report.page.content import PageGroup, PageLayer

Removed = Mapping[str, Mapping[str, Sequence[int]]]
"""Constant -> axis -> removed indices, as a plan has them."""


def page_groups(coupling: Coupling, removed: Mapping[str, int], damage: Mapping[str, float | None]) -> list[PageGroup]:
    """The groups of a model.

    Args:
        coupling: The analysis of the original.
        removed: How many channels went, by the group's name.
        damage: What is known of the damage, by the group's name.
    """
    return [
        PageGroup(g.name, g.units, removed.get(g.name, 0), str(g.grade), list(g.reasons), damage.get(g.name))
        for g in coupling.groups
    ]


def page_layers(coupling: Coupling, removed: Removed) -> list[PageLayer]:
    """The nodes that read weights with two axes or more, in execution order."""
    counted = macs_by_node(Model(coupling.graph.proto))
    slicing: dict[int, list[int]] = {}
    for i, group in enumerate(coupling.groups):
        for key in _sliced(group):
            slicing.setdefault(key, []).append(i)
    found: dict[int, tuple[Node, list[Value]]] = {}
    for value in coupling.graph.constants():
        if value.elem_type in WEIGHT_TYPES and sum(n != 1 for n in _shape(value)) > 1:
            for node, _ in value.consumers:
                found.setdefault(node.index, (node, []))[1].append(value)
    return [_layer(*found[index], slicing, removed, counted) for index in sorted(found)]


def _sliced(group: Group) -> set[int]:
    return {s.value.index for s in group.slices}


def _shape(value: Value) -> list[int]:
    return [n for n in value.shape or [] if isinstance(n, int)]


def _layer(
    node: Node,
    weights: Sequence[Value],
    slicing: Mapping[int, Sequence[int]],
    removed: Removed,
    counted: Mapping[str, float],
) -> PageLayer:
    largest = max(weights, key=lambda value: math.prod(_shape(value)))
    whole = sum(math.prod(_shape(value)) for value in weights)
    left = sum(math.prod(_left(value, removed)) for value in weights)
    groups = sorted({g for value in weights for g in slicing.get(value.index, ())})
    shapes = _shape(largest), _left(largest, removed)
    macs = counted.get(next(filter(None, node.proto.output), ""))
    kept = left / max(whole, 1)
    return PageLayer(label(node), node.op_type, *shapes, groups, whole, kept, None if macs is None else round(macs))


def _left(value: Value, removed: Removed) -> list[int]:
    """The shape of what stays of a constant."""
    lost = removed.get(value.key, {})
    return [n - len(lost.get(str(axis), ())) for axis, n in enumerate(_shape(value))]
