"""Which layers have zeros: where scores compare across them, and where a refit passes one over."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune import sparsity
from onnxprune.coupling.coupling import analyze
from onnxprune.extensions.points import criteria
from onnxprune.graph.graph import Graph
from onnxprune.model.model import load
from onnxprune.sparsity.patterns import Unstructured
from tests.ops.case import build

TWO = "(float[N,8] x) => (float[N,8] y) <float[8,8] w, float[8,8] v> { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"


def test_a_weight_without_scores_loses_the_share_by_itself(rng: np.random.Generator) -> None:
    """Magnitudes are not compared with scores of another kind."""
    model = load(build(TWO, constants={n: rng.standard_normal((8, 8)) for n in ("w", "v")}))
    coupling = analyze(Graph(model.proto))
    scores = {"v": 1e-6 * rng.random((8, 8))}
    done = sparsity.zero_smallest(
        model, coupling, sparsity.weights(coupling), Unstructured(0.25), True, criteria.get("snip"), scores
    )
    assert {key: mask.ratio for key, mask in done.items()} == {"w": 0.25, "v": 0.25}


@pytest.mark.slow
def test_a_layer_above_the_threshold_keeps_its_weights() -> None:
    """Scores that compare across layers decide how many zeros each has, also where layers are refitted."""
    rng = np.random.default_rng(0)
    weak = np.where(np.arange(8) < 2, 1.0, 1e-6)[:, None] * rng.standard_normal((8, 8))  # most of it matters little
    model = build(TWO, constants={"w": weak, "v": 100 * rng.standard_normal((8, 8))})
    data = {"x": rng.standard_normal((64, 8)).astype(np.float32)}
    result = onnxprune.prune(
        model, pattern="weights=0.3", importance="snip", global_ranking=True, calib=data, time=False
    )
    zeros = {t.name: int((numpy_helper.to_array(t) == 0).sum()) for t in result.model.graph.initializer}
    assert zeros == {"w": 38, "v": 0}


@pytest.mark.slow
def test_what_a_refit_passes_over_has_zeros_all_the_same(rng: np.random.Generator) -> None:
    """A bias of minus infinity leaves nothing to fit."""
    model = build(
        "(float[N,8] x) => (float[N,8] y) <float[8,8] w, float[8] b> { h = MatMul(x, w) y = Add(h, b) }",
        constants={"w": rng.standard_normal((8, 8)), "b": [*np.ones(7), -np.inf]},
    )
    x = rng.standard_normal((64, 8)).astype(np.float32)
    result = onnxprune.prune(model, pattern="2:4", calib={"x": x}, repair="calibrated", time=False)
    w = next(numpy_helper.to_array(t) for t in result.model.graph.initializer if t.name == "w")
    assert ((w.reshape(2, 4, 8) == 0).sum(axis=1) == 2).all()
