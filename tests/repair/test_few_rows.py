"""Fits of few rows, of constants beside layers, and of values that leave the graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxprune
from onnxprune.extensions.patterns import parse
from onnxprune.graph.graph import Graph
from onnxprune.graph.shape_inference import infer
from onnxprune.importance.score import score
from onnxprune.layers.find import linear_layers
from onnxprune.model.model import Model
from onnxprune.repair import least_squares
from onnxprune.repair.layer_operator import LayerOperator
from onnxprune.repair.layer_samples import LayerSamples, bounds, residual_add
from onnxprune.sparsity.solvers import wanda
from onnxprune.statistics.weight_gradients import GradientData
from tests.ops.case import build


def rows(x: np.ndarray, weight: np.ndarray) -> LayerSamples:
    return LayerSamples(x[None].astype(np.float32), (x @ weight.T)[None].astype(np.float32))


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_ridges_that_only_shift_the_mean_do_not_end_the_search(shift: float) -> None:
    """The strongest may be worse than no fit on held-out rows, and the weaker ones still find what is exactly there."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        right = rng.standard_normal((3, 4))
        learn = rows(rng.standard_normal((40, 4)) + shift, right)
        held = rows(rng.standard_normal((10, 4)) - shift, right)
        start = right + 0.3 * rng.standard_normal((3, 4))
        found = least_squares.fit(learn, held, start[None], np.zeros((1, 3)), intercept=True)
        assert found.penalty is not None and found.after < 0.1 * found.before


def test_a_constant_for_each_sample_is_in_no_chain() -> None:
    """The rows that a joint refit draws have none of it."""
    model = build("""(float[10,16] x) => (float[10,8] y) <float[16,12] a, float[10,1] c, float[12,8] b>
        { h = MatMul(x, a)  k = Mul(h, c)  r = Relu(k)  y = MatMul(r, b) }""")
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal((10, 16)).astype(np.float32)} for _ in range(40)]
    report = onnxprune.prune(model, 0.5, calib=feeds, repair="calibrated", time=False).report
    assert report.repair is not None and report.verified


def test_what_leaves_the_graph_is_not_clipped() -> None:
    """An output counts below zero as well, though a Relu reads it."""
    graph = Graph(
        build("""(float[N,8] x) => (float[N,4] y, float[N,4] r, float[N,4] z) <float[8,4] w, float[4,4] v>
        { y = MatMul(x, w)  r = Relu(y)  k = MatMul(r, v)  z = Add(k, r) }""")
    )
    infer(graph)
    assert bounds(graph.main.names["y"]) == (-np.inf, np.inf)
    (layer,) = [one for one in linear_layers(graph) if one.name == "k"]
    assert residual_add(layer) is not None


def test_a_kernel_of_one_that_padding_moves() -> None:
    """It reads other positions than its own, though there are as many."""
    model = build("""(float[1,2,2] x) => (float[1,3,2] y) <float[3,2,1] w>
        { y = Conv <strides = [2], pads = [1,1]> (x, w) }""")
    graph = Graph(model)
    infer(graph)
    (layer,) = linear_layers(graph)
    x = np.random.default_rng(0).standard_normal((2, 1, 2)).astype(np.float32)
    operator = LayerOperator.of(layer, [2])
    (tensor,) = [t for t in model.graph.initializer if t.name == "w"]
    weight = layer.matrix(Model(model).array(tensor))
    made = operator.forward(weight.astype(np.float32), operator.unfold(x)).reshape(3, 2)
    np.testing.assert_allclose(made, np.stack([np.zeros(3), weight[0] @ x[:, 0, 1]], axis=1), atol=1e-6)


def test_all_of_a_share_is_taken_of_narrow_rows() -> None:
    """Nine columns, half of the elements: four of each row, and one more of half of the rows."""
    weight = np.random.default_rng(0).standard_normal((8, 1, 9))
    pattern = parse("weights=0.5")
    zeroed = wanda(weight, np.tile(np.eye(9), (8, 1, 1)), pattern, 9)
    assert zeroed.sum() == 36 and zeroed.sum(axis=2).max() == 5


def test_gates_of_a_weight_that_two_layers_read() -> None:
    """Its gradient is the sum over both already."""
    shared = "g = MatMul(a, B)  h = MatMul(b, B)"
    apart = shared.replace("h = MatMul(b, B)", "h = MatMul(b, C)")
    text = """(float[N,5] x, float[N,5] u) => (float[N,3] y) <float[5,6] A, float[6,3] B, float[6,3] C>
        { a = MatMul(x, A)  b = MatMul(u, A)  %s  y = Add(g, h) }"""
    rng = np.random.default_rng(0)
    constants: dict[str, Any] = {"A": rng.standard_normal((5, 6)), "B": rng.standard_normal((6, 3))}
    constants["C"] = constants["B"]
    feeds = [{k: rng.standard_normal((1, 5)).astype(np.float32) for k in "xu"} for _ in range(12)]
    data = GradientData(feeds, 12, np.arange(12) % 3)
    found = []
    for line in (shared, apart):
        analysis = onnxprune.analyze(build(text % line, constants=constants))
        scores = score(analysis.model, analysis.coupling, analysis.groups, "snip", gradients=data)
        found.append({g.name: s for g, s in zip(analysis.groups, scores, strict=True)}["A:1"])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)
