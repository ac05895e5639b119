"""How far outputs are from what they should be."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.verification.output_error import Errors
from tests.support.lanes import spread

MASKED = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,8,8] x) => (float[N,6] y)
<bool[1,6] mask = {1, 1, 0, 1, 1, 0}>
{
  a = Conv <pads = [1, 1, 1, 1]> (x, w1)
  b = Relu (a)
  c = GlobalAveragePool (b)
  d = Flatten (c)
  e = MatMul (d, w2)
  y = Where (mask, e, low)
}
"""


def masked() -> onnx.ModelProto:
    model = onnx.parser.parse_model(MASKED)
    rng = np.random.default_rng(0)
    arrays = {"w1": rng.standard_normal((16, 3, 3, 3)), "w2": rng.standard_normal((16, 6)), "low": np.array(-np.inf)}
    for name, array in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    return model


def test_errors_of_batches_add_up() -> None:
    rng = np.random.default_rng(0)
    wanted, made = rng.standard_normal((2, 3, 4, 5)), rng.standard_normal((2, 3, 4, 5))
    errors = Errors(2)
    for w, m in zip(wanted.transpose(1, 0, 2, 3), made.transpose(1, 0, 2, 3), strict=True):
        errors.add([w[0], np.arange(3), w[1]], [[m[0], np.arange(3) + 1, m[1]], [w[0], np.arange(3), w[1]]])
    each = [np.mean((w - m) ** 2) / w.var() for w, m in zip(wanted, made, strict=True)]
    assert errors.shares() == pytest.approx([np.mean(each), 0.0])


def test_errors_of_large_outputs_are_those_of_all_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared two positions at a time, of which the last ones are alone; some elements are not finite."""
    wanted, made = np.random.default_rng(0).standard_normal((2, 7, 5))
    wanted[3, 1] = -np.inf
    monkeypatch.setattr("onnxprune.verification.output_error.BLOCK", 10)
    errors = Errors(1)
    errors.add([wanted], [[made]])
    known = np.isfinite(wanted)
    assert errors.shares() == pytest.approx([np.mean((wanted - made)[known] ** 2) / wanted[known].var()])


def test_nothing_to_compare_is_no_error() -> None:
    errors = Errors(1)
    assert errors.shares() == [0.0]
    errors.add([np.arange(3)], [[np.arange(3) + 1]])
    assert errors.shares() == [0.0]


def test_what_should_not_be_finite_does_not_count() -> None:
    wanted = np.array([1.0, -np.inf, 3.0, np.nan, 5.0])
    near = np.array([1.5, -np.inf, 3.0, np.nan, 5.0])
    errors = Errors(2)
    errors.add([wanted], [[near], [np.where(wanted == 3, np.inf, near)]])
    assert errors.shares() == pytest.approx([0.25 / 8, np.inf])


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", spread([{"ratio": 0.5}, {"target": {"macs": 0.5}}, {"pattern": "weights=0.5", "global_ranking": True}])
)
def test_scores_that_are_masked_by_minus_infinity(how: dict[str, Any]) -> None:
    """They take part in nothing: the others are repaired and reported."""
    x = np.random.default_rng(1).standard_normal((64, 3, 8, 8)).astype(np.float32)
    made = onnxprune.prune(masked(), calib={"x": x}, **how)
    assert made.report.verified and any(r.penalty is not None for r in made.report.repair)
    assert 0 < made.report.calibration.relative_error < 0.5


FOUND = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,8] x) => (float[M] y) {
  h = MatMul(x, w1)
  r = Relu(h)
  e = MatMul(r, w2)
  zero = Constant<value = float {0.0}>()
  all = Constant<value = int64[1] {-1}>()
  positive = Greater(e, zero)
  flat = Reshape(positive, all)
  y = Compress(e, flat)
}
"""


def test_outputs_that_are_as_long_as_what_is_found() -> None:
    """Two models that find a different number of things have no distance, which ends neither repair nor plan."""
    model, rng = onnx.parser.parse_model(FOUND), np.random.default_rng(0)
    for name, shape in (("w1", (8, 32)), ("w2", (32, 4))):
        weights = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    result = onnxprune.prune(model, 0.5, calib={"x": rng.standard_normal((64, 8)).astype(np.float32)})
    assert result.report.verified and result.report.params.after < result.report.params.before
