"""Engines that are given a model file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from onnxprune.errors import InputError, RunError
from onnxprune.model.model import load
from onnxprune.runtime.io_slices import WHOLE
from onnxprune.timing.engines import External, OnnxRuntime, checked, command
from onnxprune.verification.check import working_feeds
from tests.support.paths import MODELS


def python(tmp_path: Path, code: str) -> str:
    script = tmp_path / "timer.py"
    script.write_text(code)
    return f"{sys.executable} {script}"


def test_the_last_number_of_a_command_counts(tmp_path: Path) -> None:
    line = python(tmp_path, "import sys; print('run 3 of', sys.argv[1:]); print('mean: 1.5e-1 ms')")
    assert command(line)("model.onnx") == 0.15
    assert command(line + " --model={model}")("m.onnx") == 0.15


@pytest.mark.parametrize(("printed", "time"), [(".53", 0.53), ("2.", 2.0), ("+.5e1 ms", 5.0), ("took 7", 7.0)])
def test_numbers_as_programs_print_them(printed: str, time: float, tmp_path: Path) -> None:
    assert command(python(tmp_path, f"print({printed!r})"))("model.onnx") == time


def test_the_path_is_put_where_it_belongs(tmp_path: Path) -> None:
    line = python(tmp_path, "import sys; print(len(sys.argv[1:]), sys.argv.index('a.onnx'))")
    assert command(line)("a.onnx") == 1
    assert command(f"{line} first {{model}} last")("a.onnx") == 2


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print('nothing')", "printed no time"),
        ("import sys; sys.exit('no such device')", "no such device"),
        ("print(-1)", "must give milliseconds"),
        ("print(0)", "must give milliseconds"),
    ],
)
def test_what_is_no_time_is_said(tmp_path: Path, code: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        command(python(tmp_path, code))("model.onnx")


def test_commands_that_cannot_be_run() -> None:
    with pytest.raises(InputError, match="cannot be run"):
        command("/nowhere/timer")("model.onnx")
    with pytest.raises(InputError, match="empty"):
        command("  ")


@pytest.mark.parametrize("value", [None, True, "3", float("nan"), float("inf"), -1.0, 0])
def test_values_that_are_no_times(value: object) -> None:
    with pytest.raises(RunError, match="must give milliseconds"):
        checked(value, "timer")


def test_an_external_engine_gets_files(tmp_path: Path) -> None:
    """The original and each copy, as whole files; the ratio is that of the two times."""
    sizes = []

    def time(path: str) -> float:
        sizes.append(Path(path).stat().st_size)
        return float(len(load(path).proto.producer_name))

    model = load(MODELS / "pt_resnet_bn.onnx")
    copy = model.copy()
    model.proto.producer_name, copy.proto.producer_name = "12345678", "123456"
    engine = External(model, time, "length of a name")
    assert engine.ratio(copy, WHOLE, 0.0) == 6 / 8
    assert engine.milliseconds() == 8 and len(sizes) == 2 and engine.kernels(copy, WHOLE) == []
    assert engine.ratio(copy, WHOLE, 0.05) == 6 / 8  # as many pairs as there is time for
    assert len(sizes) > 4 and sizes == sizes[:2] * (len(sizes) // 2)
    assert External(model, time, "length of a name").milliseconds() == 8  # without any copy


@pytest.mark.slow
def test_a_model_takes_as_long_as_itself() -> None:
    """And a model that computes everything twice takes longer."""
    model = load(MODELS / "pt_resnet_bn.onnx")
    feeds, names = working_feeds(model)
    engine = OnnxRuntime(model, feeds, names)
    alone = engine.milliseconds()
    assert engine.ratio(model, WHOLE) == pytest.approx(1.0, abs=0.25)
    assert engine.milliseconds() == pytest.approx(alone, rel=0.5) and "1 thread" in engine.name
    assert engine.kernels(model, WHOLE)
