"""Batches are small where a model makes much of a sample."""

from __future__ import annotations

import onnx
import pytest

from onnxprune.calibration import batch_size, open_samples
from onnxprune.calibration.batch_size import small_batches
from onnxprune.model.model import Model
from tests.calibration.cases import firsts, model, rows, sizes

WIDER = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,3] x) => (float[N] y)
{ wide = Concat <axis = 1> (x, x, x, x)  y = ReduceSum <keepdims = 0> (wide, axes) }"""
"""Twelve numbers of each sample of three."""


def wider() -> onnx.ModelProto:
    proto = onnx.parser.parse_model(WIDER.replace("(float[N] y)\n", "(float[N] y)\n<int64[1] axes = {1}>\n"))
    onnx.checker.check_model(proto)
    return proto


@pytest.mark.parametrize(("room", "expected"), [(8 * 12 * 4, [8, 2]), (4 * 12 * 4 + 1, [4, 4, 2]), (1, [1] * 10)])
def test_no_activation_of_a_batch_is_large(monkeypatch: pytest.MonkeyPatch, room: int, expected: list[int]) -> None:
    monkeypatch.setattr(batch_size, "LARGEST", room)
    samples = open_samples({"x": rows(10)}, wider(), batch=8)
    found = small_batches(Model(wider()), samples)
    assert sizes(samples) == [8, 2] and sizes(found) == expected
    assert firsts(found) == firsts(samples)


def test_a_fixed_batch_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_size, "LARGEST", 1)
    proto = model(("x", [4, 3]))
    assert sizes(small_batches(Model(proto), open_samples({"x": rows(10)}, proto))) == [4, 4]
