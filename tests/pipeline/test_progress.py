"""How far a run is: told to whoever asks, drawn on a terminal only."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from onnxprune import api
from onnxprune.options import Options
from tests.support.paths import MODELS

pty = pytest.importorskip("pty")
MODEL, CALIB = MODELS / "sk_mlp.onnx", MODELS / "digits_calib_flat.npz"


def test_stages_and_samples_are_told() -> None:
    told: list[tuple[str, int, int | None]] = []

    def announce(name: str, done: int = 0, total: int | None = None) -> None:
        told.append((name, done, total))

    api.run(MODEL, Options.of(ratio=0.5, calib=str(CALIB), samples=100), announce)
    starts = [name for name, done, total in told if total is None]
    assert starts == ["load", "analyze", "score", "plan", "apply", "repair", "judge", "verify", "time"]
    seen = {name: (done, total) for name, done, total in told if total is not None}
    assert set(seen) >= {"score", "repair", "judge"}
    assert all(done == total for done, total in seen.values())  # each pass is told to its end


def drawn(*words: str) -> str:
    """What a terminal sees of a run."""
    mine, theirs = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "onnxprune",
        str(MODEL),
        "--ratio",
        "0.5",
        "--calib",
        str(CALIB),
        "--dry-run",
        *words,
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=os.environ | {"TERM": "xterm"}) as run:
        os.close(theirs)
        text = b""
        try:
            while part := os.read(mine, 4096):
                text += part
        except OSError:  # the terminal is gone once the command is
            pass
    os.close(mine)
    assert run.returncode == 0
    return text.decode()


@pytest.mark.slow
def test_a_terminal_sees_a_bar() -> None:
    assert "repair" in drawn()


@pytest.mark.slow
def test_quiet_draws_nothing() -> None:
    assert "repair" not in drawn("--quiet")
