"""Samples of another scale than in training are told where no BatchNormalization is left; all others are not."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

import onnxprune
from onnxprune.pipeline import training_match
from onnxprune.report.report import Report, ScaleMismatch
from tests.ops.case import build

LAYERS = 4
NET = f"""(float[N,3,8,8] x) => (float[N,4] y)
    <float[16,3,3,3] w0, float[16] b0, {", ".join(f"float[16,16,3,3] w{i}, float[16] b{i}" for i in range(1, LAYERS))},
     float[4,16] w, float[4] b>
    {{ c0 = Conv <pads = [1,1,1,1]> (x, w0, b0)  r0 = Relu(c0)
    {"  ".join(f"c{i} = Conv <pads = [1,1,1,1]> (r{i - 1}, w{i}, b{i})  r{i} = Relu(c{i})" for i in range(1, LAYERS))}
    g = GlobalAveragePool(r{LAYERS - 1})  m = Flatten(g)  y = Gemm <transB = 1> (m, w, b) }}"""


def samples(count: int = 40) -> np.ndarray:
    """Images of values from 0 to 1 that differ in brightness."""
    rng = np.random.default_rng(0)
    bright = rng.uniform(0.2, 0.8, (count, 3, 1, 1))
    return np.clip(bright + 0.2 * rng.standard_normal((count, 3, 8, 8)), 0, 1).astype(np.float32)


@cache
def trained(scale: float = 1.0) -> onnx.ModelProto:
    """Every layer has, merged into it, the normalization of what it computes from `scale` times the samples.

    Its weights are independent numbers and something that stands out of these.
    """
    model = build(NET)
    tensors = {t.name: t for t in model.graph.initializer}
    rng = np.random.default_rng(1)
    probe = onnx.ModelProto()
    feeds = {"x": (scale * samples(64)).astype(np.float32)}
    for i in range(LAYERS):
        w, b = tensors[f"w{i}"], tensors[f"b{i}"]
        kernel = numpy_helper.to_array(w)
        taught = kernel.std() * rng.standard_normal((16, 1, 1, 1)) * rng.standard_normal(kernel.shape[1:])
        w.CopyFrom(numpy_helper.from_array((kernel + taught).astype(np.float32), w.name))
        b.CopyFrom(numpy_helper.from_array(np.zeros(16, np.float32), b.name))
        probe.CopyFrom(model)
        del probe.graph.output[:]
        probe.graph.output.append(onnx.ValueInfoProto(name=f"c{i}"))
        (found,) = ReferenceEvaluator(probe).run(None, feeds)
        mean, deviation = found.mean((0, 2, 3)), found.std((0, 2, 3))
        merged = numpy_helper.to_array(w) / deviation[:, None, None, None]
        shift = -mean / deviation + 0.3 * rng.standard_normal(16)
        w.CopyFrom(numpy_helper.from_array(merged.astype(np.float32), w.name))
        b.CopyFrom(numpy_helper.from_array(shift.astype(np.float32), b.name))
    return model


def run(array: np.ndarray, model: onnx.ModelProto | None = None) -> Report:
    given = trained() if model is None else model
    return onnxprune.prune(given, 0.5, repair="none", importance="l2", calib={"x": array}, time=False).report


def found(report: Report) -> ScaleMismatch | None:
    assert report.calibration is not None
    return report.calibration.scale


@pytest.mark.slow
@pytest.mark.parametrize(("power", "words"), [(4, "256 times as small"), (-4, "256 times as large")])
def test_another_scale_than_in_training_is_told(power: int, words: str) -> None:
    report = run((samples() * 4.0**power).astype(np.float32))
    told = [line for line in report.warnings if "preprocessed as in training" in line]
    assert len(told) == 1 and words in told[0]
    scale = found(report)
    assert scale is not None and scale.factor == 4.0**-power


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 1 / 255, 255.0])
def test_the_scale_of_training_is_right_whatever_it_is(scale: float) -> None:
    report = run((scale * samples()).astype(np.float32), trained(scale))
    assert not any("preprocessed" in line for line in report.warnings)
    told = found(report)
    assert told is not None and told.factor == 1 and told.given == told.best


@pytest.mark.slow
def test_weights_as_they_were_drawn_suit_no_scale() -> None:
    model, rng = build(NET), np.random.default_rng(2)
    for tensor in model.graph.initializer:
        drawn = rng.standard_normal(tuple(tensor.dims)) / np.sqrt(np.prod(tensor.dims[1:]))
        tensor.CopyFrom(numpy_helper.from_array(drawn.astype(np.float32), tensor.name))
    assert found(run((samples() / 256).astype(np.float32), model)) is None


@pytest.mark.slow
def test_weights_without_biases_tell_no_scale() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(trained())
    for t in model.graph.initializer:
        if t.name.startswith("b"):
            t.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(t)), t.name))
    told = found(run((255 * samples()).astype(np.float32), model))
    assert told is not None and told.given == pytest.approx(told.best, rel=1e-3)


@pytest.mark.slow
def test_a_run_of_few_samples_compares_no_scales() -> None:
    assert found(run(samples(training_match.FEWEST - 1))) is None


@pytest.mark.parametrize("limit", ["MAX_MACS", "MAX_FEATURES"])
def test_a_comparison_that_costs_too_much_is_left_out(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_match, limit, 1000)
    assert found(run(samples())) is None


@pytest.mark.slow
def test_fewer_samples_are_compared_of_a_model_that_costs_more(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = training_match.Plausibility.deviation

    def counted(self: training_match.Plausibility, batches: list[dict[str, np.ndarray]]) -> float:
        seen.append(len(batches))
        return original(self, batches)

    monkeypatch.setattr(training_match.Plausibility, "deviation", counted)
    run(samples(120))
    monkeypatch.setattr(training_match, "MACS", 0)
    run(samples(120))
    count = len(training_match.SCALES)
    assert seen == [training_match.MOST_SCALED] * count + [training_match.FEWEST_SCALED] * count
