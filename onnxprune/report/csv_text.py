"""Rows as CSV text for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from onnxprune.common.text import printable

FORMULA = ("=", "+", "-", "@")
"""How a text begins that a spreadsheet takes for a formula."""


def csv_text(columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """Lines as CSV (RFC 4180)."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in line] for line in lines)
    return out.getvalue()


def _cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: texts from models are untrusted."""
    if not isinstance(value, str):
        return "" if value is None else value
    text = printable(value)
    return f"'{text}" if text.startswith(FORMULA) else text
