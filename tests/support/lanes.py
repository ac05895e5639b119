"""Which cases of a long table are in the fast lane."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

EVERY = 16


def spread(cases: Iterable[Any], every: int = EVERY) -> list[Any]:
    """Every sixteenth (or so) case as it is, the others marked slow: the fast lane samples what the whole suite has.

    A plain tuple is a case of several arguments.
    """
    arguments = [c if type(c) is tuple else (c,) for c in cases]
    return [pytest.param(*a, marks=() if i % every == 0 else pytest.mark.slow) for i, a in enumerate(arguments)]
