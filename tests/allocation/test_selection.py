"""Selections: scores from curves."""

from __future__ import annotations

import numpy as np

from onnxprune.allocation.selection import scores_of
from onnxprune.importance.obs import Curve


def test_a_unit_scores_no_less_than_those_that_are_removed_before_it() -> None:
    """The second removal adds less than the first, but the order is that of the curve; the last unit is never removed."""
    curve = Curve(np.array([2, 0, 1]), np.array([0.0, 2.0, 3.0, 7.0]))
    assert scores_of(curve, 4).tolist() == [2.0, 4.0, 2.0, 5.0]
    assert np.argsort(scores_of(curve, 4), kind="stable").tolist() == [0, 2, 1, 3]
