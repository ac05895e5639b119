"""A strict run writes nothing that comes with a warning, and limits of onnxruntime come with one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.errors import GateError, InputError
from onnxprune.extensions import registry
from onnxprune.options import Options
from onnxprune.report.warnings import reached_limits
from onnxprune.runtime.limits import current_limits, limited
from onnxprune.runtime.session import session
from tests.support.commands import Cli, contents, tiny
from tests.support.paths import MODELS
from tests.test_time_limit import ENDLESS

WARNED = ["--ratio", 0.5, "--repair", "none", "--no-verify"]


@pytest.mark.parametrize("output", [[], ["--json"], ["--quiet"]])
def test_a_warning_is_an_error(cli: Cli, model: Path, output: list[str]) -> None:
    before = contents(model.parent)
    ended = cli(model, *WARNED, "--strict", "--plan", model.parent / "p.json", *output)
    assert ended.code == 5 and contents(model.parent) == before
    assert "error: not verified: the runtime check was skipped" in ended.err and "warning:" not in ended.err


@pytest.mark.slow
def test_without_warnings_the_model_is_the_same(cli: Cli, model: Path) -> None:
    model = Path(shutil.copy(MODELS / "sk_mlp.onnx", model))  # one decision a sample
    given = ["--ratio", 0.5, "--repair", "none", "--no-time"]
    assert cli(model, *given, "-o", model.parent / "a.onnx").code == 0
    ended = cli(model, *given, "--strict", "-o", model.parent / "b.onnx")
    assert (ended.code, ended.err) == (0, "")
    assert (model.parent / "a.onnx").read_bytes() == (model.parent / "b.onnx").read_bytes()


def test_a_missed_target_stops_a_strict_run(cli: Cli, model: Path) -> None:
    """It is written with exit code 1 otherwise."""
    asked = [model, "--target", "params=0.001", "--repair", "none", "--no-time"]
    assert cli(*asked, "-o", model.parent / "a.onnx").code == 1
    assert cli(*asked, "-o", model.parent / "b.onnx", "--strict").code == 5
    assert not (model.parent / "b.onnx").exists()


@pytest.mark.parametrize("output", [[], ["--json"], ["--quiet"]])
def test_a_strict_application_writes_nothing_that_comes_with_a_warning(
    cli: Cli, model: Path, output: list[str]
) -> None:
    """A plan without data repairs nothing, which is a warning; where there is none, the model is the same."""
    plan, result = model.parent / "p.json", model.parent / "out.onnx"
    assert cli(model, "--ratio", 0.5, "--repair", "none", "--plan", plan, "-o", result, "--no-time").code == 0
    before = contents(model.parent)
    ended = cli("apply", plan, model, "-o", result, "--strict", *output)
    assert ended.code == 5 and contents(model.parent) == before
    assert "error: nothing was repaired" in ended.err and "warning:" not in ended.err
    if output == ["--json"]:
        assert json.loads(ended.out)["output"] is None


def test_a_strict_application_without_a_warning_writes(cli: Cli, model: Path) -> None:
    model = Path(shutil.copy(MODELS / "sk_mlp.onnx", model))
    plan, given = model.parent / "p.json", ["--repair", "none"]
    assert cli(model, "--ratio", 0.5, *given, "--no-time", "--plan", plan, "-o", model.parent / "a.onnx").code == 0
    ended = cli("apply", plan, model, *given, "--strict", "-o", model.parent / "b.onnx")
    assert (ended.code, ended.err) == (0, "")
    assert (model.parent / "a.onnx").read_bytes() == (model.parent / "b.onnx").read_bytes()


def test_a_strict_application_in_python_does_not_save(tmp_path: Path) -> None:
    plan = onnxprune.prune(tiny(), 0.5, repair="none", verify=False).plan
    result = onnxprune.apply(plan, tiny(), strict=True, verify=False, repair="none")
    assert result.stopped is not None and result.stopped.startswith("not verified")
    with pytest.raises(GateError, match="not verified"):
        result.save(tmp_path / "a.onnx")
    assert onnxprune.apply(plan, tiny(), repair="none").report.verified


def test_python_does_not_save(tmp_path: Path) -> None:
    result = onnxprune.prune(tiny(), 0.5, repair="none", verify=False, strict=True)
    assert result.stopped == "not verified: the runtime check was skipped"
    with pytest.raises(GateError, match="not verified") as caught:
        result.save(tmp_path / "a.onnx")
    assert caught.value.hint == "without strict a model that comes with warnings is written"
    gated = onnxprune.prune(tiny(), 0.5, repair="none", gate={"drift": 0.0}, strict=True)
    with pytest.raises(GateError, match="gate drift is missed") as caught:
        gated.save(tmp_path / "a.onnx")
    assert caught.value.hint == "keep_anyway=True in place of strict writes it"
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="contradict"):
        Options.of(0.5, gate={"drift": 1}, keep_anyway=True, strict=True)


def test_a_plug_in_that_fails_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "failures", ["plug-in x of onnxprune.rules is left out: ImportError: no"])
    result = onnxprune.prune(MODELS / "sk_mlp.onnx", 0.5, repair="none", time=False, strict=True)
    assert result.stopped == registry.failures[0]


@pytest.mark.slow
def test_a_time_limit_of_onnxruntime_is_a_warning() -> None:
    """Wherever it is reached: the result may be another with more time."""
    with limited(seconds=0.3):
        with pytest.raises(onnxprune.RunError):
            session(onnx.parser.parse_model(ENDLESS)).run(None, {"x": np.zeros((1, 3, 16, 16), np.float32)})
        (line,) = reached_limits(current_limits().reached)
    assert line.startswith("onnxruntime took longer than 0.3 s; what needed that run was left out")


@pytest.mark.slow
def test_a_repair_that_a_limit_prevented_is_a_warning() -> None:
    """The repair is chosen by a trial run; a limit that ends the run must not choose another repair in silence."""
    model = onnx.parser.parse_model(ENDLESS)
    model.graph.output[0].name = "z"
    model.graph.node.append(onnx.helper.make_node("Conv", ["y", "k"], ["z"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "k"))
    report = onnxprune.prune(model, 0.5, run_seconds=0.3, time=False).report
    assert any(line.startswith("onnxruntime took longer than 0.3 s; what needed") for line in report.warnings)
