"""Writes the graph of a model in the language of Graphviz: https://graphviz.org/doc/info/lang.html."""

from __future__ import annotations

from collections.abc import Iterator

from onnxprune.common.text import printable, short
from onnxprune.report.graph_picture import DrawnNode, DrawnValue, Picture

NAME, GROUP = 60, 40
"""Characters of names."""
PLAIN = "#9aa4b0"
"""Colour of edges that carry no group."""


def dot(drawn: Picture) -> str:
    """The picture as a directed graph: nodes tell their groups, edges have the colour of the group that they carry."""
    head = [
        f"digraph {quoted(drawn.title)} {{",
        'node [shape=box, style="rounded,filled", fillcolor="#eef1f4", color="#c3cad2", fontname="sans-serif"];',
        "edge [penwidth=2];",
    ]
    nodes = [f"n{i} [label={quoted(_label(node, drawn))}];" for i, node in enumerate(drawn.nodes)]
    edges = [line for i, value in enumerate(drawn.values) for line in _edges(i, value, drawn)]
    return "\n".join([*head, *nodes, *edges, "}", ""])


def _label(node: DrawnNode, drawn: Picture) -> str:
    shape = " " + "x".join(map(str, node.shape)) if node.shape else ""
    groups = [drawn.groups[g] for g in node.groups]
    lines = [f"{short(g.name, GROUP)} ({g.units}{'' if g.colour else ', pinned'})" for g in groups]
    return "\n".join([f"{printable(node.operator)}{shape}", short(node.name, NAME), *lines])


def _edges(number: int, value: DrawnValue, drawn: Picture) -> Iterator[str]:
    colour = drawn.groups[value.groups[0]].colour if value.groups else PLAIN
    source = f"n{value.source}"
    if value.source < 0:
        source = f"v{number}"
        yield f"{source} [label={quoted(short(value.name, NAME))}, shape=plain, fillcolor=none];"
    for reader in value.readers:
        target = f"n{reader}"
        if reader == len(drawn.nodes):
            target = f"o{number}"
            yield f"{target} [label={quoted(short(value.name, NAME))}, shape=plain, fillcolor=none];"
        yield f'{source} -> {target} [color="{colour}"];'


def quoted(text: str) -> str:
    r"""A quoted string of the language: a backslash would begin an escape, and a line break is one.

    >>> print(quoted('a"b\\c'))
    "a\"b\\c"
    """
    lines = [printable(line).replace("\\", "\\\\").replace('"', '\\"') for line in text.split("\n")]
    return '"' + "\\n".join(lines) + '"'
