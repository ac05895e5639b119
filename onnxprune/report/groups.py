"""Results of an analysis as data: groups of channels, their slices, and reasons for pins."""

from __future__ import annotations

import math
from typing import Any

from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Grade, Group
from onnxprune.report.page.layers import page_layers


def inspection(coupling: Coupling) -> dict[str, Any]:
    """Every group of a graph, in execution order.

    Returns:
        ``groups``: name, channels, grade, pinned (reasons), nodes, members; ``channels``: units by grade; ``layers``:
        name, operator, shape of the largest weight, params, macs, groups that slice it, pinned (reasons of those that
        stay).
    """
    groups = [
        {
            "name": g.name,
            "channels": g.units,
            "grade": str(g.grade),
            "pinned": list(g.reasons),
            "nodes": g.nodes,
            "members": members(g),
        }
        for g in coupling.groups
    ]
    totals = dict.fromkeys(("exact", "mixing", "pinned"), 0)
    for group in coupling.groups:
        totals[str(group.grade)] += group.units
    return {"mixing": coupling.mixing, "channels": totals, "groups": groups, "layers": layers(coupling)}


def layers(coupling: Coupling) -> list[dict[str, Any]]:
    """Every node that reads a weight with two axes or more, in execution order."""
    found = []
    for layer in page_layers(coupling, {}):
        groups = [coupling.groups[i] for i in layer.groups]
        pinned = dict.fromkeys(reason for g in groups if g.grade == Grade.PINNED for reason in g.reasons)
        found.append(
            {
                "name": layer.name,
                "operator": layer.operator,
                "shape": layer.before,
                "params": layer.params,
                "macs": layer.macs,
                "groups": [g.name for g in groups],
                "pinned": list(pinned),
            }
        )
    return found


def members(group: Group) -> list[dict[str, Any]]:
    """Slices of a group: constant, axis, shape, and number of indices of the axis per unit."""
    return [
        {
            "name": s.value.key,
            "axis": s.axis,
            "shape": [int(d) for d in s.value.shape or [] if isinstance(d, int)],
            "indices_per_channel": int(s.indices.shape[1]),
        }
        for s in group.slices
    ]


def elements(entry: dict[str, Any]) -> int:
    """Elements of constants that a group's units own together."""
    return sum(
        math.prod(m["shape"]) // max(1, m["shape"][m["axis"]]) * m["indices_per_channel"] * entry["channels"]
        for m in entry["members"]
    )
