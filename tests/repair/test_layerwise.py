"""Least-squares repair: exact where it can be, better where it cannot, and the same every time."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import onnxprune
from onnxprune.edit.remove import remove
from onnxprune.errors import InputError
from onnxprune.model.model import load
from onnxprune.pipeline.kept_indices import kept_indices
from onnxprune.repair import layerwise
from onnxprune.repair.layer_samples import LayerSamples
from onnxprune.repair.layerwise import Ridge
from onnxprune.repair.least_squares import Fit, fit
from onnxprune.statistics import moments
from onnxprune.statistics.moments import Moments
from tests.ops.case import build
from tests.support.oracle import analyzed, draw_removal
from tests.support.paths import MODELS

INDEX = {e["file"]: e for e in json.loads((MODELS / "INDEX.json").read_text())["models"]}


def accuracy(result: onnxprune.Result, name: str) -> float:
    entry = INDEX[name]
    session = ort.InferenceSession(result.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    with np.load(MODELS / entry["test"]) as data:
        scores = np.asarray(session.run([entry["output"]], {entry["input"]: data[entry["input"]]})[0])
        return float((scores.argmax(axis=1) == data[entry["labels_key"]]).mean())


def samples(seed: int, low: float = -np.inf) -> tuple[LayerSamples, LayerSamples, np.ndarray, np.ndarray]:
    """Samples of a layer of two groups, those held out, and the layer that made them."""
    rng = np.random.default_rng(seed)
    weight, bias = rng.standard_normal((2, 3, 5)), rng.standard_normal((2, 3))
    both = []
    for n in (400, 100):
        x = rng.standard_normal((2, n, 5)).astype(np.float32)
        y = (x @ weight.transpose(0, 2, 1) + bias[:, None]).astype(np.float32)
        both.append(LayerSamples(x, y, low=low))
    return both[0], both[1], weight, bias


def test_a_layer_that_is_off_is_found_again() -> None:
    rows, held, weight, bias = samples(0)
    found = fit(rows, held, weight + 0.5, bias - 1.0, penalties=(1e-8,))
    np.testing.assert_allclose(found.weight, weight, atol=1e-4)
    np.testing.assert_allclose(found.bias, bias, atol=1e-4)
    assert found.after < 1e-8 < found.before


def test_a_layer_that_is_right_is_left_alone() -> None:
    rows, held, weight, bias = samples(1)
    noisy = LayerSamples(rows.x, rows.y + np.random.default_rng(0).standard_normal(rows.y.shape).astype(np.float32))
    found = fit(noisy, held, weight, bias)
    assert found.penalty is None
    assert found.weight is weight


def test_errors_behind_a_rectifier_do_not_count() -> None:
    """Targets below zero bend away from any linear layer: plain least squares is led astray, the other is not."""
    rows, held, weight, bias = samples(2, low=0.0)
    bent = np.where(rows.y < 0, 4 * rows.y, rows.y).astype(np.float32)
    aware = fit(LayerSamples(rows.x, bent, low=0.0), held, weight + 1, bias, penalties=(1e-6,))
    plain = fit(LayerSamples(rows.x, bent), held, weight + 1, bias, penalties=(1e-6,))
    assert aware.penalty is not None
    assert plain.penalty is not None
    assert held.error(aware.weight, aware.bias) < 0.5 * held.error(plain.weight, plain.bias)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pt_resnet_bn.onnx", "pt_mobilenet.onnx", "pt_transformer.onnx"])
def test_calibrated_is_far_better_than_removal_alone(name: str) -> None:
    data = str(MODELS / INDEX[name]["calibration"])
    alone = onnxprune.prune(MODELS / name, 0.5, verify=False, repair="none")
    repaired = onnxprune.prune(MODELS / name, 0.5, verify=False, calib=data)
    assert accuracy(alone, name) < 0.7
    assert accuracy(repaired, name) > 0.95
    layers = repaired.report.repair
    assert all(r.after <= r.before for r in layers)
    assert any(r.penalty is not None for r in layers)


@pytest.mark.slow
def test_the_same_bytes_twice() -> None:
    data = str(MODELS / "digits_calib.npz")
    first, second = (
        onnxprune.prune(MODELS / "pt_resnet_bn.onnx", target={"macs": 0.5}, verify=False, calib=data, samples=64)
        for _ in range(2)
    )
    assert first.proto.SerializeToString(deterministic=True) == second.proto.SerializeToString(deterministic=True)
    assert first.report.targets["macs"].met


@pytest.mark.slow
def test_labels_are_reported_and_not_used(tmp_path: Path) -> None:
    with np.load(MODELS / "digits_calib.npz") as data:
        inputs = data["input"][:100]
    bare, labelled = tmp_path / "bare.npz", tmp_path / "labelled.npz"
    np.savez(bare, input=inputs)
    np.savez(labelled, input=inputs, labels=np.arange(100) % 10)
    results = [onnxprune.prune(MODELS / "pt_resnet_bn.onnx", 0.5, verify=False, calib=str(p)) for p in (bare, labelled)]
    assert results[0].proto.SerializeToString(deterministic=True) == results[1].proto.SerializeToString(
        deterministic=True
    )
    assert results[0].report.metric is None
    metric = results[1].report.metric
    assert metric.name == "top1" and metric.labelled and metric.samples == 15
    assert 0 <= metric.after <= 0.5  # the labels are made up


@pytest.mark.slow
def test_without_repair_weights_stay_and_scores_still_learn() -> None:
    data = str(MODELS / "digits_calib.npz")
    by_size = onnxprune.prune(MODELS / "pt_resnet_folded.onnx", 0.25, verify=False)
    by_data = onnxprune.prune(MODELS / "pt_resnet_folded.onnx", 0.25, verify=False, calib=data, repair="none")
    assert by_data.report.repair is None
    assert by_data.plan.removed != by_size.plan.removed
    again = onnxprune.apply(by_data.plan, MODELS / "pt_resnet_folded.onnx")
    assert again.proto.SerializeToString(deterministic=True) == by_data.proto.SerializeToString(deterministic=True)


@pytest.mark.parametrize("options", [{"repair": "calibrated"}, {"importance": "obs"}])
def test_what_needs_data_says_so(options: dict[str, str]) -> None:
    with pytest.raises(InputError, match="needs calibration data"):
        onnxprune.prune(MODELS / "pt_resnet_bn.onnx", 0.5, **options)


def test_the_error_on_constant_targets_is_a_share_of_their_mean_square() -> None:
    one = LayerSamples(np.ones((1, 1, 2), "f"), np.array([[[3.0, 4.0]]], "f"))
    weight, bias = np.zeros((1, 2, 2)), np.array([[3.0, 0.0]])
    assert one.error(weight, bias) == pytest.approx(16 / 25)
    two = LayerSamples(np.ones((1, 2, 2), "f"), np.array([[[3.0, 4.0], [1.0, 4.0]]], "f"))
    assert two.error(weight, bias) == pytest.approx((0 + 16 + 4 + 16) / (1 + 1))


WIDE = """(float[N,3,16,16] x) => (float[N,200,12,12] y)
<float[24,3,3,3] w1, float[24,1,3,3] w2, float[200,24,1,1] w3>
{ a = Conv(x, w1) b = Conv<group = 24>(a, w2) c = Relu(b) y = Conv(c, w3) }"""


@pytest.mark.slow
@pytest.mark.parametrize("importance", ["obs", "l2"])
def test_samples_of_a_layer_are_bounded_over_all_groups_and_outputs(
    importance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A depthwise layer has few columns and many groups, and a table of classes many outputs."""
    most = 2**16
    monkeypatch.setattr(moments, "MAX_BYTES", most)
    sizes: list[tuple[int, int]] = []  # bytes, and bytes of one row
    matrix, of = Ridge.matrix, Moments.of

    def spy(self: Ridge, key: str, rows: LayerSamples, held: LayerSamples, *rest: Any) -> Fit:
        both = [rows] if rows is held else [rows, held]
        for arrays in ([s.x for s in both], [s.y for s in both]):
            sizes.append((sum(a.nbytes for a in arrays), arrays[0][:, :1].nbytes))
        return matrix(self, key, rows, held, *rest)

    def observed(rows: np.ndarray) -> Moments:
        sizes.append((rows.nbytes, rows[:, :1].nbytes))
        return of(rows)

    monkeypatch.setattr(Ridge, "matrix", spy)
    monkeypatch.setattr(Moments, "of", observed)
    data = np.random.default_rng(0).standard_normal((16, 3, 16, 16)).astype(np.float32)
    onnxprune.prune(build(WIDE), 0.3, calib={"x": data}, importance=importance)
    assert len(sizes) > 6
    assert max(size - 20 * row for size, row in sizes) <= most  # rounded up to whole rows in each of the batches


@pytest.mark.slow
def test_memory_bounds_what_a_repair_holds() -> None:
    """Outputs of 4096 classes, 128 MiB of all samples, with an eighth of that to hold."""
    memory, rng = 2**24, np.random.default_rng(0)
    model = build("""(float[N,8] x) => (float[N,4096] y) <float[8,16] w, float[16,4096] v>
        { a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) }""")
    batches = [{"x": rng.standard_normal((256, 8)).astype(np.float32)} for _ in range(32)]
    pruned = analyzed(model)
    gone = draw_removal(pruned.coupling, 0.5, 0)
    kept = kept_indices(pruned.coupling, gone)
    remove(pruned.model, pruned.coupling, gone)
    tracemalloc.start()
    refits = layerwise.repair(load(model), pruned.model, kept, batches, len(batches), memory=memory)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert any(refit.penalty is not None for refit in refits)
    assert peak < 2 * memory


def test_samples_that_were_cut_are_joined_without_a_copy() -> None:
    x, y = (np.random.default_rng(i).standard_normal((2, 9, 3)).astype(np.float32) for i in range(2))
    whole = LayerSamples(x, y, y + 1, low=0.0)
    front, back = whole.cut(0, 6), whole.cut(6, 9)
    again, other = front.joined(back), back.joined(front)
    assert again.x is x and again.y is y and again.offset is whole.offset and again.low == 0
    assert np.array_equal(other.y, np.concatenate([y[:, 6:], y[:, :6]], axis=1))
    assert np.array_equal(whole.cut(1, 6).joined(back).x, x[:, 1:])


def test_targets_that_vary_by_rounding_alone_are_constant() -> None:
    """Their error is a share of their size: as a share of the rounding it would mean nothing."""
    x = np.ones((1, 8, 2), np.float32)
    y = (0.7 + 1e-7 * np.arange(8).reshape(1, 8, 1) % 2e-7).astype(np.float32)
    samples = LayerSamples(x, y)
    assert samples.error(np.full((1, 1, 2), 0.35), np.zeros((1, 1))) < 1e-12
    assert samples.error(np.zeros((1, 1, 2)), np.zeros((1, 1))) == pytest.approx(1.0)
