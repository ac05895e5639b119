"""Fine-tuning: what it learns, what it leaves, and what it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import onnxprune
from onnxprune.errors import DataError, GateError, InputError
from tests.ops.case import build
from tests.support.paths import MODELS

MODEL = str(MODELS / "sk_mlp.onnx")
TEST = np.load(MODELS / "digits_test_flat.npz")
LABELLED = {"input": TEST["input"], "labels": TEST["labels"]}


@pytest.fixture(scope="module")
def pruned() -> onnx.ModelProto:
    return onnxprune.prune(MODEL, 0.6, repair="none", verify=False, time=False).proto


def arrays(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


@pytest.mark.slow
def test_labels_are_learnt_and_nothing_else_changes(pruned: onnx.ModelProto) -> None:
    before = pruned.SerializeToString()
    result = onnxprune.finetune(pruned, LABELLED, epochs=3, rate=4e-3)
    metric, training = result.report.metric, result.report.training
    assert metric is not None and metric.after is not None and metric.before is not None
    assert metric.after > metric.before + 0.04 and training.after < 0.9 * training.before  # type: ignore[operator]
    assert training.best is not None and training.samples + training.judges + metric.samples == 450
    assert pruned.SerializeToString() == before
    old, new = arrays(pruned), arrays(result.model)
    assert {n: a.shape for n, a in old.items()} == {n: a.shape for n, a in new.items()}
    assert result.model.graph.node == pruned.graph.node and result.report.verified
    again = onnxprune.finetune(pruned, LABELLED, epochs=3, rate=4e-3)
    assert again.model.SerializeToString() == result.model.SerializeToString()


@pytest.mark.slow
def test_a_teacher_without_labels(pruned: onnx.ModelProto) -> None:
    result = onnxprune.finetune(pruned, {"input": TEST["input"]}, teacher=MODEL, epochs=12, rate=5e-3)
    assert result.report.training.loss == "teacher" and result.report.metric is None
    assert result.report.training.after < 0.7 * result.report.training.before  # type: ignore[operator]
    drift = onnxprune.compare(MODEL, pruned, result.model, calib={"input": TEST["input"]}, runs=1).models
    moved = [column.drift["probabilities"].rel_rms or 0.0 for column in drift[1:]]
    assert 0 < moved[1] < 0.9 * moved[0]


@pytest.mark.slow
def test_a_teacher_and_labels(pruned: onnx.ModelProto) -> None:
    result = onnxprune.finetune(pruned, LABELLED, teacher=MODEL, epochs=3)
    alone = onnxprune.finetune(pruned, LABELLED, epochs=3)
    assert (
        result.report.teacher == pytest.approx(0.98, abs=0.03)
        and result.report.training.loss == "cross-entropy and teacher"
    )
    assert result.model.SerializeToString() != alone.model.SerializeToString()


@pytest.mark.slow
def test_steps_of_a_teacher_are_larger_than_those_of_labels(pruned: onnx.ModelProto) -> None:
    def rate(data: dict[str, NDArray[Any]], **options: Any) -> float:
        found = onnxprune.finetune(pruned, data, epochs=1, **options).report.training.rate
        assert found is not None
        return found

    assert rate({"input": TEST["input"]}, teacher=MODEL) == pytest.approx(0.004)
    assert rate(LABELLED) == pytest.approx(0.001)
    assert 0.001 < rate(LABELLED, teacher=MODEL) < 0.004
    assert rate(LABELLED, teacher=MODEL, rate=0.02) == 0.02


@pytest.mark.slow
def test_what_teaches_nothing_is_not_taken(pruned: onnx.ModelProto) -> None:
    """Steps of three times the weights ruin any model."""
    result = onnxprune.finetune(onnx.load(MODEL), LABELLED, epochs=1, rate=3.0)
    assert result.report.training.best is None and result.report.training.after == result.report.training.before
    assert arrays(result.model).keys() == arrays(onnx.load(MODEL)).keys()
    for name, array in arrays(onnx.load(MODEL)).items():
        np.testing.assert_array_equal(arrays(result.model)[name], array)
    assert any("nothing surely better" in line for line in result.report.warnings)


def test_steps_without_finite_gradients_are_told() -> None:
    """The slope of 1e-30 / h at h = 0 is infinite, times nothing behind a Where: not a number."""
    model = build(
        """(float[N,4] x) => (float[N,3] y) <float[4,6] w, float[6,3] v, float little, float zero>
        { h = MatMul(x, w)  r = Relu(h)  d = Div(little, r)  l = Greater(r, zero)  q = Where(l, d, zero)
          s = Add(q, r)  y = MatMul(s, v) }""",
        constants={"little": np.float32(1e-30), "zero": np.float32(0)},
    )
    x = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
    before = arrays(model)
    result = onnxprune.finetune(model, {"x": x, "labels": (x[:, 0] > 0).astype(np.int64)}, epochs=8, rate=1e-2)
    training, after = result.report.training, arrays(result.model)
    assert training.best is not None and training.lost == 8 * (46 // 5)  # all: nine of five samples, of 46, an epoch
    np.testing.assert_array_equal(after["w"], before["w"])
    assert np.all(after["v"] != before["v"])
    assert any("left weights as they were: their gradients were not finite" in line for line in result.report.warnings)


@pytest.mark.slow
def test_zeros_stay() -> None:
    sparse = onnxprune.prune(MODEL, pattern="2:4", repair="none", verify=False, time=False).proto
    result = onnxprune.finetune(sparse, LABELLED, epochs=4)
    assert result.report.training.best is not None
    for name, array in arrays(sparse).items():
        if array.ndim > 1 and (array == 0).mean() > 0.4:
            assert ((arrays(result.model)[name] == 0) == (array == 0)).all(), name


@pytest.mark.slow
def test_labels_of_positions_are_not_moved_with_the_samples() -> None:
    """The label of a pixel is its own sign: a shifted sample would teach the label of another pixel."""
    text = "(float[N,1,6,6] x) => (float[N,2,6,6] y) <float[2,1,1,1] w> { y = Conv(x, w) }"
    model = build(text)
    x = np.random.default_rng(0).standard_normal((120, 1, 6, 6)).astype(np.float32)
    labels = (x[:, 0] > 0).astype(np.int64)
    result = onnxprune.finetune(model, {"x": x, "labels": labels}, epochs=30, rate=0.05)
    w = arrays(result.model)["w"].ravel()
    assert w[1] - w[0] > arrays(model)["w"].ravel()[1] - arrays(model)["w"].ravel()[0] + 0.5


def test_errors(pruned: onnx.ModelProto) -> None:
    with pytest.raises(DataError, match="neither labels nor a teacher"):
        onnxprune.finetune(pruned, {"input": TEST["input"]})
    with pytest.raises(DataError, match="nor a teacher to learn from; 'target' is neither an input nor labels"):
        onnxprune.finetune(pruned, {"input": TEST["input"], "target": TEST["labels"]})
    with pytest.raises(DataError, match="too few"):
        onnxprune.finetune(pruned, {"input": TEST["input"][:3], "labels": TEST["labels"][:3]})
    with pytest.raises(InputError, match="teacher has the outputs output, and the model has label, probabilities"):
        onnxprune.finetune(pruned, LABELLED, teacher=str(MODELS / "pt_transformer.onnx"))
    text = "(float[N,4] x) => (float[N,CLASSES] y) <float[4,CLASSES] w> { y = MatMul(x, w) }"
    three, five = (build(text.replace("CLASSES", number)) for number in ("3", "5"))
    says = r"output 'y' of teacher has shape \[N, 5\], and the model's \[N, 3\]"
    with pytest.raises(InputError, match=says):
        onnxprune.finetune(three, {"x": np.zeros((40, 4), np.float32)}, teacher=five)
    with pytest.raises(InputError, match="epochs"):
        onnxprune.finetune(pruned, LABELLED, epochs=0)


def test_what_is_not_trained_is_told() -> None:
    """A scale, an offset, weights in double precision, and quantised ones that two nodes read.

    A product written out as Einsum is a weight as others are.
    """
    text = """(float[N,4] x) => (float[N,3] y) <float[4,6] w, float[6,1] g, int64[1] axis = {1}, float[6] b,
         float16[6,6] h, int8[6,3] q, float s = {0.1}, double[3,3] k>
        { a = Einsum <equation = "ni,ij->nj"> (x, w)  e = Squeeze(g, axis)  c = Mul(a, e)  d = Add(c, b)  r = Relu(d)
          f = Cast <to = 1> (h)  m = MatMul(r, f)  v = DequantizeLinear(q, s)  u = DequantizeLinear(q, s)
          p = MatMul(m, v)  o = MatMul(m, u)  t = Add(p, o)  l = Cast <to = 1> (k)  y = MatMul(t, l) }"""
    rng = np.random.default_rng(0)
    data = {"x": rng.standard_normal((40, 4)).astype(np.float32), "labels": rng.integers(0, 3, 40)}
    training = onnxprune.finetune(build(text), data, epochs=1).report.training
    kinds = ["constants of Add are", "constants of Mul are", "double numbers are", "quantised numbers are"]
    assert training.weights == 2 and training.untrained == {f"{kind} not trained": 1 for kind in kinds}


def test_weights_behind_nodes_that_move_their_numbers() -> None:
    """As exporters write them that fold no constants, and as pruning writes the scales of a normalisation."""
    text = """(float[N,4] x) => (float[N,3] y) <float[6,4] w, float[4] s, float[4] b, int64[2] pads = {0, 2}, float[2,6] r,
        float[1,6] t, int64[1] axis = {0}>
        { p = Transpose <perm = [1,0]> (w)  a = MatMul(x, p)  m = Pad(s, pads)  o = Pad(b, pads)
          n = LayerNormalization(a, m, o)  k = Concat <axis = 0> (r, t)  q = Transpose <perm = [1,0]> (k)
          y = MatMul(n, q) }"""
    rng = np.random.default_rng(0)
    data = {"x": rng.standard_normal((40, 4)).astype(np.float32), "labels": rng.integers(0, 3, 40)}
    model = build(text)
    result = onnxprune.finetune(model, data, epochs=2, rate=0.05)
    old, new = arrays(model), arrays(result.model)
    assert result.report.training.best is not None and result.report.training.weights == 5
    assert all(not np.array_equal(old[name], new[name]) for name in ("w", "s", "b", "r", "t"))


def test_weights_that_branches_read() -> None:
    text = """(float[N,4] x) => (float[N,3] y) <float[4,6] w, float[6,3] u, float[6,3] v, float none = {0}>
        { a = MatMul(x, w)  s = ReduceSum <keepdims = 0> (a)  c = Greater(s, none)
          y = If (c) <then_branch = t () => (float[N,3] p) { p = MatMul(a, u) },
                      else_branch = e () => (float[N,3] q) { q = MatMul(a, v) }> }"""
    rng = np.random.default_rng(0)
    data = {"x": rng.standard_normal((40, 4)).astype(np.float32), "labels": rng.integers(0, 3, 40)}
    assert onnxprune.finetune(build(text), data, epochs=1).report.training.weights == 3


def test_samples_that_nothing_can_be_learnt_from_are_told(pruned: onnx.ModelProto) -> None:
    """One sample that is not finite makes a step, or all that is judged, worth nothing."""
    broken = TEST["input"].copy()
    broken[3] = np.nan
    warnings = onnxprune.finetune(
        pruned, {**LABELLED, "input": broken, "more": TEST["labels"]}, epochs=1
    ).report.warnings
    assert "calibration data: input 'input' has values that are not finite in 1 sample of 450" in warnings
    assert "calibration data: array 'more' is neither an input nor labels, and is not used" in warnings


def test_labels_that_are_not_finite_are_told() -> None:
    model = build("(float[N,4] x) => (float[N,2] y) <float[4,2] w> { y = MatMul(x, w) }")
    x = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    labels = x[:, :2].copy()
    labels[[3, 7], 1] = np.nan, np.inf
    warnings = onnxprune.finetune(model, {"x": x, "labels": labels}, loss="mse", epochs=1).report.warnings
    assert "calibration data: labels have values that are not finite in 2 samples" in warnings


@pytest.mark.slow
def test_strict_writes_nothing(tmp_path: Any) -> None:
    result = onnxprune.finetune(MODEL, LABELLED, epochs=1, rate=3.0, strict=True)
    with pytest.raises(GateError, match="nothing surely better") as caught:
        result.save(tmp_path / "out.onnx")
    assert caught.value.hint == "without strict a model that comes with warnings is written"
    assert not (tmp_path / "out.onnx").exists()
