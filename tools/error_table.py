"""Writes tests/errors.md: every error that a user can cause, with the lines that are printed.

    python tools/error_table.py

The rows are those that tests/cli/test_errors.py holds the program to.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "tests" / "errors.md"
sys.path.insert(0, str(ROOT))

from tests.support.error_rows import CIRCUMSTANCES, ROWS, Row  # noqa: E402

HEAD = """# Errors

Every error that a user can cause, with the two lines that are printed: `error: ...`, what is wrong and where, and
`hint: ...`, what to do about it. The exit code is 2 where nothing else is said, and no file has changed. In Python the
same lines are `error.message` and `error.hint` of an `onnxprune.OnnxPruneError`.
"""


def document() -> str:
    """The whole page."""
    sections = [*ROWS.items(), ("Circumstances", CIRCUMSTANCES)]
    return "\n".join([HEAD, *(_section(title, rows) for title, rows in sections)])


def _section(title: str, rows: Sequence[Row]) -> str:
    lines = [f"| {row.what} | {_cell(row.error)} | {_cell(row.hint)} |" for row in rows]
    return "\n".join([f"## {title}", "", "| What is wrong | error | hint |", "|---|---|---|", *lines, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


if __name__ == "__main__":
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(document(), encoding="utf-8")
