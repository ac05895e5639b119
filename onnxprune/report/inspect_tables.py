"""Tables of `inspect` and `ops`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnxprune.common.text import count, first_of, plural, printable, short
from onnxprune.report.build import reasons
from onnxprune.report.groups import elements
from onnxprune.report.sensitivity import distinct
from onnxprune.report.tables import REASON, ROWS, WIDE, Part, table

NARROW, LONGEST = 40, 60
"""Characters of a group's name in a narrow terminal, and in others."""
NODES, NODE = 4, 30
"""Nodes of a group that are named, and characters of each."""
WHY = 60
"""Characters of the reason why channels of a layer stay."""


def inspected(data: Mapping[str, Any], width: int | None = None) -> list[Part]:
    """Tables of `inspect`: prunable groups first, then the reasons for the others.

    Args:
        data: The groups, see `groups.inspection`.
        width: Columns of the terminal: a narrow one shows how many nodes a group touches, others their names.
    """
    narrow = width is not None and width < WIDE
    order = {"exact": 0, "mixing": 1, "pinned": 2}
    groups = sorted(data["groups"], key=lambda g: order[g["grade"]])  # stable: in execution order within a grade
    free = [g for g in groups if g["grade"] != "pinned"]
    totals = ", ".join(f"{n} {grade}" for grade, n in data["channels"].items())
    parts: list[Part] = [f"{printable(data['model'])}: {plural(len(groups), 'group')}, channels: {totals}"]
    if free:
        rows = [
            [
                short(g["name"], NARROW if narrow else LONGEST),
                g["grade"],
                str(g["channels"]),
                count(elements(g)),
                str(len(g["nodes"])) if narrow else _nodes(g),
            ]
            for g in free[:ROWS]
        ]
        titles = ["group", "grade", ">channels", ">elements", ">nodes" if narrow else "nodes"]
        parts.append(table(titles, rows, len(free)))
    parts += _layers(data["layers"], narrow)
    for grade in ("mixing", "pinned"):
        why = reasons([(g["pinned"], g["channels"]) for g in groups if g["grade"] == grade])
        if why:
            rows = [[short(reason, REASON), str(n)] for reason, n in why[:ROWS]]
            parts.append(table([f"why {grade}", ">channels"], rows, len(why)))
    return parts if groups else [*parts, "No weight has an axis that could be pruned."]


def _layers(layers: Sequence[Mapping[str, Any]], narrow: bool) -> list[Part]:
    """The table of layers: a narrow one leaves out what can be seen in any viewer of models."""
    if not layers:
        return []
    shown = layers[:ROWS]
    names = distinct([one["name"] for one in shown], NODE if narrow else LONGEST)
    rows = []
    for name, one in zip(names, shown, strict=True):
        seen = [] if narrow else [printable(one["operator"]), "x".join(map(str, one["shape"]))]
        macs = "-" if one["macs"] is None else count(one["macs"])
        rows.append([name, *seen, count(one["params"]), macs, _why(one["pinned"])])
    extra = [] if narrow else ["operator", "weight"]
    titles = ["layer, in execution order", *extra, ">params", ">MACs", "pinned because"]
    return [table(titles, rows, len(layers))]


def _why(reasons: Sequence[str]) -> str:
    more = f" and {len(reasons) - 1} more" if len(reasons) > 1 else ""
    return short(reasons[0], WHY - len(more)) + more if reasons else "-"


def _nodes(group: Mapping[str, Any]) -> str:
    return first_of(group["nodes"], NODES, lambda name: short(name, NODE))


def operators(data: Sequence[Mapping[str, Any]]) -> list[Part]:
    """The table of operators that have a rule."""
    rows = [[o["operator"], o["domain"] or "ai.onnx", str(o["since"]), printable(o["note"])] for o in data]
    return [table(["operator", "domain", ">since", "how"], rows)]
