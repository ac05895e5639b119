"""Labels drawn from a model: how often each is drawn, and what outputs are taken for."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxprune.graph.operators import Postprocessing
from onnxprune.losses.drawn_labels import DrawnLabels
from onnxprune.verification.comparable_outputs import Component

Floats = NDArray[np.float64]
DRAWS = 4000


def mean_and_square(drawn: DrawnLabels, value: Floats) -> tuple[Floats, Floats]:
    found = np.stack([drawn.gradients([value])[0] for _ in range(DRAWS)]).astype(np.float64)
    return found.mean(axis=0), np.square(found).mean(axis=0)


@pytest.mark.slow
def test_classes_are_drawn_by_their_probability() -> None:
    """The mean gradient is zero, and its square the diagonal of the Fisher information, p (1 - p)."""
    p = np.array([[0.5, 0.3, 0.15, 0.05]])
    mean, square = mean_and_square(DrawnLabels([Component("y", Postprocessing.SOFTMAX)], [], 0), np.log(p))
    np.testing.assert_allclose(mean, 0, atol=0.03)
    np.testing.assert_allclose(square, p * (1 - p), atol=0.02)


@pytest.mark.slow
def test_probabilities_that_stand_alone() -> None:
    p = np.array([[0.5, 0.2]])
    mean, square = mean_and_square(DrawnLabels([Component("y", Postprocessing.SIGMOID)], [], 0), p)
    np.testing.assert_allclose(mean, 0, atol=0.1)
    np.testing.assert_allclose(square, 1 / (p * (1 - p)), rtol=0.1)


@pytest.mark.slow
def test_quantities_count_by_their_variance() -> None:
    outputs = [[np.array([[x, x, -x, -x]])] for x in (-2.0, 2.0)]
    mean, square = mean_and_square(DrawnLabels([Component("y")], outputs, 0), np.zeros((1, 4)))
    np.testing.assert_allclose(mean, 0, atol=0.05)
    np.testing.assert_allclose(square, 1 / 4 / 16, rtol=0.1)  # the variance is 4, and there are four elements


@pytest.mark.parametrize("value", [np.float64(0.5), np.full((1, 3), 2.0), np.full((2,), 1.0, np.float16)])
def test_gradients_have_the_shape_and_type_of_outputs(value: NDArray[np.floating]) -> None:
    (found,) = DrawnLabels([Component("y")], [], 0).gradients([np.asarray(value)])
    assert (found.shape, found.dtype) == (np.shape(value), value.dtype)


def test_scores_that_stand_out_are_classes() -> None:
    scores = np.array([[9.0, 0.0, 0.1], [0.2, 8.0, 0.0]])
    found = DrawnLabels([Component("y")], [[scores[i : i + 1]] for i in range(2)], 0).gradients([scores[:1]])[0]
    assert found.sum() == pytest.approx(0, abs=1e-6) and abs(found).max() < 1e-3
