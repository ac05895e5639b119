"""``onnxprune measure`` and what is made of its file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from onnxprune.engines.times import Times
from tests.support.commands import Cli
from tests.support.paths import MODELS

MODEL = str(MODELS / "pt_resnet_folded.onnx")
TIMER = """
import sys, onnx
print(sum(t.ByteSize() for t in onnx.load(sys.argv[1]).graph.initializer) / 1e3, "ms")
"""


@pytest.fixture
def timer(tmp_path: Path) -> str:
    """A command that takes a model's size for its time."""
    (tmp_path / "timer.py").write_text(TIMER)
    return f"{sys.executable} {tmp_path / 'timer.py'} {{model}}"


@pytest.mark.slow
def test_measured_with_onnxruntime_and_pruned_with_it(cli: Cli, tmp_path: Path) -> None:
    times, first, second = tmp_path / "t.json", tmp_path / "a.onnx", tmp_path / "b.onnx"
    ended = cli("measure", MODEL, "-o", times, "--copies", 6)
    assert ended.code == 0 and "a run: onnxruntime" in ended.out and "saved at 50%" in ended.out
    found = Times.from_json(times.read_text())
    assert len(found.rows) == 7 and all(row.nodes for row in found.rows)
    for output in (first, second):
        ended = cli(MODEL, "--target", "latency=0.8", "--times", times, "-o", output, "--no-verify", "--no-time")
        assert ended.code in (0, 1) and "not measured here" in ended.out  # six copies may predict anything
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow
def test_a_command_is_an_engine(cli: Cli, tmp_path: Path, timer: str) -> None:
    """A call that was ended goes on where it was: what stands in the file is not measured again."""
    times = tmp_path / "t.json"
    assert cli("measure", MODEL, "-o", times, "--copies", 5, "--engine", timer, "--quiet").out == ""
    whole = Times.from_json(times.read_text())
    assert whole.engine == timer and len(whole.rows) == 6 and not any(row.nodes for row in whole.rows)
    times.write_text(Times(**{**vars(whole), "rows": whole.rows[:3]}).to_json())
    ended = cli("measure", MODEL, "-o", times, "--copies", 5, "--engine", timer, "--json")
    assert Times.from_json(times.read_text()).rows == whole.rows
    data = json.loads(ended.out)
    assert data["measurements"] == 6 and data["milliseconds"] > 0 and data["groups"]


@pytest.mark.slow
def test_a_function_is_an_engine(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_engine.py").write_text("def ms(path):\n    return 2.5\n")
    monkeypatch.chdir(tmp_path)
    assert cli("measure", MODEL, "-o", "t.json", "--copies", 2, "--engine", "my_engine:ms").code == 0
    assert {row.ratio for row in Times.from_json(Path("t.json").read_text()).rows} == {1.0}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine", "a:b", "--threads", "2"], "--engine times another engine than onnxruntime"),
        (["--engine", "openvino"], "openvino cannot be run by its name"),
        (["--engine", "opnvino"], "openvino"),
        (["--engine", "/nowhere/timer"], "/nowhere/timer cannot be run"),
        (["--engine", "nowhere:ms"], "there is no module nowhere"),
        (["--provider", "CPU:a"], "options are KEY=VALUE"),
        (["--copies", "0"], "copies must be at least 1"),
        (["--threads", "-1"], "threads must be at least 0"),
        (["--batch", "0"], "batch must be at least 1"),
    ],
)
def test_what_cannot_be_measured(cli: Cli, tmp_path: Path, words: list[str], message: str) -> None:
    ended = cli("measure", MODEL, "-o", tmp_path / "t.json", *words)
    assert ended.code == 2 and message in ended.err and not (tmp_path / "t.json").exists()


def test_a_file_that_holds_something_else_stays(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    path.write_text("{}")
    ended = cli("measure", MODEL, "-o", path)
    assert ended.code == 2 and "holds no times" in ended.err and path.read_text() == "{}"
    ended = cli("measure", MODEL, "-o", MODEL)
    assert ended.code == 2


@pytest.mark.slow
def test_targets_of_latency_are_checked(cli: Cli, tmp_path: Path) -> None:
    for words, message in (
        (["--target", "latency=4"], "has no unit"),
        (["--target", "latency=fast"], "is no time"),
        (["--target", "macs=0.5", "--times", "t.json"], "times are for a target of latency"),
        (["--target", "latency=0.5", "--times", str(tmp_path / "t.json")], "cannot be read"),
        (["--target", "macs=0.5", "--engine", "opnvino"], "openvino"),
        (["--target", "macs=0.5", "--engine", "timer {model}"], "is for a target of latency"),
        (["--target", "latency=0.5", "--engine", "/nowhere/timer"], "/nowhere/timer cannot be run"),
    ):
        ended = cli(MODEL, *words, "-o", tmp_path / "out.onnx")
        assert ended.code == 2 and message in ended.err
