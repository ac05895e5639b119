"""Metrics that users bring: functions, registered names, named outputs and modules."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import onnxprune
from onnxprune.errors import InputError
from onnxprune.extensions import metrics
from tests.support.classifier import classifier, pruned, samples
from tests.support.commands import Cli, assert_refused


def share_right(outputs: dict[str, NDArray[Any]], labels: NDArray[Any]) -> float:
    """Top-1 as one number."""
    return float((outputs["scores"].argmax(axis=1) == labels).mean())


def each_right(outputs: dict[str, NDArray[Any]], labels: NDArray[Any]) -> NDArray[Any]:
    """Top-1 as one number a sample."""
    return outputs["scores"].argmax(axis=1) == labels


def share_wrong(outputs: dict[str, NDArray[Any]], labels: NDArray[Any]) -> float:
    return 1 - share_right(outputs, labels)


share_wrong.higher_is_better = False  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_function_is_a_metric() -> None:
    """One number, one for each sample, and an error that is better the lower: all lose the same."""
    expected = pruned(0.75, calib=samples()).report.metric
    assert expected is not None and expected.drop is not None and expected.drop.mean > 0
    for function in (share_right, each_right, share_wrong):
        metric = pruned(0.75, calib=samples(), metric=function).report.metric
        assert metric is not None and metric.name == function.__name__ and metric.drop is not None
        assert metric.drop.mean == pytest.approx(expected.drop.mean)
        assert metric.drop.high == pytest.approx(expected.drop.high, abs=0.01)  # by bootstrap, or without labels added
    assert metric.before == 0.0 and metric.higher_is_better is False


@pytest.mark.slow
def test_a_bootstrap_repeats_itself() -> None:
    first, second, other = (pruned(0.75, calib=samples(), metric=share_right, seed=s).report.metric for s in (0, 0, 1))
    assert first == second and first != other


def test_a_share_that_no_sample_moves_is_not_sure() -> None:
    """Of 45 samples that lose nothing, one in twenty of all may lose."""
    metric = pruned(0.75, calib=samples(300), metric=lambda outputs, labels: 0.5).report.metric
    assert metric is not None and metric.drop is not None and metric.samples == 45
    assert metric.at_most is not None and (1 - metric.at_most) ** 45 == pytest.approx(0.1)
    assert (metric.drop.low, metric.drop.mean, metric.drop.high) == pytest.approx((-3 / 45, 0.0, 3 / 45))
    error = pruned(0.75, calib=samples(300), metric=lambda outputs, labels: 7.0).report.metric
    assert error is not None and error.at_most == 0  # in a unit that nobody knows


def agreement(outputs: dict[str, NDArray[Any]], reference: dict[str, NDArray[Any]]) -> float:
    """Share of equal choices: of the outputs of both models."""
    return float((outputs["scores"].argmax(axis=1) == reference["scores"].argmax(axis=1)).mean())


def test_a_function_without_labels_has_the_outputs_of_both() -> None:
    report = pruned(0.75, calib=samples(labelled=False), metric=agreement).report
    assert report.metric is not None and report.calibration is not None and report.calibration.decisions is not None
    assert report.metric.before == 1.0 and not report.metric.labelled
    assert report.metric.after == report.calibration.decisions.agreement.mean < 1


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda outputs, labels: "good", "must give a number, or one for each of the 60 samples, not <U4"),
        (lambda outputs, labels: np.zeros((2, 3)), r"not float64 of shape \(2, 3\)"),
        (lambda outputs, labels: outputs["none"], "failed: KeyError: 'none'"),
    ],
)
def test_functions_that_fail(function: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        pruned(0.3, calib=samples(), metric=function)


@pytest.mark.slow
def test_a_metric_that_is_not_finite_meets_no_limit() -> None:
    report = pruned(0.3, calib=samples(), metric=lambda o, y: np.inf, max_drop=0.1).report
    assert report.metric is not None and report.metric.before is None and report.metric.drop is None
    assert report.gates["max-drop"].met is False
    assert any("is not finite" in line for line in report.warnings)
    assert json.loads(report.to_json())["metric"]["drop"] is None


@pytest.mark.slow
def test_outputs_that_become_nan_are_lost() -> None:
    """They are not left out as samples without a value are: those have none in the original either."""
    given, seen = samples(), []

    def later_broken(outputs: dict[str, NDArray[Any]], labels: NDArray[Any]) -> NDArray[Any]:
        seen.append(outputs["scores"].sum())
        values = np.ones(len(labels))
        values[0] = np.nan
        values[1] = 1.0 if seen[-1] == seen[0] else np.nan
        return values

    report = pruned(0.3, calib=given, metric=later_broken, max_drop=1.0).report
    assert report.metric is not None and report.metric.samples == 199 and report.metric.before == 1.0
    assert report.metric.after is None and report.gates["max-drop"].met is False


@pytest.fixture
def registered() -> Iterator[None]:
    onnxprune.metric("brier", higher_is_better=False, per_sample=True, needs_labels=True)(brier)
    yield
    metrics.metrics.remove("brier")


def brier(outputs: dict[str, NDArray[Any]], labels: NDArray[Any]) -> NDArray[Any]:
    """Squared error of the probabilities (Brier, 1950)."""
    p = np.exp(outputs["scores"])
    p = p / p.sum(axis=1, keepdims=True)
    return np.square(p - np.eye(4)[labels]).sum(axis=1)


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
def test_a_registered_metric_has_a_name(cli: Cli, tmp_path: Path) -> None:
    onnx.save(classifier(), tmp_path / "net.onnx")
    np.savez(tmp_path / "c.npz", **samples())
    words = [
        tmp_path / "net.onnx",
        "--ratio",
        0.5,
        "--calib",
        tmp_path / "c.npz",
        "--no-time",
        "--json",
        "--repair",
        "none",
    ]
    ended = cli(*words, "--metric", "brier", "--max-drop", 0.5)
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    assert report["metric"]["name"] == "brier" and report["options"]["metric"] == "brier"
    by_function = onnxprune.prune(
        tmp_path / "net.onnx", 0.5, calib=samples(), metric=brier, max_drop=0.5, repair="none"
    )
    assert by_function.report.metric is not None
    assert report["metric"]["drop"]["mean"] == by_function.report.metric.drop.mean  # type: ignore[union-attr]
    with pytest.raises(InputError, match="metric brier needs labels"):
        pruned(0.5, calib=samples(labelled=False), metric="brier")
    with pytest.raises(InputError, match="the package's own"):
        onnxprune.metric("top1")(brier)


@pytest.mark.slow
def test_a_metric_of_a_named_output_and_of_a_module(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(classifier(), "net.onnx")
    np.savez("c.npz", **samples())
    Path("metric_by_test.py").write_text(
        "def right(outputs, labels):\n    return outputs['scores'].argmax(axis=1) == labels\nnumber = 3\n"
    )
    words = ["net.onnx", "--ratio", 0.5, "--calib", "c.npz", "--no-time", "--json", "--force", "--repair", "none"]
    found = [cli(*words, "--metric", name) for name in ("top1:scores", "metric_by_test:right")]
    assert [ended.code for ended in found] == [0, 0]
    reports = [json.loads(ended.out)["metric"] for ended in found]
    assert [r["name"] for r in reports] == ["top1:scores", "metric_by_test:right"]
    assert reports[0]["after"] == reports[1]["after"]
    assert "no output 'score'" in assert_refused(cli(*words, "--metric", "top1:score"))
    assert "names no output" in assert_refused(cli(*words, "--metric", "top1:"))
    assert "is int, not a function" in assert_refused(cli(*words, "--metric", "metric_by_test:number"))
    Path("r.toml").write_text('metric = "metric_by_test:right"\n')
    assert "a recipe runs no code" in assert_refused(cli(*words, "--recipe", "r.toml"))
    Path("r.toml").write_text('metric = "top1:scores"\nmax-drop = 0.9\n')
    assert cli(*words, "--recipe", "r.toml").code == 0
