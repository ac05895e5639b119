"""Which of several allocations is taken, and how the next one is aimed at a time."""

from __future__ import annotations

import numpy as np
import pytest

import onnxprune
from onnxprune.allocation.selection import Selection
from onnxprune.options import Calibration, Options
from onnxprune.pipeline.analysis import Analysis, prunable
from onnxprune.pipeline.data import open_data
from onnxprune.pipeline.original import Original
from onnxprune.pipeline.prepare import opened
from onnxprune.pipeline.progress import Clock
from onnxprune.pipeline.time_target import COMPARED, WORSE, Trial, _best, _next
from onnxprune.pipeline.trial_refit import FEWEST, can_tell, refitted_error
from tests.support.paths import MODELS

MODEL = MODELS / "pt_resnet_bn.onnx"


def trial(measured: float, damage: float, number: int, series: int | None = None) -> Trial:
    """An allocation that removes one channel, of a series of its own unless one is given."""
    removed = np.zeros(16, dtype=bool)
    removed[number] = True
    return Trial(Selection(removed, [{"damage": damage}]), measured, measured, number if series is None else series)


def test_the_least_predicted_damage_within_the_time() -> None:
    trials = [trial(1.0, 0.3, 0), trial(0.9, 0.2, 1), trial(1.2, 0.1, 2)]
    assert _best(trials, 1.0, None) is trials[1]
    assert _best(trials, 0.5, None) is trials[1]  # none meets it: the fastest


def test_the_least_measured_damage_of_those_predicted_to_be_alike() -> None:
    trials = [trial(1.0, 0.3, 0), trial(0.9, 0.29, 1), trial(1.2, 0.1, 2), trial(0.8, 0.29 * WORSE + 0.01, 3)]
    judged: list[int] = []

    def judge(selected: Selection) -> float:
        judged.append(int(selected.removed.argmax()))
        return {0: 0.1, 1: 0.2, 2: 0.0, 3: 0.0}[judged[-1]]

    assert _best(trials, 1.0, judge) is trials[0]
    assert judged == [1, 0]  # neither the one that takes too long, nor the one that is predicted to be far worse


def test_one_allocation_is_judged_once_and_few_are() -> None:
    judged: list[Selection] = []
    same = [trial(1.0, 0.3, 0), trial(0.99, 0.3, 0)]
    assert _best(same, 1.0, lambda selected: judged.append(selected) or 0.0) in same and not judged  # type: ignore[func-returns-value]
    many = [trial(1.0, 0.3, number) for number in range(COMPARED + 3)]
    _best(many, 1.0, lambda selected: judged.append(selected) or 0.0)  # type: ignore[func-returns-value]
    assert len(judged) == COMPARED


def test_the_best_of_each_series_is_judged() -> None:
    judged: list[int] = []
    trials = [trial(1.0, 0.31, 0, 7), trial(0.9, 0.3, 1, 7), trial(0.9, 0.32, 2, 8)]
    _best(trials, 1.0, lambda selected: judged.append(int(selected.removed.argmax())) or 0.0)  # type: ignore[func-returns-value]
    assert judged == [1, 2]


@pytest.mark.parametrize("time", [lambda x: 0.3 + 0.7 * x, lambda x: 1.25 * x if x < 1 else 1.0, lambda x: x**2])
def test_a_time_is_found(time) -> None:  # type: ignore[no-untyped-def]
    """Whether times have a constant part, jump, or bend: a few steps come to within two percent."""
    amount, seen, goal = 0.6, [(1.0, 1.0)], 0.6
    for _ in range(5):
        if abs(time(amount) - goal) < 0.02 * goal:
            break
        seen.append((amount, time(amount)))
        amount = _next(seen, goal)
    assert time(amount) == pytest.approx(goal, rel=0.02)


def test_a_time_that_rises_at_first_is_found() -> None:
    """Slower than the original at the first amount: the next one is much smaller, then they lie on both sides."""
    amount = _next([(1.0, 1.0), (0.6, 1.4)], 0.6)
    assert 0 < amount < 0.3
    assert amount < _next([(1.0, 1.0), (0.6, 1.4), (amount, 0.4)], 0.6) < 0.6


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return onnxprune.analyze(MODEL)


@pytest.mark.slow
def test_a_short_refit_tells_more_removal_from_less(analysis: Analysis) -> None:
    """Nothing removed is no error; the refit repairs; the model of the analysis stays."""
    samples = np.random.default_rng(0).normal(size=(64, 1, 8, 8)).astype(np.float32)
    options = Options.of(ratio=0.5, calib={"input": samples}, repair="calibrated")
    prepared = opened(Original.of(MODEL), options, Clock(), analysis)
    assert can_tell(prepared.loaded.data, options)
    before = analysis.model.proto.SerializeToString()

    def error(ratio: float) -> float:
        removed = np.zeros(analysis.coupling.classes.elements, dtype=bool)
        for group in prunable(analysis, options.scope):
            removed[group.channels[: int(ratio * group.units)]] = True
        return refitted_error(prepared, analysis, Selection(removed, []))

    assert error(0.0) == pytest.approx(0.0, abs=1e-9)
    assert 0 < error(0.25) < error(0.75) <= 2
    assert analysis.model.proto.SerializeToString() == before


def test_few_samples_tell_nothing(analysis: Analysis) -> None:
    samples = np.zeros((FEWEST, 1, 8, 8), dtype=np.float32)
    data = open_data(analysis.model, Calibration(data={"input": samples}))
    assert not can_tell(data, Options.of(ratio=0.5, calib={"input": samples}, repair="calibrated"))
    assert not can_tell(None, Options.of(ratio=0.5))
