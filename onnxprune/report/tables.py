"""Tables and paragraphs of text, and how they are drawn."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

Part = Table | str
"""Output consists of tables and paragraphs of text."""

ROWS = 20
"""Rows of a table."""
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
        console.print(part, soft_wrap=isinstance(part, str) and width is None)
        console.print()
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").split("\n"))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], total: int = 0) -> Table:
    """A table without lines; a title that starts with ``>`` sets its column flush right."""
    drawn = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for title in columns:
        drawn.add_column(title.lstrip(">"), justify="right" if title.startswith(">") else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    if total > len(rows):
        drawn.add_row(f"... and {total - len(rows)} more")
    return drawn


def number(value: float | None) -> str:
    """A number with three digits, "-" for none."""
    return "-" if value is None else f"{value:.3g}"
