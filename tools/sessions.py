"""Writes docs/sessions/: what a terminal of 80 and one of 120 columns shows of each verb, on the models of models/.

    python -m tools.sessions            # both widths; a minute or two

To be looked at after every change of an output: columns that do not line up, lines that break badly, words that nobody
would say. Times differ from run to run, so no test compares these files byte by byte.
"""

from __future__ import annotations

import argparse
import os
import pty
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "sessions"
WIDTHS = (80, 120)
MOST = 90
"""Lines of a command that are kept."""
COMMANDS = """
--help
inspect models/pt_resnet_folded.onnx
inspect models/pt_transformer.onnx --graph groups.svg
sensitivity models/sk_mlp.onnx --calib models/digits_test_flat.npz
models/pt_resnet_folded.onnx --ratio 0.5 --dry-run
models/pt_resnet_bn.onnx --ratio 0.5 -o small.onnx
models/sk_mlp.onnx --target macs=0.5 --calib models/digits_calib_flat.npz --plan plan.json -o calibrated.onnx
apply plan.json models/sk_mlp.onnx -o removed.onnx
apply plan.json models/sk_mlp.onnx --calib models/digits_calib_flat.npz -o again.onnx
slice plan.json checkpoint.npz -o sliced.npz
finetune removed.onnx --calib models/digits_test_flat.npz --teacher models/sk_mlp.onnx -o trained.onnx
vocabulary models/language/decoder.onnx models/language/calib.npz --tokens 100 --unknown 0 -o words.onnx
measure models/pt_resnet_bn.onnx -o times.json
models/pt_resnet_bn.onnx --target latency=0.7 --times times.json --repair none -o faster.onnx
models/pt_resnet_bn.onnx --target latency=0.7 --repair none -o faster.onnx
sweep models/sk_mlp.onnx --ratio 0.3,0.5 --importance obs,l2 --calib models/digits_test_flat.npz -o variants
compare models/sk_mlp.onnx calibrated.onnx
compare models/sk_mlp.onnx removed.onnx again.onnx --calib models/digits_test_flat.npz
models/sk_mlp.onnx --target macs=0.7 --calib models/digits_test_flat.npz --max-drop 0.05 -o within.onnx
models/pt_transformer.onnx --ratio 0.3 --global --repair none --plan exact.json -o exact.onnx
verify models/pt_transformer.onnx exact.onnx --plan exact.json
verify models/sk_mlp.onnx calibrated.onnx --plan plan.json
models/sk_mlp.onnx --calib models/digits_calib_flat.npz --samples 64 --gate agreement=0.99 --drift-search -o least.onnx
models/pt_transformer.onnx --ratio 0.5 --gate drift=0.01 -o gated.onnx
models/pt_resnet_bn.onnx --pattern 2:4 --permute -o ordered.onnx
inspect --sparsity ordered.onnx
models/keras_cnn.onnx --target params=0.01 --round-to 8 --repair none -o missed.onnx
models/keras_cnn.onnx --ratio 0.5 --no-verify --strict -o strict.onnx
models/keras_cnn.onnx --ratio 0.5 --time-limit 0.1 -o late.onnx
models/pt_mobilenet.onnx --ratio 0.5 --attention head -o typo.onnx
models/pt_mobilenet.onnx --rato 0.5
modles/pt_mobilenet.onnx --ratio 0.5
ops
"""
"""Arguments of the commands, in order: later ones read what earlier ones wrote."""


def arguments() -> list[list[str]]:
    """The arguments of each command."""
    return [shlex.split(line) for line in COMMANDS.strip().splitlines()]


def session(width: int, commands: list[list[str]]) -> str:
    """Runs commands in a folder of their own, in a terminal of some columns; what it shows."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "models", Path(folder) / "models")
        weights = onnx.load(ROOT / "models" / "sk_mlp.onnx").graph.initializer
        np.savez(Path(folder) / "checkpoint.npz", **{t.name: onnx.numpy_helper.to_array(t) for t in weights})
        return "\n".join(f"$ onnxprune {shlex.join(words)}\n{shown(words, width, folder)}" for words in commands)


def on_terminal(
    words: Sequence[str], environment: Mapping[str, str], folder: str | None = None, *, stdout: bool = True
) -> tuple[str, int]:
    """Runs the command on a terminal.

    Args:
        words: Its arguments.
        environment: Variables besides those of this process.
        folder: Where it runs; None for here.
        stdout: Whether its standard output is the terminal, as its standard error is; else it goes nowhere.

    Returns:
        What the terminal got, and the exit code.
    """
    mine, theirs = pty.openpty()
    command = [sys.executable, "-m", "onnxprune", *words]
    out, variables = theirs if stdout else subprocess.DEVNULL, os.environ | environment
    with subprocess.Popen(command, cwd=folder, stdout=out, stderr=theirs, stdin=theirs, env=variables) as run:
        os.close(theirs)
        text = b""
        try:
            while part := os.read(mine, 4096):
                text += part
        except OSError:  # the terminal is gone once the command is
            pass
    os.close(mine)
    return text.decode(), run.returncode


def shown(words: list[str], width: int, folder: str) -> str:
    """What a terminal shows of one command, and its exit code where that is not 0."""
    environment = {"COLUMNS": str(width), "LINES": "50", "TERM": "dumb", "PYTHONPATH": str(ROOT)}
    text, returned = on_terminal(words, environment, folder)
    lines = text.replace("\r\n", "\n").splitlines(keepends=True)
    more = [f"[{len(lines) - MOST} more lines]\n"] if len(lines) > MOST else []
    code = f"[exit code {returned}]\n" if returned else ""
    return "".join([*lines[:MOST], *more]) + code


def main() -> None:
    """Writes a file a width."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, nargs="*", default=WIDTHS, help="columns of the terminals")
    FOLDER.mkdir(exist_ok=True)
    for width in parser.parse_args().width:
        (FOLDER / f"{width}-columns.txt").write_text(session(width, arguments()), encoding="utf-8")


if __name__ == "__main__":
    main()
