"""The layers of a model in execution order, with what a plan leaves of them."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from types import MappingProxyType

from onnxprune.cost.measure import macs_by_node
from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.group_names import label
from onnxprune.coupling.groups import Group
from onnxprune.graph.graph import Node, Scope, Value
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


NodeTimes = Mapping[str, tuple[float, float]]
"""First output of a node -> milliseconds before and after."""


def page_layers(coupling: Coupling, removed: Removed, times: NodeTimes = MappingProxyType({})) -> list[PageLayer]:
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
    spent = _times_of_layers(coupling.graph.main, found, times)
    return [_layer(*found[index], slicing, removed, counted, spent.get(index)) for index in sorted(found)]


def _times_of_layers(main: Scope, layers: Container[int], times: NodeTimes) -> dict[int, tuple[float, float]]:
    """Index of each layer -> its time with that of the nodes behind it, with which engines fuse it."""
    layer_of: dict[str, int] = {}
    found: dict[int, tuple[float, float]] = {}
    for node in main.nodes:
        before = [layer_of[value.name] for value in node.inputs if value is not None and value.name in layer_of]
        index = node.index if node.index in layers else max(before, default=None)
        if index is None:
            continue
        layer_of |= dict.fromkeys((name for name in node.proto.output if name), index)
        more = times.get(_first_output(node))
        if more is not None:
            known = found.get(index, (0.0, 0.0))
            found[index] = known[0] + more[0], known[1] + more[1]
    return found


def _first_output(node: Node) -> str:
    return next(filter(None, node.proto.output), "")


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
    spent: tuple[float, float] | None,
) -> PageLayer:
    largest = max(weights, key=lambda value: math.prod(_shape(value)))
    whole = sum(math.prod(_shape(value)) for value in weights)
    left = sum(math.prod(_left(value, removed)) for value in weights)
    groups = sorted({g for value in weights for g in slicing.get(value.index, ())})
    shapes = _shape(largest), _left(largest, removed)
    macs = counted.get(_first_output(node))
    return PageLayer(
        label(node),
        node.op_type,
        *shapes,
        groups,
        whole,
        left / max(whole, 1),
        None if macs is None else round(macs),
        None if spent is None else rounded(spent),
    )


def rounded(times: Iterable[float]) -> list[float]:
    """Times with four digits."""
    return [float(f"{time:.4g}") for time in times]


def _left(value: Value, removed: Removed) -> list[int]:
    """The shape of what stays of a constant."""
    lost = removed.get(value.key, {})
    return [n - len(lost.get(str(axis), ())) for axis, n in enumerate(_shape(value))]
