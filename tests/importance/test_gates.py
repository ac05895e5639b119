"""Criteria from gradients: the derivatives of gates against differences, and what the scores say."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import onnxprune
from onnxprune.coupling.coupling import analyze
from onnxprune.errors import InputError
from onnxprune.graph.graph import Graph
from onnxprune.graph.operators import known_operators
from onnxprune.importance.gates import Gates, gate_gradients
from onnxprune.importance.readers import reads
from onnxprune.importance.score import score
from onnxprune.layers.find import linear_layers
from onnxprune.model.model import Model, load
from onnxprune.runtime.session import local_session
from onnxprune.statistics.weight_gradients import GradientData, SampleGradients, gradient_means
from tests.ops.case import build
from tests.support.paths import MODELS

NET = """(float[N,3,5,5] x) => (float[N,4] y)
    <float[6,3,3,3] w, float[6] b, float[6,1,3,3] d, float[4,6,3,3] u, float[4,6,1,1] v, float[4,4] m>
    { h = Conv(x, w, b)  r = Relu(h)  k = Conv <group = 6, pads = [1, 1, 1, 1]> (r, d)  e = Relu(k)
      p = Conv <pads = [1, 1, 1, 1]> (e, u)  q = Conv(e, v)  s = Add(p, q)  g = GlobalAveragePool(s)
      f = Flatten(g)  y = MatMul(f, m) }"""
X = np.random.default_rng(0).standard_normal((6, 3, 5, 5)).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, 1, 2])
SINGLE = [{"x": X[i : i + 1]} for i in range(len(X))]


def loss(model: Model, sample: int) -> float:
    scores = local_session(model).run(["y"], SINGLE[sample])[0][0].astype(np.float64)
    return float(np.log(np.exp(scores).sum()) - scores[LABELS[sample]])


def scaled(model: Model, unit: int, factor: float) -> Model:
    """The model with what all readers read of a unit times a factor."""
    changed = model.copy()
    for tensor in changed.proto.graph.initializer:
        if tensor.name in ("u", "v"):
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[:, unit] *= factor
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return changed


def test_a_layer_that_makes_the_stream_that_it_reads_is_a_reader() -> None:
    """What is left of a residual stream loses what a dense layer makes of a channel; a depthwise one makes that alone."""
    text = """(float[N,3,5,5] x) => (float[N,2,5,5] y) <float[4,3,1,1] w, float[4,1,3,3] d, float[4,4,1,1] u, float[2,4,1,1] v>
        { h = Conv(x, w)  k = Conv <group = 4, pads = [1, 1, 1, 1]> (h, d)  p = Conv(k, u)  s = Add(h, p)  y = Conv(s, v) }"""
    coupling = analyze(Graph(load(build(text)).proto))
    found = reads(coupling, coupling.groups, linear_layers(coupling.graph))
    assert {one.layer.weight.name for one in found if coupling.groups[one.group].units == 4} == {"u", "v"}


@pytest.mark.slow
def test_derivatives_of_gates_are_those_of_the_loss() -> None:
    model = load(build(NET))
    coupling = analyze(Graph(model.proto))
    group = next(g for g in coupling.groups if g.units == 6)
    found = gate_gradients(Gates(model, coupling, [group]), model, GradientData(SINGLE, 6, LABELS))[0]
    assert found is not None and found.shape == (6, 6)
    step = 1e-2
    for unit in range(6):
        high, low = scaled(model, unit, 1 + step), scaled(model, unit, 1 - step)
        for sample in range(6):
            slope = (loss(high, sample) - loss(low, sample)) / (2 * step)
            assert found[sample, unit] == pytest.approx(slope, abs=2e-3 + 1e-2 * abs(slope))


def test_scores_of_units_are_means_over_the_samples() -> None:
    model = load(build(NET))
    coupling = analyze(Graph(model.proto))
    groups, data = [g for g in coupling.groups if g.units == 6], GradientData(SINGLE, 6, LABELS)
    gates = gate_gradients(Gates(model, coupling, groups), model, data)[0]
    assert gates is not None
    taylor = score(model, coupling, groups, "taylor", gradients=data)[0]
    fisher = score(model, coupling, groups, "fisher", gradients=data)[0]
    np.testing.assert_allclose(taylor, [sum(map(abs, gates[:, unit])) / 6 for unit in range(6)])
    np.testing.assert_allclose(fisher, [(sum(gates[:, unit] ** 2) / 12) ** 0.5 for unit in range(6)])


def test_a_unit_that_nothing_depends_on_goes_first() -> None:
    model = build(NET, constants={"u": _without(2, (4, 6, 3, 3)), "v": _without(2, (4, 6, 1, 1))})
    analysis = onnxprune.analyze(model)
    mine = [g for g in analysis.groups if g.units == 6]
    for name in ("taylor", "fisher"):
        scores = onnxprune.score(analysis, name, calib={"x": X}, groups=mine)[0]
        assert scores.argmin() == 2 and scores[2] == 0 and np.sort(scores)[1] > 0


def _without(unit: int, shape: tuple[int, ...]) -> NDArray[Any]:
    found = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    found[:, unit] = 0
    return found


@pytest.mark.slow
def test_labels_matter_and_drawn_ones_follow_the_seed() -> None:
    analysis = onnxprune.analyze(build(NET))

    def scores(given: dict[str, Any], seed: int = 0) -> NDArray[np.float64]:
        return onnxprune.score(analysis, "taylor", calib=given, seed=seed)[0]

    np.testing.assert_array_equal(scores({"x": X}), scores({"x": X}))
    assert (scores({"x": X, "labels": LABELS}) != scores({"x": X, "labels": 3 - LABELS})).any()
    assert (scores({"x": X}) != scores({"x": X}, 1)).any()


def test_means_of_elements() -> None:
    model = load(build(NET))
    weights = {"u": model.array(model.proto.graph.initializer[3])}
    every = [one["u"].astype(np.float64) for one in SampleGradients(model, weights, GradientData(SINGLE, 6, LABELS))]
    means = gradient_means(SampleGradients(model, weights, GradientData(SINGLE, 6, LABELS)))["u"]
    np.testing.assert_allclose(means.mean, np.mean(every, axis=0), atol=1e-7)
    np.testing.assert_allclose(means.absolute, np.mean(np.abs(every), axis=0), atol=1e-7)
    np.testing.assert_allclose(means.square, np.mean(np.square(every), axis=0), atol=1e-7)


@pytest.mark.slow
def test_zeros_where_the_loss_changes_least() -> None:
    data, kept = {"x": X, "labels": LABELS}, {}
    for name in ("taylor", "fisher", "l1"):
        made = onnxprune.prune(
            build(NET), pattern="weights=0.5", importance=name, calib=data, repair="none", verify=False, time=False
        )
        arrays = {t.name: onnx.numpy_helper.to_array(t) for t in made.proto.graph.initializer}
        kept[name] = arrays["w"] != 0
        assert (arrays["w"] == 0).mean() == pytest.approx(0.5, abs=0.01)
    assert (kept["taylor"] != kept["l1"]).any() and (kept["fisher"] != kept["l1"]).any()


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["2:4", "weights=0.6"])
def test_what_is_refitted_keeps_the_chosen_zeros(pattern: str) -> None:
    data = dict(np.load(MODELS / "digits_test_flat.npz"))
    made = {
        repair: onnxprune.prune(
            str(MODELS / "sk_mlp.onnx"), pattern=pattern, importance="taylor", calib=data, repair=repair, time=False
        )
        for repair in ("none", "calibrated")
    }
    zero = {
        repair: {t.name: onnx.numpy_helper.to_array(t) == 0 for t in result.proto.graph.initializer}
        for repair, result in made.items()
    }
    for name, mask in zero["none"].items():
        if mask.ndim == 2 and mask.mean() > 0.3:
            np.testing.assert_array_equal(zero["calibrated"][name], mask)


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    analysis = onnxprune.analyze(build(NET))
    with pytest.raises(InputError, match="importance 'taylor' needs calibration data"):
        onnxprune.score(analysis, "taylor")
    with pytest.raises(InputError, match="importance 'fisher' needs calibration data"):
        onnxprune.prune(build(NET), 0.5, importance="fisher")
    with pytest.raises(InputError, match="importance 'taylor' needs calibration data"):
        onnxprune.prune(build(NET), pattern="2:4", importance="taylor")
    monkeypatch.setattr(known_operators()["", "LpNormalization"], "gradient", None)
    stopped = build(NET.replace("y = MatMul(f, m)", "z = MatMul(f, m)  y = LpNormalization(z)"))
    with pytest.raises(InputError, match="no weight has a gradient: LpNormalization has no gradient rule"):
        onnxprune.prune(stopped, 0.5, importance="taylor", calib={"x": X}, verify=False, time=False)


def test_factors_of_products_do_not_count() -> None:
    """Sums are over stored weights, whatever the product multiplies them with."""
    text = """(float[N,3] x) => (float[N,4] y) <float[3,6] w, float[6,4] u, float[6,4] v>
        { h = MatMul(x, w) r = Tanh(h) p = Gemm(r, u) q = Gemm <alpha = 0.5> (r, v) y = Add(p, q) }"""
    model = load(build(text))
    coupling = analyze(Graph(model.proto))
    gates = Gates(model, coupling, [next(g for g in coupling.groups if g.units == 6)])
    elements = np.arange(24.0).reshape(6, 4)
    for name in ("u", "v"):
        (found,) = gates.sums({name: elements})
        np.testing.assert_allclose(found, elements.sum(axis=1))
