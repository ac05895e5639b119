"""Steps relative to the size of the weights, and their schedule."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.gradients.optimizer import RelativeAdam, channel_sizes, rate_at
from onnxprune.gradients.trainable import parameters
from onnxprune.model.model import Model
from tests.ops.case import build


def test_the_rate_rises_and_falls_to_zero() -> None:
    rates = [rate_at(i, 100, 0.5) for i in range(100)]
    assert rates[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert np.all(np.diff(rates[5:]) <= 0) and 0 < rates[-1] < 1e-3
    assert rates[5 + 95 // 2] == pytest.approx(0.25, abs=0.01)
    assert rate_at(0, 1, 0.5) == 0.5


def test_sizes_of_channels() -> None:
    weight = np.array([[3, 4], [0, 0]], np.float32)
    whole = np.sqrt(25 / 2)  # zeros do not count
    expected = [[np.sqrt(12.5) + 0.1 * whole], [0.1 * whole]]
    np.testing.assert_allclose(channel_sizes(weight, 0), expected, rtol=1e-6)
    np.testing.assert_allclose(channel_sizes(weight, None), [[whole]], rtol=1e-6)


def test_the_first_step_is_the_rate_times_the_size_against_the_sign_of_the_gradient() -> None:
    """Bias correction makes mean and root of the first gradient equal in size, however small it is."""
    weights = {"w": np.array([[1, 2], [100, 200]], np.float32)}
    optimizer = RelativeAdam(weights, {"w": channel_sizes(weights["w"], 0)})
    optimizer.step({"w": np.array([[1e-5, -1e-5], [7, 0]], np.float32)}, 0.01)
    moved = (optimizer.weights["w"] - weights["w"]) / channel_sizes(weights["w"], 0)
    np.testing.assert_allclose(moved, [[-0.01, 0.01], [-0.01, 0]], rtol=1e-3, atol=1e-7)
    assert weights["w"][0, 0] == 1  # its own are left alone


def test_it_finds_the_minimum_of_a_badly_scaled_function() -> None:
    start = {"w": np.array([[1.0], [1000.0]], np.float32)}
    goal = np.array([[0.5], [1400.0]], np.float32)
    optimizer = RelativeAdam(start, {"w": channel_sizes(start["w"], 0)})
    for i in range(400):
        optimizer.step({"w": optimizer.weights["w"] - goal}, rate_at(i, 400, 0.02))
    np.testing.assert_allclose(optimizer.weights["w"], goal, rtol=1e-2)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_leaves_its_weight_as_it_was(broken: float) -> None:
    """Its next step is like a first one; other weights are not held up."""
    weights = {"w": np.ones((2, 2), np.float32), "v": np.ones(2, np.float32)}
    optimizer = RelativeAdam(weights, {name: channel_sizes(w, None) for name, w in weights.items()})
    gradients = {"w": np.ones((2, 2), np.float32), "v": np.ones(2, np.float32)}
    optimizer.step({**gradients, "w": np.array([[1, 1], [1, broken]], np.float32)}, 0.1)
    assert optimizer.lost == 1
    np.testing.assert_array_equal(optimizer.weights["w"], weights["w"])
    np.testing.assert_allclose(optimizer.weights["v"], 0.9, rtol=1e-5)
    optimizer.step(gradients, 0.1)
    assert optimizer.lost == 1
    np.testing.assert_allclose(optimizer.weights["w"], 0.9, rtol=1e-5)


def test_zeros_of_a_sparse_weight_stay() -> None:
    weights = {"w": np.array([[0, 2, 0, 1]], np.float32), "v": np.array([0, 2, 1, 1], np.float32)}
    optimizer = RelativeAdam(weights, {name: channel_sizes(w, None) for name, w in weights.items()})
    optimizer.step({"w": np.ones((1, 4), np.float32), "v": np.ones(4, np.float32)}, 0.1)
    assert (optimizer.weights["w"] == 0).tolist() == [[True, False, True, False]]
    assert optimizer.weights["v"].all()  # a vector, a bias say, has no pattern


@pytest.mark.parametrize(
    "nodes", ["y = Gemm(x, w, b)", "h = MatMul(x, w) y = Add(h, b)", "h = MatMul(x, w) y = Add(b, h)"]
)
def test_a_bias_of_zeros_moves_as_the_weight_beside_it(nodes: str) -> None:
    model = build(
        f"(float[N,4] x) => (float[N,3] y) <float[4,3] w, float[3] b> {{ {nodes} }}", constants={"b": np.zeros(3)}
    )
    found = parameters(Model(model))
    assert found["b"].size.min() > 0 and found["w"].size.min() > 0
