"""The verb ``sweep``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.support.classifier import classifier, samples
from tests.support.commands import Cli


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A model with its data, in the current folder."""
    monkeypatch.chdir(tmp_path)
    onnx.save(classifier(), "net.onnx")
    np.savez("data.npz", **samples())
    return ["sweep", "net.onnx", "--calib", "data.npz", "--no-time"]


@pytest.mark.slow
def test_table_files_and_page(cli: Cli, given: list[str]) -> None:
    """A row a variant everywhere, no line longer than 80 columns, and JSON that is what the file holds."""
    words = [*given, "--ratio", "0.25,0.5", "--target", "macs=0.4", "--importance", "obs,l2", "--repair-samples", "64"]
    ended = cli(*words, "-o", "out", "--html", "page.html")
    assert ended.code == 0 and not ended.err
    lines = ended.out.splitlines()
    rows = [line for line in lines if line[2:].startswith(("ratio ", "macs="))]
    names = [f"{amount}, {by}" for amount in ("ratio 0.25", "ratio 0.5", "macs=0.4") for by in ("obs", "l2")]
    assert [line[2:20].rstrip() for line in rows] == names
    written = json.loads(Path("out/sweep.json").read_text())
    assert [row["name"] for row in written["variants"]] == names
    assert [line[0] == "*" for line in rows] == [name in written["front"] for name in names]
    assert max(map(len, [*rows, lines[2]])) <= 80
    assert len(Path("out/sweep.csv").read_text().splitlines()) == 7
    assert "repairs learned from 64 samples at most" in ended.out
    page = Path("page.html").read_text()
    assert all(name in page for name in names)
    told = json.loads(cli(*words, "-o", "out", "--json").out)
    assert told == {key: value for key, value in written.items() if key != "others"}


@pytest.mark.slow
def test_exit_codes(cli: Cli, given: list[str]) -> None:
    """A target that is missed is 1; 5 where no variant is within the gates, and 0 where one is; 2 for bad input."""
    assert cli(*given, "--target", "params=0.000001,0.5").code == 1
    ended = cli(*given, "--ratio", "0.9", "--gate", "agreement=1", "--repair", "none")
    assert ended.code == 5 and "- ratio 0.9: gate agreement is missed: " in ended.out
    assert cli(*given, "--ratio", "0,0.9", "--gate", "agreement=1", "--repair", "none").code == 0
    for words, says in (
        (["--ratio", "much"], "not numbers"),
        (["--ratio", "0.5,2"], "below 1"),
        (["--target", "macs"], "does not say how much"),
        ([], "nothing says which variants"),
        (["--ratio", "0.5", "--keep-models", "best"], "--max-drop"),
        (["--ratio", "0.5", "-o", "net.onnx"], "net.onnx"),
    ):
        ended = cli(*given, *words)
        assert ended.code == 2 and says in ended.err and not ended.out


def heeding_interrupts() -> None:
    """A shell lets background jobs, and all that they start, ignore them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="there are no such signals elsewhere")
def test_an_interrupted_command_shows_what_it_has(given: list[str]) -> None:
    """Ctrl-C: the variants so far on stdout and in the folder, and the death that a shell expects."""
    ratios = ",".join(f"0.{n}" for n in range(100, 900, 4))
    command = [sys.executable, "-m", "onnxprune", *given, "--ratio", ratios, "--repair", "none", "-o", "out"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=heeding_interrupts)
    end = time.monotonic() + 120
    done = 0
    while done < 2 and time.monotonic() < end:
        time.sleep(0.05)
        if Path("out/sweep.json").exists():
            done = len(json.loads(Path("out/sweep.json").read_text())["variants"])
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=120)
    kept = json.loads(Path("out/sweep.json").read_text())["variants"]
    assert running.returncode == -signal.SIGINT
    assert 2 <= len(kept) < 200 and f"{len(kept)} variants of 200" in out


@pytest.mark.slow
def test_options_of_a_variant_are_a_recipe(cli: Cli, given: list[str]) -> None:
    """A run with it makes the model of the sweep."""
    words = ["--ratio", "0.25", "--target", "macs=0.4", "--importance", "obs,l2", "--keep", "w9=1"]
    assert "matches no" in cli(*given, *words).err
    assert cli(*given, *words[:-2], "--repair-samples", "1024", "-o", "out", "--keep-models", "all").code == 0
    for row in json.loads(Path("out/sweep.json").read_text())["variants"]:
        Path("recipe.json").write_text(json.dumps(row["options"]))
        ended = cli("net.onnx", "--recipe", "recipe.json", "-o", "alone.onnx")
        assert ended.code == 0, ended.err
        assert Path("alone.onnx").read_bytes() == Path("out", row["model"]).read_bytes()
