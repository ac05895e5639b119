"""What held-out samples say of a pruned model, and where they are too few what the others do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onnxprune.api import pruning
from onnxprune.model.model import Model, load
from onnxprune.options import Calibration
from onnxprune.pipeline.data import CalibrationSplit, open_data
from onnxprune.pipeline.evaluate import evaluate
from onnxprune.report.report import CalibrationReport
from onnxprune.report.warnings import warnings
from onnxprune.runtime.io_slices import WHOLE
from onnxprune.verification.decisions import Decisions, Estimate
from tests.support.paths import MODELS

MLP, DATA = str(MODELS / "sk_mlp.onnx"), str(MODELS / "digits_test_flat.npz")


def split(samples: int) -> CalibrationSplit:
    found = open_data(load(MLP), Calibration(DATA, samples))
    assert found is not None and found.held_out
    return found


def pruned(ratio: float) -> Model:
    return Model(pruning.prune(MLP, ratio, repair="none", importance="random", verify=False, time=False).proto)


def test_few_samples_are_helped_by_those_that_were_learned_from() -> None:
    data, other = split(100), pruned(0.3)
    report = evaluate(load(MLP), other, data, WHOLE, learned=True).report
    again = evaluate(load(MLP), other, CalibrationSplit(data.fit, data.fit), WHOLE).report
    assert report.decisions is not None and again.decisions is not None
    assert not report.decisions.lost.beyond_doubt and report.learned == again.decisions.lost
    assert evaluate(load(MLP), other, data, WHOLE).report.learned is None


@pytest.mark.parametrize(("lost", "said"), [(0.04, True), (0.01, False)])
def test_a_loss_even_on_those_is_warned_of(lost: float, said: bool) -> None:
    held, learned = Estimate(0.03, -0.01, 0.07), Estimate(lost, lost - 0.01, lost + 0.01)
    found = CalibrationReport(40, True, 0.9, Decisions("y", Estimate(0.9, 0.8, 0.95), held), learned)
    plan = pruning.prune(MLP, 0.3, repair="none", verify=False, time=False).report
    report = replace(plan, calibration=found, verified=True)
    line = f"accuracy is lost: {100 * lost:.1f}% (3.0 to 5.0%) even on samples that were learned from"
    assert warnings(report) == ([line] if said else [])


def test_they_are_not_asked_where_held_out_samples_tell() -> None:
    """Of a model that surely lost much, and of one that surely lost little."""
    for ratio, samples in ((0.95, 450), (0.05, 450)):
        data, other = split(samples), pruned(ratio)
        report = evaluate(load(MLP), other, data, WHOLE, learned=True).report
        assert report.decisions is not None and report.learned is None, ratio
        assert report.decisions.lost.beyond_doubt == (ratio > 0.5)
