"""Expressions for ``keep`` that name single groups: what a recipe needs that gives each group a share of its own.

An expression matches a group by any name that belongs to it, so the name of one group (which may be that of a node) can
match another one as well. Of several that match, the last one holds: it depends on the order which group each means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxprune.common.text import exactly
from onnxprune.coupling.groups import Group
from onnxprune.pipeline.analysis import names_of


@dataclass(frozen=True)
class GroupPattern:
    """An expression for one group.

    Attributes:
        group: Position of the group.
        pattern: Matches the group, and of the others only such as have their own expression further on.
        others: Positions of these.
    """

    group: int
    pattern: str
    others: list[int]


def group_patterns(groups: Sequence[Group]) -> list[GroupPattern]:
    """An expression for each group, in an order in which the last one that matches a group is its own.

    A group that no order gives an expression of its own has none, and no expression matches it.
    """
    names = [{name.removesuffix("\n") for name in names_of(group)} for group in groups]  # as $ matches them
    owners: dict[str, set[int]] = {}
    for i, found in enumerate(names):
        for name in found:
            owners.setdefault(name, set()).add(i)
    left, placed = set(range(len(groups))), list[GroupPattern]()
    while left:
        own = {i: [name for name in names[i] if owners[name] & left == {i}] for i in sorted(left)}
        own = {i: fitting for i, fitting in own.items() if fitting}
        if not own:
            break
        for i, fitting in reversed(own.items()):
            name = min(fitting, key=lambda name: (name != groups[i].name, len(owners[name]), name))
            placed.append(GroupPattern(i, exactly(name), sorted(owners[name] - {i})))
        left -= set(own)
    return placed[::-1]
