"""Measuring a model on sliced copies."""

from __future__ import annotations

import numpy as np
import pytest

import onnxprune
from onnxprune.coupling.groups import Grade
from onnxprune.engines.times import Times
from onnxprune.errors import InputError, RunError
from onnxprune.model.model import Model
from onnxprune.pipeline import latency
from onnxprune.pipeline.analysis import Analysis
from onnxprune.runtime.io_slices import IoSlices
from tests.ops.case import build
from tests.support.paths import MODELS


class Parameters:
    """An engine whose time is the number of parameters; it may refuse some copies."""

    name = "parameters"

    def __init__(self, refused: tuple[int, ...] = ()) -> None:
        self.calls, self.refused, self.whole = 0, refused, 0

    def milliseconds(self) -> float:
        return float(self.whole)

    def ratio(self, copy: Model, io_slices: IoSlices, seconds: float = 1.0) -> float:
        size = sum(int(np.prod(t.dims)) for t in copy.proto.graph.initializer)
        self.whole = self.whole or size
        self.calls += 1
        if self.calls - 1 in self.refused:
            raise RunError("this copy does not run")
        return size / self.whole

    def kernels(self, copy: Model, io_slices: IoSlices) -> list[tuple[str, float]]:
        return []


@pytest.fixture
def analysis() -> Analysis:
    return onnxprune.analyze(MODELS / "pt_resnet_bn.onnx")


def times(analysis: Analysis, engine: Parameters, before: Times | None = None, copies: int = 6) -> Times:
    groups = [g for g in analysis.groups if g.grade == Grade.EXACT]
    return latency.measure(analysis, groups, engine, {"x": [1]}, copies=copies, before=before)


@pytest.mark.slow
def test_copies_are_smaller_by_what_they_lost(analysis: Analysis) -> None:
    content = analysis.model.proto.SerializeToString()
    found = times(analysis, Parameters())
    assert found.rows[0].removed == {} and found.rows[0].ratio == 1.0
    assert len(found.rows) == 7 and all(row.ratio < 1 for row in found.rows[1:])
    assert analysis.model.proto.SerializeToString() == content


@pytest.mark.slow
def test_what_was_measured_is_not_measured_again(analysis: Analysis) -> None:
    """A call that was ended after some copies goes on with the others, and finds the same."""
    whole = times(analysis, Parameters())
    again = Parameters()
    partly = Times(**{**vars(whole), "rows": whole.rows[:4]})
    again.whole = int(whole.milliseconds)
    assert times(analysis, again, partly) == whole and again.calls == 3
    idle = Parameters()
    assert times(analysis, idle, whole) == whole and idle.calls == 0


def test_widths_that_come_twice_are_measured_once() -> None:
    """A model of few channels has fewer widths than there are copies."""
    small = onnxprune.analyze(
        build("(float[N,2] x) => (float[N,2] y) <float[2,3] w, float[3,2] v> { h = MatMul(x, w) y = MatMul(h, v) }")
    )
    whole = times(small, Parameters(), copies=12)
    assert len({str(row.removed) for row in whole.rows}) < len(whole.rows)
    idle = Parameters()
    assert times(small, idle, whole, copies=12) == whole and idle.calls == 0


@pytest.mark.slow
def test_other_times_are_not_continued(analysis: Analysis) -> None:
    whole = times(analysis, Parameters())
    for other in ({"engine": "another"}, {"model": "another"}, {"input_shapes": {"x": [2]}}):
        with pytest.raises(InputError, match="belong to another model, engine or shape"):
            times(analysis, Parameters(), Times(**{**vars(whole), **other}))


@pytest.mark.slow
def test_a_copy_that_does_not_run_is_left_out(analysis: Analysis) -> None:
    assert len(times(analysis, Parameters(refused=(2, 3))).rows) == 5
    with pytest.raises(RunError, match="does not run"):
        times(analysis, Parameters(refused=(0,)))
    with pytest.raises(InputError, match="no sliced copy"):
        times(analysis, Parameters(refused=tuple(range(1, 9))))


@pytest.mark.slow
def test_times_are_data(analysis: Analysis) -> None:
    found = times(analysis, Parameters())
    assert Times.from_json(found.to_json()) == found
    assert repr(found).startswith("Times(") and len(repr(found)) < 120


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version": 1}',
        '{"version":1,"model":"m","engine":"e","device":"d","milliseconds":0,"units":{},"input_shapes":{},"rows":[]}',
        '{"version":1,"model":"m","engine":"e","device":"d","milliseconds":1,"units":{"g":2},"input_shapes":{},'
        '"rows":[{"removed":{"g":2},"ratio":1,"nodes":{}}]}',
        '{"version":1,"model":"m","engine":"e","device":"d","milliseconds":1,"units":{"g":2},"input_shapes":{},'
        '"rows":[{"removed":{},"ratio":-1,"nodes":{}}]}',
    ],
)
def test_what_is_no_times(text: str) -> None:
    with pytest.raises(InputError, match="no times"):
        Times.from_json(text)
    with pytest.raises(InputError, match="version"):
        Times.from_json('{"version": 9}')
