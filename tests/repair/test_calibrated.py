"""Calibrated repair: choices on samples that nothing was fitted to, and reports of what was really done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

import onnxprune
from onnxprune.model.model import Model
from onnxprune.repair import calibrated, joint, layerwise
from onnxprune.repair.layerwise import Refit
from onnxprune.repair.paired_test import is_better
from onnxprune.verification import output_error
from onnxprune.verification.output_error import SideBySide
from tests.support.lanes import spread
from tests.support.paths import MODELS

PERCEPTRON, DIGITS = MODELS / "sk_mlp.onnx", str(MODELS / "digits_calib_flat.npz")


def prune(samples: int, repair: str = "calibrated", **more: Any) -> onnxprune.Result:
    asked = {"importance": "l2", "verify": False, "calib": DIGITS, "samples": samples, "repair": repair}
    return onnxprune.prune(PERCEPTRON, 0.5, **{**asked, **more})


def weights(result: onnxprune.Result) -> dict[str, NDArray[Any]]:
    return {t.name: numpy_helper.to_array(t) for t in result.proto.graph.initializer}


def changed(result: onnxprune.Result, plain: onnxprune.Result) -> bool:
    one, other = weights(result), weights(plain)
    return one.keys() != other.keys() or any(not np.array_equal(one[n], other[n]) for n in one)


def test_errors_that_are_surely_smaller_are_better() -> None:
    rng = np.random.default_rng(0)
    before = rng.uniform(1, 2, 12)
    assert is_better(before, 0.8 * before)
    assert not is_better(before, before)
    assert not is_better(0.8 * before, before)
    assert not is_better(before, before * rng.permutation(np.r_[np.full(6, 0.8), np.full(6, 1.19)]))
    assert not is_better(np.r_[before, 1e6], np.r_[1.01 * before, 1.0])  # one sample of many
    assert not is_better(np.array([]), np.array([]))


def test_two_samples_say_little() -> None:
    before = np.array([1.0, 1.1])
    assert not is_better(before[:1], 0.6 * before[:1]) and is_better(before[:1], 0.4 * before[:1])
    assert not is_better(before, 0.6 * before) and is_better(before, 0.1 * before)


def test_errors_that_are_not_finite() -> None:
    finite, broken = np.ones(5), np.array([1, 1, np.inf, 1, 1])
    assert is_better(broken, finite)
    assert not is_better(finite, 0.1 * broken)
    assert not is_better(broken, broken)


@pytest.mark.slow
@pytest.mark.parametrize("samples", [2, 4, 16, 64, 256])
def test_candidates_are_judged_on_samples_that_they_were_not_fitted_to(
    samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the report is measured on samples that were used for neither."""
    fitted: set[bytes] = set()
    now: set[bytes] = set()
    judged: set[bytes] = set()

    def rows(batches: Iterable[Mapping[str, NDArray[Any]]]) -> set[bytes]:
        return {row.tobytes() for feeds in batches for row in feeds["input"]}

    def spy(function: Callable[..., Any], *, first: bool) -> Callable[..., Any]:
        def spied(*arguments: Any, **options: Any) -> Any:
            if first:
                now.clear()
            now.update(rows(arguments[3]))
            fitted.update(now)
            return function(*arguments, **options)

        return spied

    def measured(*arguments: Any, **options: Any) -> Any:
        found = rows(arguments[2])
        assert found and now and not found & now
        judged.update(found)
        return real(*arguments, **options)

    real = calibrated.measured
    monkeypatch.setattr(layerwise, "repair", spy(layerwise.repair, first=True))
    monkeypatch.setattr(joint, "repair", spy(joint.repair, first=False))
    monkeypatch.setattr(calibrated, "measured", measured)
    monkeypatch.setattr(calibrated, "FINAL_BELOW", 150)
    reported: set[bytes] = set()

    def side_by_side(models: Any, batches: Any, *rest: Any, **options: Any) -> SideBySide:
        reported.update(rows(batches))
        return compared(models, batches, *rest, **options)

    compared = output_error.side_by_side
    monkeypatch.setattr("onnxprune.pipeline.evaluate.side_by_side", side_by_side)
    result = prune(samples)
    assert judged and reported
    seen = judged | fitted
    if result.report.calibration.held_out:
        assert not reported & seen and len(seen) + len(reported) == samples
    else:
        assert samples < 4 and reported == seen


def ruin(name: str, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a stage say that it refitted a layer, and break the model."""

    def ruined(original: Model, pruned: Model, *_: Any, **__: Any) -> list[Refit]:
        for tensor in pruned.proto.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT:
                pruned.set_array(tensor, -pruned.array(tensor))
        return [Refit(name, 1e-2, 0.5, 0.1)]

    monkeypatch.setattr(module, "repair", ruined)
    monkeypatch.setattr(calibrated, "FINAL_BELOW", 150)


@pytest.mark.slow
@pytest.mark.parametrize("samples", [8, 64, 256])
def test_a_joint_refit_that_was_taken_back_is_not_reported_as_done(
    samples: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = prune(samples, "none")
    ruin("ruined", joint, monkeypatch)
    with caplog.at_level(logging.INFO, logger="onnxprune"):
        result = prune(samples)
    (chosen,) = (r.getMessage().split("taken: ")[1] for r in caplog.records if "taken: " in r.getMessage())
    assert "joint" not in chosen
    (entry,) = (r for r in result.report.repair if r.layer == "ruined")
    assert entry.penalty is None and entry.after == entry.before
    others = [r for r in result.report.repair if r is not entry]
    assert any(r.penalty is not None for r in others) == changed(result, plain) == (chosen != "none")


@pytest.mark.slow
@pytest.mark.parametrize("samples", spread([2, 1, 3, 64, 256, 8], 5))
def test_refits_that_were_all_taken_back_leave_the_pruned_model(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = prune(samples, "none")
    ruin("ruined", layerwise, monkeypatch)
    ruin("ruined together", joint, monkeypatch)
    result = prune(samples)
    assert result.proto.SerializeToString(deterministic=True) == plain.proto.SerializeToString(deterministic=True)
    assert all(r.penalty is None and r.after == r.before for r in result.report.repair)


@pytest.mark.slow
@pytest.mark.parametrize(("samples", "held_out"), [(1, 0), (3, 0), (4, 1), (20, 3)])
def test_the_report_says_whether_its_samples_were_held_out(samples: int, held_out: int) -> None:
    seen = prune(samples).report.calibration
    assert seen.held_out == bool(held_out)
    assert seen.samples == (held_out or samples)


@pytest.mark.slow
def test_a_single_sample_changes_nothing_where_inputs_cannot_be_made() -> None:
    assert not changed(prune(1), prune(1, "none"))


@pytest.mark.slow
def test_the_same_bytes_twice_from_few_samples() -> None:
    first, second = (prune(12, seed=3).proto.SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
