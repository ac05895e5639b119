"""Running statistics follow what is normalised."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

import onnxprune
from onnxprune.model.model import load
from onnxprune.pipeline.kept_indices import kept_indices
from onnxprune.repair.batch_norm import reestimate
from onnxprune.repair.kept_indices import KeptAxis, KeptIndices
from tests.ops.case import build
from tests.support.oracle import session

NET = """(float[N,3,5,5] x) => (float[N,2,5,5] y)
    <float[6,3,1,1] w, float[6] b, float[6] s, float[6] z, float[6] m, float[6] posv, float[2,6,1,1] u>
    { h = Conv(x, w, b)  n = BatchNormalization(h, s, z, m, posv)  r = Relu(n)  y = Conv(r, u) }"""
X = np.random.default_rng(0).standard_normal((16, 3, 5, 5)).astype(np.float32)
ALL = KeptIndices(frozenset({"n"}))
BATCHES = [{"x": X[:8]}, {"x": X[8:]}]


def held(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def changed(model: onnx.ModelProto, **arrays: np.ndarray) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for t in copy.graph.initializer:
        if t.name in arrays:
            t.CopyFrom(numpy_helper.from_array(arrays[t.name].astype(np.float32), t.name))
    return copy


def kept(channels: list[int]) -> KeptIndices:
    """Channels that remain of what the node reads."""
    return KeptIndices(frozenset({"n"}), {"h": {1: KeptAxis((6,), np.array(channels))}})


def normalised_alike() -> onnx.ModelProto:
    """The running statistics are those of the batches."""
    model = build(NET)
    h = np.einsum("nihw,oi->nohw", X, held(model)["w"][:, :, 0, 0]) + held(model)["b"][:, None, None]
    return changed(model, m=h.mean((0, 2, 3)), posv=h.var((0, 2, 3)))


def test_what_did_not_change_keeps_its_statistics() -> None:
    model = build(NET)
    other = load(model)
    assert reestimate(load(model), other, ALL, BATCHES) == 1
    for name in ("m", "posv"):
        np.testing.assert_allclose(held(other.proto)[name], held(model)[name], rtol=1e-6)


def test_scaled_and_shifted_channels_are_normalised_as_before() -> None:
    model = normalised_alike()
    other = load(changed(model, w=held(model)["w"] * 3, b=held(model)["b"] * 3 + 2))
    reestimate(load(model), other, ALL, BATCHES)
    expected, got = (session(m).run(None, {"x": X})[0] for m in (model, other.proto))
    np.testing.assert_allclose(got, expected, atol=1e-3 * np.abs(expected).max())  # the epsilon beside the variance


def test_channels_that_went_are_left_out() -> None:
    model, keep = normalised_alike(), [0, 2, 5]
    rest = {n: a[keep] for n, a in held(model).items() if n != "u"} | {"u": held(model)["u"][:, keep]}
    other = changed(model, **{**rest, "w": rest["w"] * 3, "b": rest["b"] * 3})
    small = load(other)
    assert reestimate(load(model), small, kept(keep), BATCHES) == 1
    np.testing.assert_allclose(held(small.proto)["m"], 3 * rest["m"], rtol=1e-4)
    np.testing.assert_allclose(held(small.proto)["posv"], 9 * rest["posv"], rtol=1e-4)


def test_channels_with_equal_parameters_are_told_apart() -> None:
    """As a fresh or a regularised model has them: the second of two equal channels remains, the first went."""
    model = normalised_alike()
    model, keep = changed(model, s=np.ones(6), z=np.zeros(6), m=np.zeros(6), posv=np.ones(6)), [1, 3, 4]
    weights = {n: a[keep] for n, a in held(model).items() if n != "u"} | {"u": held(model)["u"][:, keep]}
    small = load(changed(model, **{**weights, "w": weights["w"] * 3, "b": weights["b"] * 3}))
    assert reestimate(load(model), small, kept(keep), BATCHES) == 1
    h = np.einsum("nihw,oi->nohw", X, weights["w"][:, :, 0, 0]) + weights["b"][:, None, None]
    np.testing.assert_allclose(held(small.proto)["m"], 2 * h.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(held(small.proto)["posv"], np.full(3, 9.0), rtol=1e-3)


def test_channels_that_are_not_known_leave_the_statistics_as_they_are() -> None:
    model = normalised_alike()
    other = load(changed(model, w=held(model)["w"] * 3))
    assert reestimate(load(model), other, KeptIndices(), BATCHES) == 0
    for name in ("m", "posv"):
        assert np.array_equal(held(other.proto)[name], held(model)[name])


def test_a_run_knows_the_channels_that_it_kept_of_a_normalization() -> None:
    """All parameters of it are equal."""
    model = changed(build(NET), s=np.ones(6), z=np.zeros(6), m=np.zeros(6), posv=np.ones(6))
    analysis = onnxprune.analyze(model)
    gone = np.zeros(analysis.coupling.classes.elements, dtype=bool)
    (group,) = (g for g in analysis.groups if g.units == 6)
    gone[group.channels[[0, 3]]] = True
    found = kept_indices(analysis.coupling, gone)
    assert "n" in found.layers
    assert found.along("h", 1, 6).tolist() == [1, 2, 4, 5]
