"""Ridge least squares of one layer: what is computed in parts is what the formulas say of the whole."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxprune.repair import least_squares
from onnxprune.repair.layer_samples import LayerSamples
from onnxprune.repair.least_squares import fit
from onnxprune.repair.normal_equations import Problem
from onnxprune.runtime.limits import on_threads
from onnxprune.statistics.covariance import PART

Floats = NDArray[np.float64]


@pytest.fixture
def samples(rng: np.random.Generator) -> tuple[LayerSamples, LayerSamples, Floats, Floats]:
    """A layer of two groups before a Relu, more samples than one part, and the layer as it is."""
    x = rng.standard_normal((2, 2 * PART + 100, 6)).astype(np.float32) + 3
    weight = rng.standard_normal((2, 4, 6))
    y = (x @ weight.transpose(0, 2, 1) + rng.standard_normal((2, x.shape[1], 4))).astype(np.float32)
    whole = LayerSamples(x, y, rng.standard_normal(y.shape).astype(np.float32), low=0.0)
    return whole.cut(0, 2 * PART), whole.cut(2 * PART, whole.count), weight + rng.standard_normal(weight.shape), y[:, 0]


@pytest.mark.parametrize("intercept", [True, False])
def test_the_minimum_is_that_of_the_formula(
    samples: tuple[LayerSamples, LayerSamples, Floats, Floats], intercept: bool
) -> None:
    """In float64, by numpy's solver: the Gram matrix plus the ridge on one side, the moments of what is missing there."""
    rows, held, weight, bias = samples
    full = rows.joined(held)
    found, shift = Problem(rows, weight, bias, intercept).joined(held, full).solution(full.wanted, 0.1)
    for g in range(2):
        x, y = full.x[g].astype(np.float64), full.wanted[g].astype(np.float64)
        centre, mean = (x.mean(axis=0), y.mean(axis=0)) if intercept else (np.zeros(6), bias[g])
        gram = (x - centre).T @ (x - centre) / len(x)
        missing = (x - centre).T @ (y - mean - (x - centre) @ weight[g].T) / len(x)
        exact = weight[g] + np.linalg.solve(gram + 0.1 * np.trace(gram) / 6 * np.eye(6), missing).T
        np.testing.assert_allclose(found[g], exact, atol=1e-4)
        np.testing.assert_allclose(shift[g], mean - exact @ x.mean(axis=0) if intercept else bias[g], atol=1e-3)


@pytest.mark.parametrize("ahead", [1, 3, 8])
def test_ridges_tried_at_a_time_change_nothing(
    samples: tuple[LayerSamples, LayerSamples, Floats, Floats], ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fit(*samples)
    assert first.penalty is not None and first.after < 0.5 * first.before
    monkeypatch.setattr(least_squares, "AHEAD", ahead)
    with on_threads(1):
        again = fit(*samples)
    assert (again.penalty, again.before, again.after) == (first.penalty, first.before, first.after)
    np.testing.assert_array_equal(again.weight, first.weight)
    np.testing.assert_array_equal(again.bias, first.bias)
