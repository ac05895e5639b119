"""Weights of any stored type are trained in single precision, and what is trained is what is stored in the end."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.gradients.differentiate import differentiate
from onnxprune.gradients.free_constants import free_constants
from onnxprune.gradients.single_precision import SinglePrecision, write_back
from onnxprune.gradients.trainable import parameters
from onnxprune.model.model import Model, load
from tests.ops.case import build
from tests.support.oracle import session
from tests.support.quantised_cases import MADE, made

RNG = np.random.default_rng(0)


def outputs(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    found: np.ndarray = np.asarray(session(model).run(None, feeds)[0], np.float64)
    return found


def stored(model: onnx.ModelProto) -> dict[str, tuple[int, bytes]]:
    return {t.name: (t.data_type, numpy_helper.to_array(t).tobytes()) for t in model.graph.initializer}


def moved(form: SinglePrecision) -> dict[str, np.ndarray]:
    """The weights of a model, each changed by a few percent of its size."""
    known = parameters(form.model)
    assert known
    noise = {name: RNG.standard_normal(p.array.shape).astype(np.float32) for name, p in known.items()}
    return {name: p.array + 0.05 * p.size * noise[name] for name, p in known.items()}


@pytest.mark.parametrize("name", MADE)
def test_the_trained_model_computes_what_the_stored_one_does(name: str) -> None:
    """Rounding included: what is judged after an epoch is the result."""
    model, x = made(name)
    form = SinglePrecision(load(model))
    weights = moved(form)
    free = form.model.copy()
    free_constants(free, weights)
    trained = outputs(free.proto, {**form.feeds({"x": x}), **form.stored(weights)})
    result = load(model)
    write_back(result, weights)
    change = np.abs(trained - outputs(model, {"x": x})).mean()
    assert np.abs(trained - outputs(result.proto, {"x": x})).mean() < 0.02 * change
    kinds = [sorted(kind for kind, _ in stored(m).values()) for m in (model, result.proto)]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("name", MADE)
def test_weights_that_did_not_change_are_stored_as_they_were(name: str) -> None:
    model, _ = made(name)
    result = load(model)
    known = parameters(SinglePrecision(result).model)
    write_back(result, {name: p.array for name, p in known.items()})
    assert stored(result.proto) == stored(model)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision_is_trained_and_stored_as_it_was(kind: str) -> None:
    text = "(TYPE[N,6] x) => (TYPE[N,3] y) <TYPE[6,8] w, TYPE[8] b, TYPE[8,3] v> { h = Gemm(x, w, b) r = Relu(h) y = MatMul(r, v) }"
    model = build(text.replace("TYPE", "float"), 13)
    number = onnx.TensorProto.FLOAT16 if kind == "float16" else onnx.TensorProto.BFLOAT16
    half = onnx.helper.tensor_dtype_to_np_dtype(number)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(half), tensor.name))
    for info in [*model.graph.input, *model.graph.output]:
        info.type.tensor_type.elem_type = number
    form = SinglePrecision(load(model))
    x = RNG.standard_normal((4, 6)).astype(half)
    assert all(i.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for i in form.model.proto.graph.input)
    weights = moved(form)
    assert set(weights) == {"w", "b", "v"}
    result = load(model)
    write_back(result, weights)
    for tensor in result.proto.graph.initializer:
        np.testing.assert_array_equal(
            numpy_helper.to_array(tensor).astype(np.float32), form.stored(weights)[tensor.name], strict=True
        )
        assert tensor.data_type == number
    free = form.model.copy()
    free_constants(free, weights)
    w, b, v = (form.stored(weights)[name].astype(np.float64) for name in "wbv")
    expected = np.maximum(x.astype(np.float64) @ w + b, 0) @ v
    np.testing.assert_allclose(outputs(free.proto, {**form.feeds({"x": x}), **form.stored(weights)}), expected, 1e-5)


@pytest.mark.parametrize(("shape", "scale"), [("", 0.1), ("[2]", [0.1, 0.1])])
def test_rounding_has_a_slope_of_1_and_clipping_of_0(shape: str, scale: Any) -> None:
    model = build(
        """(float[2,5] x) => (float[2,5] y) <floatSHAPE ks, uint8SHAPE kz>
        { q = QuantizeLinear <axis = 0> (x, ks, kz) r = DequantizeLinear <axis = 0> (q, ks, kz) y = Mul(r, r) }
        """.replace("SHAPE", shape),
        13,
        constants={"ks": scale, "kz": 100 if shape == "" else [100, 100]},
    )
    x = np.array([[-30, -10.01, -9.97, 0.04, 0.06], [1, 15.44, 15.52, 15.7, 40]], np.float32)  # -10 to 15.5
    found = differentiate(Model(model), ["y"], ["x"])
    assert not found.reasons
    d = np.full((2, 5), 0.5, np.float32)
    (got,) = session(found.model.proto).run([found.gradients["x"]], {"x": x, found.seeds["y"]: d})
    real = np.clip(np.rint(x / np.float32(0.1)) + 100, 0, 255) * 0.1 - 10
    inside = np.array([[0, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.float32)
    np.testing.assert_allclose(got, real * inside, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nbits", "nbits-points"])
def test_distillation_reaches_quantised_weights(name: str) -> None:
    """On samples that it has not seen."""
    model, x = made(name)
    seen, unseen = {"x": x[:192]}, {"x": x[192:]}
    options: dict[str, Any] = {"calib": seen, "time": False, "verify": False}
    calibrated = onnxprune.prune(model, 0.5, **options)
    distilled = onnxprune.prune(model, 0.5, repair="distilled", epochs=20, **options)
    expected = outputs(model, unseen)
    errors = [np.square(outputs(r.proto, unseen) - expected).sum() for r in (calibrated, distilled)]
    assert errors[1] < 0.75 * errors[0], errors
    assert [kind for kind, _ in stored(calibrated.proto).values()] == [k for k, _ in stored(distilled.proto).values()]
