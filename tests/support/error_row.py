"""One row of the table of errors."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One error."""

    what: str
    command: str
    error: str
    hint: str
