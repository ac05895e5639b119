"""Which cases of a long table are in the fast lane."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

EVERY = 5


def spread(cases: Iterable[Any]) -> list[Any]:
    """Every fifth case as it is, the others marked slow: the fast lane samples the table, the whole suite has all."""
    return [c if i % EVERY == 0 else pytest.param(c, marks=pytest.mark.slow) for i, c in enumerate(cases)]
