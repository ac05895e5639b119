"""Damage curves pass through what was measured at the outputs."""

from __future__ import annotations

import numpy as np
import pytest

import onnxprune
from onnxprune.importance.damage_curves import curves, fit_to_measurements
from onnxprune.layers.find import linear_layers
from onnxprune.statistics.moments import observe
from tests.ops.case import build


def test_a_curve_is_scaled_to_pass_through_the_measured_points() -> None:
    """Between two of them it keeps its shape; after the last one, the last rate."""
    found = fit_to_measurements(np.array([0.0, 1.0, 3.0, 4.0, 6.0]), [(1, 10.0), (3, 16.0)])
    np.testing.assert_allclose(found, [0, 10, 14, 16, 20])


def test_a_curve_without_measurements_is_the_prediction() -> None:
    loss = np.array([0.0, 1.0, 3.0])
    assert fit_to_measurements(loss, []) is loss


def test_a_layer_that_hardly_shows_at_the_outputs_has_a_low_curve() -> None:
    """Two equal branches, one of them a thousandth of the sum: predictions are equal, measurements are not."""
    rng = np.random.default_rng(0)
    w, v = rng.standard_normal((6, 8)), rng.standard_normal((8, 4))
    model = build(
        """(float[N,6] x) => (float[N,4] y)
        <float[6,8] w1, float[8,4] v1, float[6,8] w2, float[8,4] v2, float[1] small>
        { a = MatMul(x, w1)  b = Relu(a)  c = MatMul(b, v1)  d = MatMul(x, w2)  e = Relu(d)  f = MatMul(e, v2)
          g = Mul(f, small)  y = Add(c, g) }""",
        constants={"w1": w, "v1": v, "w2": w, "v2": v, "small": 1e-3},
    )
    analysis = onnxprune.analyze(model)
    groups = [g for g in analysis.groups if g.name in ("w1:1", "w2:1")]
    layers = linear_layers(analysis.coupling.graph)
    feeds = [{"x": rng.standard_normal((64, 6)).astype(np.float32)} for _ in range(4)]
    seen = observe(analysis.model, layers, feeds[:3], count=3, seed=0)

    def height(batches: list[dict[str, np.ndarray]]) -> list[float]:
        fallback = [np.ones(g.units) for g in groups]
        made = curves(analysis.model, analysis.coupling, groups, layers, seen, fallback, [1, 1], batches)
        return [float(c.loss[4]) for c in made]

    alike, measured = height([]), height(feeds[3:])
    assert alike[0] == pytest.approx(alike[1], rel=1e-6)
    assert measured[1] < 1e-4 * measured[0]
