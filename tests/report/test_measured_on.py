"""The JSON report says what it is, of which files, and what each number was measured on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import onnx
import pytest

import onnxprune
from tests.support.classifier import classifier, samples
from tests.support.commands import Cli, tiny


def test_files_are_those_on_the_disk(cli: Cli, tmp_path: Path) -> None:
    """Every file of both models with its size and checksum, external data too."""
    source, target = tmp_path / "a.onnx", tmp_path / "b.onnx"
    onnx.save(tiny(), source, save_as_external_data=True, location="a.data", size_threshold=0)
    report = json.loads(cli(source, "--ratio", 0.5, "--repair", "none", "-o", target, "--json").out)
    named = {entry["path"] for role in ("model", "output") for entry in report["files"][role]}
    assert named == {str(p) for p in tmp_path.iterdir()} and len(named) == 4
    for entry in [*report["files"]["model"], *report["files"]["output"]]:
        content = Path(entry["path"]).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert (report["schema"], report["version"]) == (1, onnxprune.__version__)


def test_a_dry_run_has_no_output_file(cli: Cli, model: Path) -> None:
    report = json.loads(cli(model, "--ratio", 0.5, "--importance", "l2", "--dry-run", "--json").out)
    assert [entry["path"] for entry in report["files"]["model"]] == [str(model)]
    assert "output" not in report["files"]


@pytest.mark.slow
def test_numbers_from_data_name_the_samples() -> None:
    made = onnxprune.prune(classifier(), 0.3, calib=samples(40, labelled=False), gate={"drift": 0.9}, time=False)
    held = made.report.calibration.samples
    assert made.report.calibration.held_out and held == 6
    for name in ("calibration", "drift"):
        assert made.report.measured_on[name].on == "held-out samples" and made.report.measured_on[name].samples == held
    assert made.report.measured_on["gates.drift"].samples == held
    assert made.report.measured_on["macs"].shapes == {"x": [1, 8]}
    assert {made.report.measured_on[n].how for n in ("params", "macs", "bytes", "channels")} == {"counted"}
    assert "latency" not in made.report.measured_on


def test_numbers_without_data_are_of_synthetic_inputs() -> None:
    made = onnxprune.prune(tiny(), 0.5, importance="l2", repair="none", gate={"drift": 9.0}, keep_anyway=True)
    for name in ("drift", "gates.drift", "latency"):
        assert (made.report.measured_on[name].on, made.report.measured_on[name].samples) == ("synthetic inputs", None)
    assert "calibration" not in made.report.measured_on


@pytest.mark.slow
def test_every_number_has_an_entry() -> None:
    """Whatever of a report holds a number says where it comes from."""
    made = onnxprune.prune(
        tiny(), target={"macs": 0.5, "params": 0.9}, importance="l2", repair="none", gate={"drift": 9.0}
    ).report
    expected = {"params", "macs", "bytes", "channels", "drift", "latency", "gates.drift", "targets.macs"}
    assert set(made.measured_on) == expected | {"targets.params"}
    applied = onnxprune.apply(onnxprune.plan(onnxprune.analyze(tiny()), 0.5, importance="l2"), tiny()).report
    assert set(applied.measured_on) == {"params", "macs", "bytes", "channels", "drift"}


@pytest.mark.parametrize("external", [False, True])
def test_sizes_are_those_of_files(tmp_path: Path, external: bool) -> None:
    """All files of a model, with what in them nothing refers to; before it is saved, the result's is nearly known."""
    source = tmp_path / "a.onnx"
    onnx.save(tiny(), source, save_as_external_data=external, location="a.data", size_threshold=0)
    if external:
        with open(tmp_path / "a.data", "ab") as file:
            file.write(bytes(5000))
    result = onnxprune.prune(source, 0.5, repair="none", time=False)
    assert result.report.bytes.before == sum(p.stat().st_size for p in tmp_path.iterdir())
    estimated = result.report.bytes.after
    (tmp_path / "out").mkdir()
    result.save(tmp_path / "out" / "b.onnx")
    stored = sum(p.stat().st_size for p in (tmp_path / "out").iterdir())
    assert result.report.bytes.after == stored
    assert estimated == pytest.approx(stored, rel=0.1 if external else 0)
