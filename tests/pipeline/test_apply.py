"""A plan on another checkpoint: repaired with data, and without data a warning that nothing was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.errors import InputError
from onnxprune.model.model import Model
from onnxprune.runtime.session import session
from onnxprune.verification.output_error import relative_errors
from tests.support.classifier import classifier, pruned, samples
from tests.support.commands import Cli, assert_refused, tiny
from tests.support.paths import MODELS

MLP, DIGITS, TEST = (str(MODELS / name) for name in ("sk_mlp.onnx", "digits_calib_flat.npz", "digits_test_flat.npz"))
DATA = samples(96, labelled=False)


def top1(model: onnx.ModelProto) -> float:
    with np.load(TEST) as data:
        x, labels = data[next(k for k in data if k != "labels")], data["labels"]
    inputs = {model.graph.input[0].name: x}
    probabilities = session(Model(model)).run(["probabilities"], inputs)[0]
    return float((np.asarray(probabilities).argmax(axis=1) == labels).mean())


def other_checkpoint() -> onnx.ModelProto:
    """The same function with other weights: hidden channels in another order and of another scale."""
    model = onnx.load(MLP)
    rng = np.random.default_rng(0)
    tensors = {t.name: t for t in model.graph.initializer}
    for suffix, after in (("", "1"), ("1", "2")):
        names = (f"coefficient{suffix}", f"intercepts{suffix}", f"coefficient{after}")
        weight, bias, reader = (numpy_helper.to_array(tensors[name]) for name in names)
        order, scale = rng.permutation(len(reader)), rng.uniform(0.5, 2, len(reader)).astype(np.float32)
        moved = (weight[:, order] * scale, bias[:, order] * scale, reader[order] / scale[:, None])
        for name, values in zip(names, moved, strict=True):
            tensors[name].CopyFrom(numpy_helper.from_array(values, name))
    return model


@pytest.mark.slow
def test_a_plan_with_data_gives_what_the_run_gave() -> None:
    """Byte for byte on the model that it was made of, repair included."""
    made = onnxprune.prune(classifier(), 0.5, calib=DATA, time=False)
    again = onnxprune.apply(made.plan, classifier(), calib=DATA)
    assert again.proto.SerializeToString(deterministic=True) == made.proto.SerializeToString(deterministic=True)
    assert again.report.repair == made.report.repair
    assert not any("repaired" in line for line in again.report.warnings)
    assert again.report.calibration == made.report.calibration
    bare = onnxprune.apply(made.plan, classifier())
    assert bare.proto != made.proto and bare.report.repair is None
    (line,) = [line for line in bare.report.warnings if "repaired" in line]
    assert line.startswith("nothing was repaired, since no calibration data were given")


@pytest.mark.slow
def test_another_checkpoint_is_repaired() -> None:
    """Where the plan removes what matters there, data bring most of it back."""
    plan = onnxprune.prune(MLP, 0.7, calib=DIGITS, samples=128, time=False).plan
    other = other_checkpoint()
    assert top1(other) == pytest.approx(top1(onnx.load(MLP)))
    bare, repaired = onnxprune.apply(plan, other), onnxprune.apply(plan, other, calib=DIGITS)
    assert top1(bare.proto) < 0.8 < 0.93 < top1(repaired.proto)


@pytest.mark.slow
def test_a_plan_edited_by_hand_is_repaired_and_reported_as_it_is() -> None:
    """Two channels are taken back in all that they slice: the report tells of the others, and repair makes up for them."""
    made = pruned(0.75)
    data = json.loads(made.plan.to_json())
    for axes in data["removed"].values():
        for indices in axes.values():
            del indices[-2:]
    edited = onnxprune.Plan.from_json(json.dumps(data))
    bare, repaired = onnxprune.apply(edited, classifier()), onnxprune.apply(edited, classifier(), calib=DATA)
    for found in (bare, repaired):
        assert [list(t.dims) for t in found.proto.graph.initializer][:2] == [[8, 10], [10, 4]]
        assert (found.report.channels.before, found.report.channels.after) == (32, 10)
        assert [g.removed for g in found.report.groups if g.removed] == [data["removed"]["w1"]["1"]]
        assert found.plan.removed == edited.removed
    errors = [relative_errors(Model(classifier()), [Model(found.proto)], [DATA])[0] for found in (bare, repaired)]
    assert errors[1] < 0.5 * errors[0]
    del data["removed"]["w2"]["0"][0]
    with pytest.raises(InputError, match="removes only a part of what is tied together"):
        onnxprune.apply(onnxprune.Plan.from_json(json.dumps(data)), classifier(), calib=DATA)


@pytest.mark.slow
def test_labels_are_measured() -> None:
    plan = pruned().plan
    report = onnxprune.apply(plan, classifier(), calib=samples(), metric="auc").report
    assert report.metric is not None and report.metric.name == "auc" and report.metric.labelled
    report = onnxprune.apply(plan, classifier(), calib=samples(), repair="none").report
    assert report.metric is not None and report.metric.name == "top1"
    assert report.repair is None and not any("repaired" in line for line in report.warnings)  # none was asked for


@pytest.mark.slow
def test_a_plan_without_channels_needs_no_repair() -> None:
    """Zeros are said to be as they are; a plan that changes nothing says nothing."""
    zeros = onnxprune.prune(classifier(), pattern="weights=0.5", calib=DATA, time=False).plan
    for calib in (DATA, None):  # data would not repair it either
        lines = onnxprune.apply(zeros, classifier(), calib=calib).report.warnings
        (line,) = [line for line in lines if "repair" in line]
        assert line.startswith("nothing was repaired, since the plan removes no channels") and "calib" not in line
    nothing = onnxprune.prune(classifier(), 0.0, time=False).plan
    assert not any("repaired" in line for line in onnxprune.apply(nothing, classifier()).report.warnings)


def test_without_data_a_map_is_at_risk_as_in_a_run() -> None:
    made = onnxprune.prune(tiny(), 0.5, repair="none", time=False)
    again = onnxprune.apply(made.plan, tiny(), repair="none")
    assert again.report.many_positions == made.report.many_positions == ["y"]
    assert again.report.warnings == made.report.warnings
    assert made.report.warnings[0].startswith("accuracy unknown, and at risk: y has values for many positions")


def test_refusals() -> None:
    plan = pruned().plan
    with pytest.raises(InputError, match="repair 'calibrated' needs calibration data"):
        onnxprune.apply(plan, classifier(), repair="calibrated")
    with pytest.raises(InputError, match="metric is measured on calibration data"):
        onnxprune.apply(plan, classifier(), metric="top1")
    with pytest.raises(InputError, match="unknown repair 'some'"):
        onnxprune.apply(plan, classifier(), repair="some")
    with pytest.raises(InputError, match="no such file"):
        onnxprune.apply(plan, classifier(), calib="none.npz")


@pytest.mark.slow
def test_the_command_line(cli: Cli, tmp_path: Path) -> None:
    onnx.save(classifier(), tmp_path / "net.onnx")
    np.savez(tmp_path / "c.npz", **DATA)
    model, data = tmp_path / "net.onnx", tmp_path / "c.npz"
    words = [model, "--ratio", 0.5, "--calib", data, "--no-time"]
    assert cli(*words, "--plan", tmp_path / "p.json", "-o", tmp_path / "a.onnx").code == 0
    given = ["apply", tmp_path / "p.json", model, "-o", tmp_path / "b.onnx"]
    ended = cli(*given, "--calib", data, "--json")
    assert ended.code == 0, ended.err
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    report = json.loads(ended.out)
    assert report["repair"] and report["calibration"]["held_out"] and report["warnings"] == []
    bare = cli(*given)
    assert bare.code == 0 and "warning: nothing was repaired" in bare.err and "Not repaired" in bare.out
    assert "is the input" in assert_refused(cli(*given[:3], "-o", data, "--calib", data))
