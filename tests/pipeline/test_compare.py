"""Models side by side, in Python and on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.errors import InputError
from onnxprune.report.comparison import ComparisonReport
from tests.support.commands import Cli, assert_refused
from tests.support.paths import MODELS

MLP, TEST = str(MODELS / "sk_mlp.onnx"), str(MODELS / "digits_test_flat.npz")
TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3] x) => (float[N,3] scores, int64[N] class)
{ scores = MatMul (x, w)  class = ArgMax <axis = 1, keepdims = 0> (scores) }
"""
X = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2, 0, 1]]
LABELS = X.argmax(axis=1)


def choosing(*columns: int) -> onnx.ModelProto:
    """Chooses for input i the class ``columns[i]``."""
    model = onnx.parser.parse_model(TEXT)
    weight = 4 * np.eye(3, dtype=np.float32)[list(columns)]
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    return model


def test_numbers_by_hand() -> None:
    """Of 8 samples the second model has class 2, two of them, wrong; the third all but class 0."""
    report = onnxprune.compare(
        choosing(0, 1, 2), choosing(0, 1, 1), choosing(0, 0, 1), calib={"x": X, "labels": LABELS}, runs=2
    )
    first, second, third = report.models
    assert [m.model for m in report.models] == ["model 1", "model 2", "model 3"]
    assert (report.on, report.samples, report.runs) == ("calibration samples", 8, 2)
    assert [m.params for m in report.models] == [9, 9, 9]
    assert first.drift == {} and first.decisions is None and first.speed == 1.0
    assert first.metric is not None and (first.metric.before, first.metric.after) == (1.0, 1.0)
    for model, right in ((second, 6 / 8), (third, 3 / 8)):
        assert model.metric is not None and model.decisions is not None and model.metric.drop is not None
        assert (model.metric.name, model.metric.before, model.metric.after) == ("top1", 1.0, right)
        assert model.metric.drop.mean == 1 - right
        assert model.metric.drop.low < 1 - right < model.metric.drop.high
        assert model.decisions.agreement.mean == right
        assert model.drift["class"].equal == right and model.drift["class"].rel_rms is None
        assert model.latency.wall > 0 and model.speed > 0
    assert second.drift["scores"].rel_rms == pytest.approx(np.sqrt(2 * 2 / 8))
    assert ComparisonReport.from_dict(report.to_dict()) == report


def test_without_labels_and_without_data() -> None:
    report = onnxprune.compare(choosing(0, 1, 2), choosing(0, 1, 1), calib={"x": X}, runs=1)
    assert report.models[1].metric is None and report.models[1].decisions is not None
    assert report.models[1].decisions.agreement.mean == 0.75
    report = onnxprune.compare(choosing(0, 1, 2), choosing(0, 1, 2), runs=1)
    assert (report.on, report.samples) == ("synthetic inputs", None)
    assert report.models[1].drift["scores"].max_abs == 0 and report.models[1].drift["class"].equal == 1.0


@pytest.mark.slow
def test_metrics_of_ones_own() -> None:
    def distance(outputs: dict[str, Any], other: dict[str, Any]) -> float:
        return float(np.abs(outputs["scores"] - other["scores"]).mean())

    distance.higher_is_better = False  # type: ignore[attr-defined]
    report = onnxprune.compare(choosing(0, 1, 2), choosing(0, 1, 1), calib={"x": X}, metric=distance, runs=1)
    metric = report.models[1].metric
    assert metric is not None and metric.before == 0 and metric.after == pytest.approx(2 * 2 * 4 / 24)
    report = onnxprune.compare(MLP, MLP, calib=TEST, metric="auc", samples=100, runs=1)
    assert report.models[1].metric is not None and report.models[1].metric.samples == 100
    assert report.models[1].metric.drop is not None and report.models[1].metric.drop.mean == 0


def test_refusals() -> None:
    one = choosing(0, 1, 2)
    with pytest.raises(InputError, match="nothing to compare"):
        onnxprune.compare(one)
    with pytest.raises(InputError, match="metric is measured on calibration data"):
        onnxprune.compare(one, one, metric="top1")
    with pytest.raises(InputError, match="metric top1 needs labels"):
        onnxprune.compare(one, one, calib={"x": X}, metric="top1", runs=1)
    with pytest.raises(InputError, match="there are several"):
        onnxprune.compare(one, one, one, plan=onnxprune.prune(one, 0.0, verify=False, time=False).plan)
    more = choosing(0, 1, 2)
    more.graph.output.append(onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3]))
    with pytest.raises(InputError, match="model 2: has the outputs scores, class, x"):
        onnxprune.compare(one, more, calib={"x": X}, runs=1)
    with pytest.raises(InputError, match="runs must be at least 1"):
        onnxprune.compare(one, one, runs=0)


@pytest.mark.slow
def test_what_a_plan_took_of_outputs() -> None:
    result = onnxprune.prune(MLP, 0.5, shrink="probabilities", repair="none", time=False)
    report = onnxprune.compare(MLP, result.proto, plan=result.plan, calib=TEST, runs=1)
    assert report.models[1].drift["probabilities"].rel_rms is not None


@pytest.mark.slow
def test_the_command_line(cli: Cli, model: Path, tmp_path: Path) -> None:
    assert cli(model, "--ratio", 0.5, "--repair", "none", "--quiet").code == 0
    pruned = model.parent / "net.pruned.onnx"
    data = json.loads(cli("compare", model, pruned, model, "--runs", 2, "--json").out)
    assert [m["params"] for m in data["models"]] == [2336, 1168, 2336]
    assert [m["model"] for m in data["models"]] == [str(model), str(pruned), str(model)]
    assert data["models"][1]["drift"]["y"]["rel_rms"] > 0.1 and data["models"][2]["drift"]["y"]["max_abs"] == 0
    assert all(m["latency"]["wall"] > 0 for m in data["models"]) and data["runs"] == 2
    shown = cli("compare", model, pruned, "--runs", 1).out
    assert "time of a run" in shown and "On synthetic inputs:" in shown and "1.17 k (50.0%)" in shown
    assert "no such file" in assert_refused(cli("compare", model, "none.onnx"))
    assert "--runs" in assert_refused(cli("compare", model, pruned, "--runs", 0))
    assert "B is missing" in assert_refused(cli("compare", model))
    x = np.random.default_rng(0).normal(size=(12, 3, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "c.npz", x=x, labels=np.arange(12))
    ended = cli("compare", model, pruned, "--calib", tmp_path / "c.npz", "--samples", 10, "--runs", 1)
    assert ended.code == 0 and "On 10 calibration samples:" in ended.out and "drift (rel rms) of y" in ended.out
    assert ended.err.startswith("warning: nothing is measured on the labels: metric top1 needs an output")


def test_the_table(cli: Cli, tmp_path: Path) -> None:
    """With labels: the metric of each, and what is lost with its interval."""
    for name, columns in (("a", (0, 1, 2)), ("b", (0, 1, 1))):
        onnx.save(choosing(*columns), tmp_path / f"{name}.onnx")
    np.savez(tmp_path / "c.npz", x=X, y=LABELS)
    given = [tmp_path / "a.onnx", tmp_path / "b.onnx", "--calib", tmp_path / "c.npz"]
    lines = {line.split("  ")[0]: line for line in cli("compare", *given).out.splitlines()}
    assert lines["top1"].split()[1:] == ["100.00%", "75.00%"]
    assert lines["- lost"].split()[2] == "25.00%"
    assert lines["equal classes of class"].split()[-1] == "75.0%"


def test_labels_of_a_stream(tmp_path: Path) -> None:
    """They are known at its end only."""
    a, b = choosing(0, 1, 2), choosing(0, 2, 1)
    feeds = [{"x": x[None], "labels": np.array([y])} for x, y in zip(X, LABELS, strict=True)]
    streamed = onnxprune.compare(a, b, calib=lambda: iter(feeds), runs=1)
    whole = onnxprune.compare(a, b, calib={"x": X, "labels": LABELS}, runs=1)
    assert [m.metric for m in streamed.models] == [m.metric for m in whole.models] and streamed.models[1].metric


def test_classes_are_compared_as_classes() -> None:
    """Where an output holds what was chosen, its drift is the share that is the same, not that of the scores."""
    report = onnxprune.compare(choosing(0, 1, 2), choosing(0, 1, 1), calib={"x": X}, runs=1)
    drift = report.models[1].drift["class"]
    assert (drift.equal, drift.rel_rms) == (0.75, None)
