"""Losses against their formulas."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from onnxprune.gradients import losses
from onnxprune.ops.gradients.writer import Writer
from tests.ops.case import build

RNG = np.random.default_rng(0)
Z, T = RNG.standard_normal((6, 4)).astype(np.float32), RNG.standard_normal((6, 4)).astype(np.float32)
W = RNG.random((6, 1)).astype(np.float32)


def computed(name: str, *, opset: int, **arrays: NDArray[np.float32]) -> NDArray[np.float32]:
    """What one of the losses makes of its arguments in onnxruntime."""
    model = build("(float[6,4] z, float[6,4] t, float[6,1] w) => (float[6,4] y) { y = Add(z, t) }", opset)
    write = Writer(model)
    found = getattr(losses, name)(write, "z", "t", "w", *((2.0,) if name == "divergence" else ()))
    model.graph.node.extend(write.nodes)
    model.graph.initializer.extend(write.constants)
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(found, onnx.TensorProto.FLOAT, [1]))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, {"z": Z, "t": T, "w": W, **arrays})[0]
    return result


@pytest.mark.parametrize("opset", [9, 18])
def test_squared_error(opset: int) -> None:
    np.testing.assert_allclose(computed("squared_error", opset=opset), [(W * (Z - T) ** 2).sum()], rtol=1e-5)


@pytest.mark.parametrize("opset", [9, 18])
def test_divergence_of_softmaxes(opset: int) -> None:
    p, q = (np.exp(x / 2) / np.exp(x / 2).sum(axis=1, keepdims=True) for x in (T.astype(np.float64), Z))
    wanted = 4 * (W * p * np.log(p / q)).sum()
    np.testing.assert_allclose(computed("divergence", opset=opset), [wanted], rtol=1e-5)
    assert computed("divergence", opset=opset, t=Z + 3)[0] == pytest.approx(0, abs=1e-6)


def test_divergence_of_probabilities() -> None:
    p, q = (1 / (1 + np.exp(-x.astype(np.float64))) for x in (T, Z))
    wanted = (W * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))).sum()
    arrays = {"z": q.astype(np.float32), "t": p.astype(np.float32)}
    np.testing.assert_allclose(computed("binary_divergence", opset=18, **arrays), [wanted], rtol=1e-4)


def test_probabilities_of_zero_and_one_have_a_finite_divergence() -> None:
    sure = {"z": np.zeros((6, 4), np.float32), "t": np.ones((6, 4), np.float32)}
    assert np.isfinite(computed("binary_divergence", opset=18, **sure)).all()
