"""Calibrated repair reaches quantised weights: they are refitted as floats and rounded again."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.layers.real_weights import RealWeights
from onnxprune.model.model import load
from tests.support.oracle import session
from tests.support.quantised_cases import MADE, made


def outputs(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    found: np.ndarray = session(model).run(["y"], {"x": x})[0]
    return found


def constants(model: onnx.ModelProto) -> dict[str, bytes]:
    return {t.name: numpy_helper.to_array(t).tobytes() for t in model.graph.initializer}


def operands(model: onnx.ModelProto) -> list[tuple[str, int]]:
    """The operators, and of which type their constants are."""
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    return sorted((n.op_type, kinds.get(name, 0)) for n in model.graph.node for name in n.input)


@pytest.mark.parametrize("name", MADE)
def test_floats_compute_the_same_and_come_back_as_they_were(name: str) -> None:
    model, x = made(name)
    real = RealWeights(load(model))
    assert real.found
    kinds = {n.op_type for n in real.model.proto.graph.node}
    assert not kinds & {"MatMulNBits", "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"}
    assert not any(kind.startswith("QLinear") or kind == "QGemm" for kind in kinds)
    assert ("DequantizeLinear" in kinds) == (not name.startswith("nbits"))  # of activations
    np.testing.assert_allclose(outputs(real.model.proto, x), outputs(model, x), rtol=0.02, atol=0.02)
    restored = real.restore().proto
    assert constants(restored) == constants(model)
    np.testing.assert_array_equal(outputs(restored, x), outputs(model, x))


def test_weights_that_several_nodes_read_stay_as_they_are() -> None:
    """Each of them would get its own."""
    model, _ = made("nbits")
    second = next(n for n in model.graph.node if n.op_type == "MatMulNBits")
    again = model.graph.node.add()
    again.CopyFrom(second)
    again.output[0], again.name = "other", "other"
    left = {n.output[0] for n in RealWeights(load(model)).model.proto.graph.node if n.op_type == "MatMulNBits"}
    assert left == {second.output[0], "other"}


def test_what_would_take_too_much_memory_stays_as_it_is() -> None:
    model, _ = made("nbits")
    assert not RealWeights(load(model), room=100).found


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_a_repair_helps_and_leaves_the_weights_quantised(name: str) -> None:
    """On samples that it has not seen; the numbers keep their type, and what they used of it."""
    model, x = made(name)
    seen, unseen = x[:192], x[192:]
    options: dict[str, Any] = {"calib": {"x": seen}, "time": False, "verify": False}
    plain = onnxprune.prune(model, 0.5, repair="none", **options)
    repaired = onnxprune.prune(model, 0.5, repair="calibrated", **options)
    expected = outputs(model, unseen)
    errors = [np.square(outputs(r.proto, unseen) - expected).sum() for r in (plain, repaired)]
    assert errors[1] < 0.6 * errors[0], errors
    assert operands(plain.proto) == operands(repaired.proto)
    assert any(refit.penalty is not None for refit in repaired.report.repair or [])


@pytest.mark.slow
def test_scales_of_biases_follow_those_of_weights() -> None:
    """Runtimes that fuse them take it that a bias has the scales of activation and weight, multiplied."""
    model, x = made("qdq-channel")
    result = onnxprune.prune(model, 0.5, calib={"x": x}, time=False, verify=False)
    arrays = {t.name: numpy_helper.to_array(t) for t in result.proto.graph.initializer}
    scales = {n.output[0]: arrays[n.input[1]] for n in result.proto.graph.node if n.op_type == "DequantizeLinear"}
    convolutions = [n for n in result.proto.graph.node if n.op_type == "Conv"]
    assert len(convolutions) == 2
    for node in convolutions:
        activation, weight, bias = (scales[name] for name in node.input)
        np.testing.assert_allclose(bias, activation * weight, rtol=1e-5)


@pytest.mark.slow
def test_a_repair_that_is_no_better_once_rounded_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxprune.pipeline import refit

    monkeypatch.setattr(refit, "_nearer", lambda *_: False)
    model, x = made("nbits")
    options: dict[str, Any] = {"calib": {"x": x}, "time": False, "verify": False}
    plain = onnxprune.prune(model, 0.5, repair="none", **options)
    assert onnxprune.prune(model, 0.5, **options).proto == plain.proto
