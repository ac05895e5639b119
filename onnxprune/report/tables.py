"""Tables and paragraphs of text, and how they are drawn."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Sequence
from typing import Literal

from rich.console import Console
from rich.table import Table

Part = Table | str
"""Output consists of tables and paragraphs of text."""

ROWS = 20
"""Rows of a table."""
WIDE = 100
"""Columns of a terminal from which on tables show all that they have."""
BROKEN, PADDING = 10, 3
"""Characters that a column needs whose cells may be broken, and spaces behind each column."""
WHOLE = 32
"""Names of up to so many characters are not broken in the first column."""
REASON = 120
"""Characters of a reason."""


def text(parts: Iterable[Part], *, width: int | None = None, colour: bool = False) -> str:
    """Draws the parts, an empty line between them.

    Args:
        parts: What to draw.
        width: Columns of the terminal; None never wraps.
        colour: Whether to write ANSI colours.
    """
    out = io.StringIO()
    console = Console(
        file=out,
        width=width or 100_000,
        force_terminal=colour,
        no_color=not colour,
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
    )
    for part in parts:
        if isinstance(part, str):
            console.print(part if width is None else wrapped(part, width), soft_wrap=True)
        else:
            console.print(part if width is None else fitted(part, width))
        console.print()
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").split("\n"))


def fitted(drawn: Table, width: int) -> Table:
    """The table; where it does not fit, all its columns may be broken, so that no number is cut off."""
    needed = 0
    for column in drawn.columns:
        longest = max(len(str(cell)) for cell in (column.header, *column.cells))
        needed += (longest if column.no_wrap else min(longest, BROKEN)) + PADDING
    if needed > width:
        for column in drawn.columns:
            column.no_wrap = False
    return drawn


def wrapped(text: str, width: int) -> str:
    r"""A text in lines of some columns; what continues an item of a list is indented.

    >>> print(wrapped("- one two three\nfour", 11))
    - one two
      three
    four
    """
    found = []
    for line in text.split("\n"):
        indent = "  " if line.startswith("- ") else ""
        found += textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False) or [""]
    return "\n".join(found)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], total: int = 0) -> Table:
    """A table without lines; a title that starts with ``>`` sets its column flush right."""
    drawn = Table(box=None, pad_edge=False, padding=(0, PADDING, 0, 0), header_style="bold")
    for i, title in enumerate(columns):
        number = title.startswith(">")
        whole = number or (i == 0 and all(len(row[0]) <= WHOLE for row in rows))
        justify: Literal["left", "right"] = "right" if number else "left"
        drawn.add_column(title.lstrip(">"), justify=justify, overflow="fold", no_wrap=whole)
    for row in rows:
        drawn.add_row(*row)
    if total > len(rows):
        drawn.add_row(f"... and {total - len(rows)} more")
    return drawn


def number(value: float | None) -> str:
    """A number with three digits, "-" for none."""
    return "-" if value is None else f"{value:.3g}"
