"""Which function speaks for which operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxprune.ops.op import Op

Rule = Callable[[Op], None]


@dataclass(frozen=True)
class Entry:
    """A registered rule.

    Attributes:
        function: The rule.
        any_rank: Whether it copes with values of unknown rank; others are pinned without being asked.
        note: One line for the table of supported operators.
    """

    function: Rule
    any_rank: bool
    note: str


_rules: dict[tuple[str, str], list[tuple[int, Entry]]] = {}


def rule(
    *op_types: str, domain: str = "", since: int = 1, any_rank: bool = False, note: str | None = None
) -> Callable[[Rule], Rule]:
    """Registers a function as the rule of some operators.

    A rule registered later for the same operator and version takes the place of the earlier one, so a caller may
    replace ours.

    Args:
        op_types: Operator names.
        domain: Operator domain, "" for the standard one.
        since: First opset version of the domain that the rule speaks for.
        any_rank: Whether the rule copes with values of unknown rank.
        note: One line for the table of supported operators; the docstring's first line by default.
    """

    def register(function: Rule) -> Rule:
        line = note or (function.__doc__ or "").strip().split("\n")[0]
        for op_type in op_types:
            versions = _rules.setdefault((domain, op_type), [])
            versions[:] = [v for v in versions if v[0] != since]
            versions.append((since, Entry(function, any_rank, line)))
            versions.sort(key=lambda v: v[0])
        return function

    return register


def find(domain: str, op_type: str, version: int) -> Entry | None:
    """The rule that speaks for an operator at an opset version, None where there is none."""
    found = None
    for since, entry in _rules.get((domain, op_type), []):
        if since <= version:
            found = entry
    return found


def table() -> list[tuple[str, str, int, str]]:
    """Every registered operator: domain, type, first version, note; sorted."""
    return sorted(
        (domain, op_type, since, entry.note)
        for (domain, op_type), versions in _rules.items()
        for since, entry in versions
    )
