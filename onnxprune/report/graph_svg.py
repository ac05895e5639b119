"""Draws the graph of a model as SVG: a row a node in execution order, and beside them lanes for what skips rows.

What a node passes to the next row alone is a short line; everything else runs in a lane from the row that makes it to
the last one that reads it. Lines have the colour of the group that they carry, so that what is tied can be followed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from xml.sax.saxutils import escape, quoteattr

from onnxprune.common.text import printable, short
from onnxprune.report.graph_picture import DrawnGroup, DrawnNode, DrawnValue, Picture

ROW, LANE, BOX, HEAD = 26, 12, 190, 74
"""Height of a row, distance of lanes, width of a box, and height of what is above the first row, in pixels."""
NAME, OPERATOR, GROUP = 60, 24, 34
"""Characters of names."""
CHARACTER = 6.3
"""Width of a character of the small font, in pixels."""
PLAIN, PINNED = "#9aa4b0", "#a7afb9"
"""Colours of lines that carry no group, and of pinned groups."""
STYLE = (
    "svg{font:12px system-ui,'Segoe UI','DejaVu Sans',sans-serif;background:#fff}text{fill:#1c2024}"
    ".quiet{fill:#5b6470;font-size:11px}.box{fill:#eef1f4;stroke:#c3cad2}.title{font-weight:600;font-size:14px}"
    "path{fill:none;stroke-width:2}"
    "@media(prefers-color-scheme:dark){svg{background:#15181c}text{fill:#e6e9ec}.quiet{fill:#9aa4b0}"
    ".box{fill:#242a31;stroke:#3c444d}}"
)


def svg(drawn: Picture) -> str:
    """The picture as an SVG file."""
    lanes = assigned_lanes(drawn)
    left = LANE * (max(lanes.values(), default=0) + 2)
    chips = max((len(_chip(drawn.groups[g])) for node in drawn.nodes for g in node.groups), default=0)
    most = max((len(node.groups) for node in drawn.nodes), default=0)
    names = max((min(len(node.name), NAME) for node in drawn.nodes), default=0)
    width = round(left + BOX + 24 + CHARACTER * (names + min(most, 2) * (chips + 6)) + 40)
    height = HEAD + ROW * (len(drawn.nodes) + 1) + 10
    body = [*_heading(drawn), *_lines(drawn, lanes, left), *_rows(drawn, left, left + BOX + 24 + CHARACTER * names)]
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    named = f'role="img" aria-label={quoteattr(printable(drawn.title))}'
    return "\n".join(
        [f'<svg xmlns="http://www.w3.org/2000/svg" {size} {named}>', f"<style>{STYLE}</style>", *body, "</svg>", ""]
    )


def assigned_lanes(drawn: Picture) -> dict[int, int]:
    """Position of each value that needs a lane -> its lane, from 0: no two values share a part of one."""
    ends: list[int] = []
    found: dict[int, int] = {}
    for i, value in sorted(enumerate(drawn.values), key=lambda pair: (pair[1].source, -max(pair[1].readers))):
        if _is_short(value):
            continue
        lane = next((k for k, end in enumerate(ends) if end <= value.source), len(ends))
        ends[lane:] = [max(value.readers), *ends[lane + 1 :]]
        found[i] = lane
    return found


def _is_short(value: DrawnValue) -> bool:
    return value.readers == [value.source + 1]


def _middle(row: int) -> float:
    return HEAD + ROW * row + ROW / 2


def _heading(drawn: Picture) -> Iterator[str]:
    free = sum(group.colour is not None for group in drawn.groups)
    about = f"{len(drawn.nodes)} nodes, {free} groups that may be pruned; lines have the colour of the group they carry"
    yield f'<text class="title" x="12" y="22">{_safe(drawn.title, 2 * NAME)}</text>'
    yield f'<text class="quiet" x="12" y="40">{about}</text>'


def _lines(drawn: Picture, lanes: dict[int, int], left: int) -> Iterator[str]:
    for i, value in enumerate(drawn.values):
        colour = drawn.groups[value.groups[0]].colour if value.groups else None
        path = _path(value, lanes.get(i), left)
        yield f'<path stroke="{colour or PLAIN}" d="{path}"><title>{_safe(value.name)}</title></path>'


def _path(value: DrawnValue, lane: int | None, left: int) -> str:
    start, last = _middle(value.source), _middle(max(value.readers))
    if lane is None:
        return f"M{left + BOX / 2:g} {start + ROW / 2 - 4:g}V{last - ROW / 2 + 4:g}"
    x = left - LANE * (lane + 1)
    branches = "".join(f"M{x} {_middle(row) - 3:g}H{left}" for row in value.readers)
    return f"M{left} {start + 3:g}H{x}V{last - 3:g}{branches}"


def _rows(drawn: Picture, left: int, chips: float) -> Iterator[str]:
    yield f'<text class="quiet" x="{left + 4}" y="{_middle(-1) + 4:g}">input</text>'
    for i, node in enumerate(drawn.nodes):
        yield from _box(node, left, _middle(i), drawn.groups, chips)
    yield f'<text class="quiet" x="{left + 4}" y="{_middle(len(drawn.nodes)) + 4:g}">output</text>'


def _box(node: DrawnNode, left: int, y: float, groups: list[DrawnGroup], chips: float) -> Iterator[str]:
    shape = "x".join(map(str, node.shape))
    yield f'<rect class="box" x="{left}" y="{y - 9:g}" width="{BOX}" height="18" rx="3"/>'
    yield f'<text x="{left + 8}" y="{y + 4:g}">{_safe(node.operator, OPERATOR)}</text>'
    yield f'<text class="quiet" x="{left + BOX - 8}" y="{y + 4:g}" text-anchor="end">{shape}</text>'
    yield f'<text class="quiet" x="{left + BOX + 12}" y="{y + 4:g}">{_safe(node.name, NAME)}</text>'
    yield from _chips([groups[g] for g in node.groups], chips, y)


def _chips(groups: Iterable[DrawnGroup], x: float, y: float) -> Iterator[str]:
    """The groups that slice a node: a square of the group's colour and its name; why it stays is told on hover."""
    for group in groups:
        told = f"{group.name}: {group.units} channels, {group.grade}"
        why = f" ({'; '.join(group.reasons)})" if group.reasons else ""
        square = f'<rect x="{x:g}" y="{y - 5:g}" width="10" height="10" rx="2" fill="{group.colour or PINNED}"/>'
        text = f'<text class="quiet" x="{x + 14:g}" y="{y + 4:g}">{_safe(_chip(group))}</text>'
        yield f"<g><title>{_safe(told + why, 400)}</title>{square}{text}</g>"
        x += CHARACTER * (len(_chip(group)) + 5)


def _chip(group: DrawnGroup) -> str:
    if group.colour is None:
        return "pinned"
    return f"{short(group.name, GROUP)} ({group.units})"


def _safe(text: str, limit: int = 200) -> str:
    return escape(short(text, limit))
