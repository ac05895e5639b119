"""Saliency of untrained weights: against differences, by hand, and in the command."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import onnxprune
from onnxprune.graph.operators import known_operators
from onnxprune.importance.saliency import grasp, snip
from onnxprune.importance.score import score
from onnxprune.importance.synflow import SynapticFlow, ranked
from onnxprune.importance.untrained import untrained
from onnxprune.model.model import Model, load
from onnxprune.runtime.session import local_session
from onnxprune.statistics.weight_gradients import GradientData
from tests.calibration.cases import Rewindable
from tests.ops.case import build
from tests.support.oracle import OLD_RUNTIME
from tests.support.paths import MODELS

NET = """(float[N,6] x) => (float[N,3] y) <float[6,8] w, float[8] b, float[8,3] v>
    { h = MatMul(x, w)  a = Add(h, b)  r = Tanh(a)  y = MatMul(r, v) }"""
DEEP = """(float[N,6] x) => (float[N,3] y) <float[6,8] w, float[8] b, float[8,8] u, float[8,3] v, float lo, float hi>
    { h = MatMul(x, w)  a = Add(h, b)  r = Relu(a)  k = MatMul(r, u)  c = Clip(k, lo, hi)  y = MatMul(c, v) }"""
X = np.random.default_rng(0).standard_normal((12, 6)).astype(np.float32)
LABELS = np.arange(12) % 3
DATA = GradientData([{"x": X[i : i + 1]} for i in range(12)], 12, LABELS)


def weights(model: Model) -> dict[str, NDArray[Any]]:
    return {t.name: model.array(t) for t in model.proto.graph.initializer if t.name in ("w", "v", "u")}


def with_weights(model: Model, arrays: dict[str, NDArray[Any]]) -> Model:
    copy = model.copy()
    for tensor in copy.proto.graph.initializer:
        if tensor.name in arrays:
            copy.set_array(tensor, arrays[tensor.name].astype(np.float32))
    return copy


def loss(model: Model) -> float:
    scores = local_session(model).run(["y"], {"x": X})[0].astype(np.float64)
    chosen = scores[np.arange(12), LABELS]
    return float((np.log(np.exp(scores).sum(axis=1)) - chosen).mean())


def gradient(model: Model) -> dict[str, NDArray[np.float64]]:
    """By central differences."""
    found = {}
    for name, array in weights(model).items():
        slope = np.zeros(array.shape)
        for at in np.ndindex(array.shape):
            ends = []
            for step in (2e-2, -2e-2):
                changed = array.copy()
                changed[at] += step
                ends.append(loss(with_weights(model, {name: changed})))
            slope[at] = (ends[0] - ends[1]) / 4e-2
        found[name] = slope
    return found


@pytest.mark.slow
def test_snip_is_what_the_loss_depends_on() -> None:
    model = load(build(NET))
    found, expected = snip(model, weights(model), DATA), gradient(model)
    for name, array in weights(model).items():
        np.testing.assert_allclose(found[name], array * expected[name], atol=2e-3)


@pytest.mark.slow
def test_grasp_is_what_the_norm_of_the_gradient_depends_on() -> None:
    """-2 w (H g) is the change of the squared norm when w goes, to first order."""
    model = load(build(NET))
    found = grasp(model, weights(model), DATA)

    def norm(changed: Model) -> float:
        return sum(float(np.square(g).sum()) for g in gradient(changed).values())

    array = weights(model)["v"]
    for at in [(0, 0), (3, 1), (7, 2)]:
        high, low = array.copy(), array.copy()
        high[at] *= 1.05
        low[at] *= 0.95
        slope = (norm(with_weights(model, {"v": high})) - norm(with_weights(model, {"v": low}))) / 0.1
        assert 2 * found["v"][at] == pytest.approx(slope, rel=0.15, abs=2e-3)


def test_flow_counts_paths() -> None:
    model = load(build(DEEP, constants={"lo": np.float32(0), "hi": np.float32(1)}))
    arrays = {n: np.abs(a.astype(np.float64)) for n, a in weights(model).items()}
    found = SynapticFlow(model, weights(model)).flow({})
    total = float((np.ones((1, 6)) @ arrays["w"] @ arrays["u"] @ arrays["v"]).sum())
    for name in found:
        assert found[name].sum() == pytest.approx(total, rel=1e-4)  # as much flows through every layer
    into, out = np.ones(6) @ arrays["w"], arrays["v"].sum(axis=1)
    np.testing.assert_allclose(found["u"], into[:, None] * arrays["u"] * out[None], rtol=1e-4)


def test_what_comes_before_the_weights_has_no_part_in_the_flow() -> None:
    text = DEEP.replace("h = MatMul(x, w)", "n = Mul(x, s)  h = MatMul(n, w)").replace(
        "float lo,", "float[6] s, float lo,"
    )
    limits = {"lo": np.float32(0), "hi": np.float32(1)}
    plain, scaled = load(build(DEEP, constants=limits)), load(build(text, constants={**limits, "s": np.arange(6)}))
    scaled = with_weights(scaled, weights(plain))
    found = [SynapticFlow(model, weights(model)).flow({}) for model in (plain, scaled)]
    np.testing.assert_allclose(found[1]["w"], found[0]["w"], rtol=1e-5)


def test_flow_of_a_deep_net_stays_in_range() -> None:
    layers = 40
    text = " ".join(f"h{i + 1} = MatMul(h{i}, w{i}) " for i in range(1, layers))
    sizes = ", ".join(f"float[32,32] w{i}" for i in range(layers))
    constants = {f"w{i}": np.random.default_rng(i).standard_normal((32, 32)) for i in range(layers)}
    model = load(
        build(
            f"(float[N,32] x) => (float[N,32] h{layers}) <{sizes}> {{ h1 = MatMul(x, w0) {text} }}", constants=constants
        )
    )
    arrays = {t.name: model.array(t) for t in model.proto.graph.initializer}
    found = SynapticFlow(model, arrays).flow({})
    assert all(np.isfinite(f).all() and f.max() > 0 for f in found.values())
    assert found["w0"].sum() == pytest.approx(found["w39"].sum(), rel=1e-3)


def test_ranks_are_asked_for_anew() -> None:
    """Two units share out what flows between them: when the one has gone, the other is worth all of it."""

    def scores(gone: Any) -> list[NDArray[np.float64]]:
        pair = np.where(gone[0], 0.0, 2.0 if gone[0].any() else 1.0)
        return [pair, np.where(gone[1], 0.0, np.array([1.5, 3.0]))]

    first, second = ranked([2, 2], scores, rounds=8)
    assert first.tolist() == [0.25, 0.75] and second.tolist() == [0.5, 1.0]


@pytest.mark.slow
@pytest.mark.parametrize("importance", ["snip", "grasp", "synflow"])
@pytest.mark.parametrize("pattern", ["channels", "weights"])
def test_channels_and_zeros_of_an_untrained_model(importance: str, pattern: str) -> None:
    constants = {"w": _drawn(24, 32, 0), "u": _drawn(32, 32, 1), "v": _drawn(32, 4, 2)}
    text = """(float[N,24] x) => (float[N,4] y) <float[24,32] w, float[32,32] u, float[32,4] v>
        { h = MatMul(x, w)  r = Relu(h)  k = MatMul(r, u)  c = Relu(k)  y = MatMul(c, v) }"""
    model = build(text, constants=constants)
    rng = np.random.default_rng(0)
    data = {"x": rng.standard_normal((40, 24)).astype(np.float32), "labels": np.arange(40) % 4}
    calib = {} if importance == "synflow" else {"calib": data}
    result = onnxprune.prune(
        model, 0.5, pattern=pattern, importance=importance, global_ranking=True, repair="none", time=False, **calib
    )
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in result.proto.graph.initializer}
    assert any("the weights look untrained: in 2 of 2 layers" in note for note in result.report.notes)
    if pattern == "weights":
        zero = sum((a == 0).sum() for a in arrays.values())
        assert zero == pytest.approx(sum(a.size for a in arrays.values()) / 2, abs=1)
        assert all((a != 0).any() for a in arrays.values())
    else:
        assert arrays["w"].shape[1] + arrays["u"].shape[1] == 32


def _drawn(rows: int, columns: int, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal((rows, columns)) * np.sqrt(2 / rows)


@pytest.mark.slow
def test_trained_weights_do_not_look_untrained() -> None:
    for name in ("sk_mlp", "pt_resnet_folded"):
        found = untrained(load(str(MODELS / f"{name}.onnx")))
        assert found.layers >= 3 and not found.looks_so


def test_gradients_take_one_pass_at_a_time() -> None:
    """A reader with `rewind` allows no two, and none of it is held in memory."""
    model = build(NET, constants={"w": np.ones((6, 8)), "b": np.ones(8), "v": np.ones((8, 3))})
    reader = Rewindable([{"x": X[i : i + 1]} for i in range(12)])
    found = onnxprune.prune(model, 0.5, importance="taylor", calib=reader, repair="none", time=False)
    again = onnxprune.prune(model, 0.5, importance="taylor", calib={"x": X}, repair="none", time=False)
    assert found.plan.removed == again.plan.removed


@pytest.mark.skipif(OLD_RUNTIME, reason="older onnxruntimes fuse products in double precision to what they do not run")
def test_gradients_in_double_precision() -> None:
    model = Model(build(NET.replace("float", "double"), constants={"w": np.ones((6, 8)), "v": np.ones((8, 3))}))
    for labels in (None, LABELS):
        data = GradientData([{"x": X[i : i + 1].astype(np.float64)} for i in range(12)], 12, labels)
        found = grasp(model, weights(model), data)
        assert {name: array.shape for name, array in found.items()} == {"w": (6, 8), "v": (8, 3)}


def test_masks_are_no_paths() -> None:
    """What is added to the scores of an attention passes nothing on, be it minus infinity."""
    text = """(float[1,4,6] x) => (float[1,4,3] y) <float[6,6] q, float[4,4] mask, float[6,3] v>
        { a = MatMul(x, q)  t = Transpose <perm = [0,2,1]> (x)  s = MatMul(a, t)  m = Add(s, mask)
          p = Softmax(m)  h = MatMul(p, x)  y = MatMul(h, v) }"""
    mask = np.triu(np.full((4, 4), -np.inf), 1)
    model = Model(build(text, constants={"mask": mask}))
    arrays = {t.name: model.array(t) for t in model.proto.graph.initializer if t.name in ("q", "v")}
    found = SynapticFlow(model, arrays).flow({})
    assert set(found) == {"q", "v"} and all(np.isfinite(f).all() and f.any() for f in found.values())


@pytest.mark.parametrize("shape", ["", "[4,4]"])
def test_what_is_put_in_the_place_of_masked_scores_is_no_path(shape: str) -> None:
    """Minus infinity, one number or one for each score, as decoders mask what lies ahead."""
    text = f"""(float[4,6] x) => (float[4,6] y) <float[6,6] q, float[6,6] v, bool[4,4] m, float{shape} none>
        {{ a = MatMul(x, q)  t = Transpose(x)  s = MatMul(a, t)  k = Where(m, s, none)  p = Softmax(k)
          b = MatMul(x, v)  y = MatMul(p, b) }}"""
    constants = {"m": np.tril(np.ones((4, 4), bool)), "none": np.full((4, 4) if shape else (), -np.inf, np.float32)}
    model = load(build(text, constants=constants))
    arrays = {t.name: model.array(t) for t in model.proto.graph.initializer if t.name in ("q", "v")}
    found = SynapticFlow(model, arrays).flow({})
    assert set(found) == {"q", "v"} and all(np.isfinite(f).all() and f.any() for f in found.values())


def test_a_group_without_gradients_is_as_important_as_others_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms and sensitivities are no quantities of one kind: neither may go first for its size alone."""
    monkeypatch.setattr(known_operators()["", "CumSum"], "gradient", None)
    model = build(
        """(float[N,6] x) => (float[N,3] y) <float[6,8] w, float[8,3] v, float[6,8] s, float[8,3] t, int64 k>
        { h = MatMul(x, w)  r = Tanh(h)  a = MatMul(r, v)  p = MatMul(x, s)  q = Relu(p)  c = MatMul(q, t)
          z = CumSum(c, k)  y = Add(a, z) }""",
        constants={"k": 0},
    )
    analysis = onnxprune.analyze(model)
    found = score(analysis.model, analysis.coupling, analysis.groups, "snip", gradients=DATA)
    scores = {group.name: one for group, one in zip(analysis.groups, found, strict=True)}
    without = scores.pop("s:1")
    assert without.std() > 0
    assert without.mean() == pytest.approx(np.concatenate(list(scores.values())).mean())
