"""The metric of a run, in Python and on the command line, and the limit on what of it is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import onnxprune
from onnxprune.errors import DataError, GateError, InputError
from onnxprune.model.model import Model
from onnxprune.pipeline.metric import _kinds
from onnxprune.runtime.session import session
from tests.support.classifier import classifier, pruned, samples
from tests.support.commands import Cli, assert_refused, contents


def held_out_of(result: onnxprune.Result, given: dict[str, NDArray[Any]]) -> tuple[float, int]:
    """Top-1 of a result on all samples, and how many there are."""
    made = session(Model(result.proto)).run(None, {"x": given["x"]})[0].argmax(axis=1)
    return float((made == given["labels"]).mean()), len(made)


@pytest.mark.slow
def test_labels_are_measured_by_top1() -> None:
    """Before all are right; after, as many as a run of the result itself gives, within the error of the sample."""
    given = samples()
    result = pruned(0.75, calib=given)
    metric = result.report.metric
    assert metric is not None and (metric.name, metric.before, metric.samples) == ("top1", 1.0, 60)
    assert metric.after is not None and metric.drop is not None
    assert metric.drop.mean == pytest.approx(1 - metric.after)
    share, _ = held_out_of(result, given)
    assert metric.drop.low <= 1 - share <= metric.drop.high and share < 0.95
    assert pruned(0.75, calib=samples(labelled=False)).report.metric is None


@pytest.mark.slow
def test_a_limit_holds_out_half_of_the_samples() -> None:
    metric = pruned(0.5, calib=samples(), max_drop=0.05).report.metric
    assert metric is not None and metric.samples == 200


@pytest.mark.slow
def test_what_is_not_needed_to_learn_from_is_held_out() -> None:
    """Of many samples more than half."""
    metric = pruned(0.5, calib=samples(3000), max_drop=0.05).report.metric
    assert metric is not None and metric.samples == 3000 - 1024
    metric = pruned(0.5, calib=samples(3000), samples=1024, max_drop=0.05).report.metric
    assert metric is not None and metric.samples == 512


@pytest.mark.slow
def test_the_upper_bound_is_held_to_the_limit(tmp_path: Path) -> None:
    """A mean within the limit is not enough, and the reason says how many samples would tell."""
    free = pruned(0.6, calib=samples(), max_drop=1.0).report
    assert free.metric is not None and free.metric.drop is not None and free.metric.at_most is not None
    mean, bound = free.metric.drop.mean, free.metric.at_most
    assert 0 < mean < bound
    gate = free.gates["max-drop"]
    assert (gate.measured, gate.at_most, gate.samples, gate.metric) == (mean, bound, 200, "top1") and gate.met
    assert pruned(0.6, calib=samples(), max_drop=bound).stopped is None
    between = pruned(0.6, calib=samples(), max_drop=(mean + bound) / 2)
    assert between.stopped is not None and "with 90% confidence" in between.stopped
    assert "held-out samples could tell" in between.stopped
    with pytest.raises(GateError) as caught:
        between.save(tmp_path / "m.onnx")
    assert caught.value.exit_code == 5
    beyond = pruned(0.6, calib=samples(), max_drop=mean / 2, keep_anyway=True)
    (line,) = [w for w in beyond.report.warnings if "max-drop" in w]
    assert "is missed: top1 falls by" in line and "could tell" not in line


@pytest.mark.slow
def test_a_limit_without_labels_is_of_the_estimate() -> None:
    report = pruned(0.6, calib=samples(labelled=False), max_drop=0.5).report
    assert report.metric is not None and report.calibration is not None and report.calibration.decisions is not None
    lost = report.calibration.decisions.lost
    assert (report.metric.name, report.metric.labelled, report.metric.before) == ("accuracy", False, None)
    assert report.metric.drop == lost and report.metric.at_most is not None
    assert lost.mean < report.metric.at_most < lost.high
    assert report.gates["max-drop"].measured == lost.mean


def test_a_model_that_is_left_as_it_is_loses_nothing() -> None:
    for given in (samples(), samples(labelled=False)):
        report = pruned(0.0, calib=given, max_drop=0.5).report
        assert report.whole_because is not None and report.gates["max-drop"].met
        assert report.metric is not None and report.metric.at_most == 0.0


@pytest.mark.slow
def test_too_few_samples_are_refused_before_anything_is_pruned() -> None:
    """No model could be shown to be within a point on so few; with more, one can."""
    with pytest.raises(DataError, match=r"max-drop 0\.01 cannot be told with 50 of 100 samples") as caught:
        pruned(0.3, calib=samples(100), max_drop=0.01)
    more = int("".join(c for c in caught.value.hint if c.isdecimal()))
    assert pruned(0.03, calib=samples(more), max_drop=0.01).stopped is None
    assert pruned(0.3, calib=samples(100), max_drop=0.01, keep_anyway=True).report.gates["max-drop"].met is False
    with pytest.raises(DataError, match="3 are too few to hold any out"):
        pruned(0.3, calib=samples(3), max_drop=0.5)


@pytest.mark.slow
def test_labels_of_other_classes_are_noticed() -> None:
    """Where the original is no better than chance on them, a drop would mean nothing."""
    given = samples()
    given["labels"] = np.random.default_rng(2).integers(0, 4, 400)
    (line,) = [w for w in pruned(0.3, calib=given).report.warnings if "chance" in w]
    assert "do the labels belong to the classes" in line
    with pytest.raises(DataError, match="no better than chance"):
        pruned(0.3, calib=given, max_drop=0.5)


PICTURES = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,4,4] x) => (float[N,2] y)
<float[4,3,1,1] w = {1, 1, 1, -1, -1, -1, 1, 1, 1, -1, -1, -1}, float[4] b = {-1.5, 1.5, -1.5, 1.5},
 float[4,2] v = {0, 1, 1, 0, 0, 1, 1, 0}>
{ a = Conv (x, w, b)  h = Relu (a)  p = GlobalAveragePool (h)  f = Flatten (p)  y = MatMul (f, v) }
"""
"""Chooses class 1 for bright pictures."""


@pytest.mark.slow
def test_folders_of_pictures_are_labels(cli: Cli, tmp_path: Path) -> None:
    """Without an option; in another order of classes they cannot be right, and only a limit would need them."""
    image = pytest.importorskip("PIL.Image")
    for name, bright in (("dark", 60), ("light", 200)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(150):
            image.new("RGB", (4, 4), (bright + i % 40,) * 3).save(tmp_path / "set" / name / f"{i}.png")
    onnx.save(onnx.parser.parse_model(PICTURES), tmp_path / "net.onnx")
    words = [tmp_path / "net.onnx", "--ratio", 0.5, "--repair", "none", "--no-time", "--json", "--force"]
    ended = cli(*words, "--calib", tmp_path / "set", "--max-drop", 0.02)
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    assert (report["metric"]["before"], report["metric"]["after"], report["metric"]["samples"]) == (1.0, 1.0, 150)
    (tmp_path / "c.txt").write_text("light\ndark\n")
    turned = f"{tmp_path / 'set'},classes={tmp_path / 'c.txt'}"
    assert "no better than chance" in assert_refused(cli(*words, "--calib", turned, "--max-drop", 0.02))
    (tmp_path / "set" / "dark").rename(tmp_path / "set" / "night")
    ended = cli(*words, "--calib", tmp_path / "set")
    assert ended.code == 0 and json.loads(ended.out)["metric"] is None
    assert "warning: calibration data: names of folders are not used as labels: the original is right for" in ended.err


@pytest.mark.slow
def test_labels_that_fit_no_output_are_left_aside() -> None:
    given = samples() | {"labels": np.zeros((400, 3, 5))}
    report = pruned(0.3, calib=given).report
    assert report.metric is None
    (line,) = [w for w in report.warnings if "nothing is measured on the labels" in w]
    assert "metric top1 needs an output of scores of classes; shapes of a sample are scores [4]" in line
    with pytest.raises(DataError, match="metric top1 needs"):
        pruned(0.3, calib=given, max_drop=0.1)


def test_nothing_that_tells_the_accuracy() -> None:
    """An output that chooses no classes, without labels."""
    x = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    with pytest.raises(InputError, match="no output chooses classes"):
        onnxprune.prune(classifier(1), 0.3, calib={"x": x}, max_drop=0.5, repair="none")


@pytest.mark.slow
def test_a_missed_limit_stops_the_command(cli: Cli, tmp_path: Path) -> None:
    onnx.save(classifier(), tmp_path / "net.onnx")
    np.savez(tmp_path / "c.npz", **samples())
    words = [tmp_path / "net.onnx", "--ratio", 0.9, "--calib", tmp_path / "c.npz", "--no-time", "--repair", "none"]
    before = contents(tmp_path)
    ended = cli(*words, "--max-drop", 0.02)
    assert ended.code == 5 and contents(tmp_path) == before
    assert "MISSED" in ended.out and "- top1 on 200 held-out calibration samples: 100.00% before, " in ended.out
    assert ended.err.startswith("warning: max-drop is missed: top1 falls by ")
    anyway = cli(*words, "--max-drop", 0.02, "--keep-anyway")
    assert anyway.code == 1 and (tmp_path / "net.pruned.onnx").exists()


@pytest.mark.slow
def test_the_search_is_confirmed_on_samples_that_it_has_not_used() -> None:
    result = onnxprune.prune(
        classifier(),
        calib=samples(2000),
        samples=2000,
        max_drop=0.03,
        search=True,
        importance="l2",
        repair="none",
        time=False,
    )
    report = result.report
    assert report.search is not None and report.metric is not None and result.stopped is None
    assert report.metric.on == "held-out calibration samples that the search has not used"
    assert report.metric.samples == 500 and report.gates["max-drop"].met
    assert 0.2 < (report.search.found.ratio or 0.0) < 0.9  # half of the channels hardly matter
    trials = {t.ratio: t.gates["max-drop"] for t in report.search.trials}
    assert report.metric.drop is not None and trials[report.search.found.ratio] != report.metric.drop.mean
    share, _ = held_out_of(result, samples(2000))
    assert 1 - share <= 0.03 + 2 * np.sqrt(0.03 / 2000)


@pytest.mark.parametrize(
    ("labels", "kinds"),
    [
        (np.eye(4)[[0, 1, 2, 3, 0]], 4),
        (np.array([0, 3, 3]), 2),
        (np.array(["a", "b", "a"]), 2),
        (np.array([[0, 1, 255], [1, -1, 0]]), 2),
    ],
)
def test_classes_among_labels(labels: NDArray[Any], kinds: int) -> None:
    """Chance is one in as many: of one-hot labels two would be too few."""
    assert _kinds(labels) == kinds
