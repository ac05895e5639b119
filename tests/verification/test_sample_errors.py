"""Which samples an output moved most on."""

from __future__ import annotations

import numpy as np

from onnxprune.verification.sample_errors import SampleErrors


def test_the_worst_come_first() -> None:
    errors = SampleErrors()
    errors.add(np.array([[1.0], [2.0]]), np.array([[1.0], [1.0]]))
    errors.add(np.array([[1.0]]), np.array([[5.0]]))
    assert [one.sample for one in errors.worst(np.array([7, 8, 9]))] == [9, 8]


def test_an_output_of_what_is_found_may_be_empty() -> None:
    """A detector that finds nothing in a picture gives boxes of shape (0, 4)."""
    errors = SampleErrors()
    errors.add(np.zeros((0, 4)), np.zeros((0, 4)))
    assert errors.worst(np.arange(1)) == []
