"""Calibration samples are described, and those that the model was not trained on are told."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.report.report import Report
from tests.ops.case import build

NET = """(float[N,3,6,6] x) => (float[N,2,6,6] y)
    <float[6,3,1,1] w, float[6] b, float[6] s, float[6] z, float[6] m, float[6] posv, float[2,6,1,1] u>
    { h = Conv(x, w, b)  n = BatchNormalization(h, s, z, m, posv)  r = Relu(n)  y = Conv(r, u) }"""


def samples(count: int = 40) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (0.5 + 0.25 * rng.standard_normal((count, 3, 6, 6))).astype(np.float32)


def trained() -> onnx.ModelProto:
    """Its BatchNormalization has the statistics of `samples`."""
    model, x = build(NET), samples(400)
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    h = np.einsum("nihw,oi->nohw", x, stored["w"][:, :, 0, 0]) + stored["b"][:, None, None]
    for t in model.graph.initializer:
        if t.name in ("m", "posv"):
            values = h.mean((0, 2, 3)) if t.name == "m" else h.var((0, 2, 3))
            t.CopyFrom(numpy_helper.from_array(values.astype(np.float32), t.name))
    return model


def run(array: np.ndarray, **more: np.ndarray) -> Report:
    data = {"x": array, **more}
    return onnxprune.prune(trained(), 0.5, repair="none", importance="l2", calib=data, time=False).report


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x: x, False),
        (lambda x: 255 * x, True),
        (lambda x: (x - 0.5) / 0.25, True),
        (lambda x: 0.5 * x, True),
        (lambda x: x + 1, True),
    ],
)
def test_other_preprocessing_than_in_training_is_told(change, told: bool) -> None:  # type: ignore[no-untyped-def]
    report = run(change(samples()).astype(np.float32))
    assert any("preprocessed as in training" in line for line in report.warnings) == told


def test_what_was_fed_is_described() -> None:
    x = samples()
    found = run(x).calibration
    assert found is not None
    seen = found.inputs["x"]
    assert seen.shape == [3, 6, 6]
    assert (seen.samples, seen.broken, seen.alike) == (40, 0, False)
    assert seen.low == x.min() and seen.high == x.max()
    assert seen.mean == pytest.approx(x.mean(), rel=1e-5)
    assert seen.deviation == pytest.approx(x.std(), rel=1e-4)


@pytest.mark.slow
def test_samples_that_teach_nothing_are_told() -> None:
    broken, equal = samples(), np.repeat(samples(1), 12, axis=0)
    broken[3, 0, 0, 0] = np.nan
    assert any("not finite in 1 sample of 40" in line for line in run(broken).warnings)
    assert "calibration data: all samples are equal" in run(equal).warnings
    assert any("too few samples to hold any back" in line for line in run(samples(2)).warnings)


def test_arrays_that_are_not_used_are_named() -> None:
    told = run(samples(), extra=np.zeros(40)).warnings
    assert "calibration data: array 'extra' is neither an input nor labels, and is not used" in told


def test_samples_lie_along_the_batch_axis() -> None:
    """Whichever that is: steps of time are no samples."""
    model = build(
        "(float[7,N,8] x) => (float[7,N,4] y) <float[8,6] w, float[6,4] v> { h = MatMul(x, w) y = MatMul(h, v) }"
    )
    x = np.random.default_rng(0).standard_normal((7, 40, 8)).astype(np.float32)
    x[:, :3] = np.nan
    report = onnxprune.prune(model, 0.5, repair="none", importance="l2", calib={"x": x}, time=False).report
    assert report.calibration is not None
    seen = report.calibration.inputs["x"]
    assert (seen.samples, seen.broken, seen.shape) == (40, 3, [7, 8])
