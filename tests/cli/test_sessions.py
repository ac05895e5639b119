"""The recorded sessions in docs/sessions show every verb, and fit their terminals."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from onnxprune.cli.verbs import VERBS
from tests.support.paths import ROOT

sessions = pytest.importorskip("tools.sessions", reason="needs pseudo-terminals")
FILES = [sessions.FOLDER / f"{width}-columns.txt" for width in sessions.WIDTHS]
OF_ONE_LINE = ("$ ", "error: ", "hint: ", "warning: ")
"""Lines that are never broken: commands as they were typed, and messages, which scripts read line by line."""


def recorded(path: Path) -> dict[str, str]:
    """What each command showed."""
    parts = re.split(r"^\$ onnxprune (.*)\n", path.read_text(encoding="utf-8"), flags=re.M)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_verb_is_there() -> None:
    first = {words[0] for words in sessions.arguments()}
    assert set(VERBS) | {"--help"} <= first and any(word.endswith(".onnx") for word in first)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_what_was_recorded_is_what_the_script_runs(path: Path) -> None:
    assert list(recorded(path)) == [shlex.join(words) for words in sessions.arguments()]
    assert str(ROOT) not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_lines_fit_the_terminal(path: Path) -> None:
    width = int(path.stem.split("-")[0])
    long = [line for line in path.read_text(encoding="utf-8").splitlines() if len(line) > width]
    assert [line for line in long if not line.startswith(OF_ONE_LINE)] == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_commands_end_as_they_should(path: Path) -> None:
    """No internal error, and each kind of end is shown once at least."""
    codes = [int(code) for text in recorded(path).values() for code in re.findall(r"^\[exit code (\d+)\]$", text, re.M)]
    assert set(codes) == {1, 2, 3, 5}


@pytest.mark.slow
@pytest.mark.parametrize("width", sessions.WIDTHS)
def test_the_structure_is_not_out_of_date(width: int) -> None:
    """Some quick commands, run again, have the same words and tables: only numbers may differ."""
    quick = [
        words for words in sessions.arguments() if words[0] in ("--help", "inspect") and "ordered.onnx" not in words
    ]
    quick.append(["models/pt_mobilenet.onnx", "--rato", "0.5"])
    (path,) = (path for path in FILES if path.name.startswith(f"{width}-"))
    old = recorded(path)
    for command, text in zip(quick, re.split(r"^\$ .*\n", sessions.session(width, quick), flags=re.M)[1:], strict=True):
        assert re.sub(r"\d[\d.]*", "0", text).strip() == re.sub(r"\d[\d.]*", "0", old[shlex.join(command)]).strip()
