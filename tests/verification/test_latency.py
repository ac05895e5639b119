"""Latency: what is timed, how often, and that the ratio is that of the work."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.errors import RunError
from onnxprune.model.model import Model
from onnxprune.pipeline.time import narrowed_layers
from onnxprune.runtime.session import runnable
from onnxprune.verification import latency as timing
from onnxprune.verification.check import time_models
from tests.support.commands import tiny
from tests.support.paths import MODELS
from tests.support.text_models import text_model


def product(width: int) -> onnx.ModelProto:
    """A matrix product whose work grows with the width."""
    return text_model(
        np.random.default_rng(0), "h = MatMul(x, w) y = MatMul(h, v)", "float[1,512] x", "float[1,8] y",
        w=(512, width), v=(width, 8),
    )  # fmt: skip


@pytest.mark.slow
def test_the_ratio_is_that_of_the_work() -> None:
    """A model against itself takes as long; one of a quarter of a large product much less."""
    same, less = (time_models(product(8192), product(width)) for width in (8192, 2048))
    assert not isinstance(same, str) and not isinstance(less, str)
    assert 0.8 < same.ratio < 1.25
    assert 0.1 < less.ratio < 0.5
    assert same.before.low <= same.before.wall <= same.before.high
    assert same.runs >= timing.FEWEST


def test_slow_models_are_run_as_often_as_is_needed_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SECONDS", 0.0)
    found = time_models(product(64), product(32))
    assert not isinstance(found, str)
    assert found.runs == timing.FEWEST


def test_a_model_that_cannot_be_run_has_no_latency() -> None:
    model = product(64)
    model.graph.node[0].op_type, model.graph.node[0].domain = "Nonsense", "nowhere"
    model.opset_import.append(onnx.helper.make_opsetid("nowhere", 1))
    found = time_models(model, model)
    assert isinstance(found, str)
    assert "nowhere" in found


def test_a_run_that_fails_says_so() -> None:
    with runnable(product(64)) as ready:
        session = ready.session()
        with pytest.raises(RunError):
            timing.latency(session, session, ["y"], [{"x": np.ones((1, 3), np.float32)}] * 2, threads=1)


def test_layers_that_lost_an_even_width_are_counted() -> None:
    """Of 16 channels 12 are left: one layer is narrower and uneven; of 8, which are even."""
    for left, uneven in ((12, 1), (8, 0)):
        assert narrowed_layers(Model(product(16)), Model(product(left))) == (1, uneven)
    assert narrowed_layers(Model(product(12)), Model(product(10))) == (1, 0)  # it was not even before


def test_the_report_has_it_unless_told_otherwise() -> None:
    made = onnxprune.prune(tiny(), 0.5, repair="none").report
    assert made.latency is not None
    assert made.latency.threads == 1
    assert "time" in made.seconds
    for options in ({"time": False}, {"verify": False}):
        without = onnxprune.prune(tiny(), 0.5, repair="none", **options).report  # type: ignore[arg-type]
        assert without.latency is None
        assert without.untimed_because is None
        assert "time" not in without.seconds


def test_a_model_that_stays_whole_is_not_timed() -> None:
    assert onnxprune.prune(MODELS / "sk_mlp.onnx", 0.001, repair="none").report.latency is None
