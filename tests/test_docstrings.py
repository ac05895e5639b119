"""Examples in docstrings do what they show."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

from tests.support.paths import PACKAGE
from tests.support.sources import FILES, source


@pytest.mark.parametrize("path", [f for f in FILES if ">>> " in source(f)], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_examples(path: Path) -> None:
    module = importlib.import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0
