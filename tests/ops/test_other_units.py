"""The rows of this folder once more, where other units are removed."""

from __future__ import annotations

import pytest

from tests.ops import case as rows


@pytest.mark.slow
@pytest.mark.parametrize("row", rows.every_row(), ids=lambda r: r.name)
def test_removal_equals_masking(row: rows.Case) -> None:
    rows.check_removal(row, seed=1)
