"""Prunes models of `models/` and measures what that does to their accuracy on held-out data.

    python tools/demo.py models/pt_resnet_bn.onnx --ratio 0.5
    python tools/demo.py --markdown --ratio 0.5          the table of the README, over all models

Further options go to `onnxprune` as they are, in the form `--importance=l1`. Pruned models are written to a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from onnxprune.report import terminal
from onnxprune.text import percent

MODELS = Path(__file__).resolve().parents[1] / "models"
COLUMNS = ["Model", "Parameters", "left", "MACs", "left", "Accuracy", "after"]


def entries() -> dict[str, dict[str, Any]]:
    """What the index says of every model, by file name."""
    return {entry["file"]: entry for entry in json.loads((MODELS / "INDEX.json").read_text())["models"]}


def accuracy(model: Path, entry: dict[str, Any]) -> float:
    """Share of the held-out samples that a model classifies correctly."""
    with np.load(MODELS / entry["test"]) as data:
        samples, labels = data[entry["input"]], data[entry["labels_key"]]
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    scores = np.asarray(session.run([entry["output"]], {entry["input"]: samples})[0])
    return float(np.mean(scores.argmax(axis=1) == labels))


def measure(model: Path, arguments: list[str], folder: Path) -> tuple[dict[str, Any], float, float]:
    """Runs the command on a model; its report, and the accuracy before and after."""
    entry, pruned = entries()[model.name], folder / f"{model.stem}.pruned.onnx"
    command = ["onnxprune", str(model), *arguments, "-o", str(pruned), "--json"]
    print(f"$ {shlex.join(command)}", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout), accuracy(model, entry), accuracy(pruned, entry)


def markdown_row(model: Path, report: dict[str, Any], before: float, after: float) -> str:
    """One row of the README's table."""
    cells = [f"`{model.name}`"]
    for key in ("params", "macs"):
        pair = report[key]
        known = pair["before"] is not None and pair["after"] is not None
        cells += [f"{pair['before']:,}", percent(pair["after"], pair["before"])] if known else ["unknown", "-"]
    return "| " + " | ".join([*cells, f"{before:.3f}", f"{after:.3f}"]) + " |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="prune models of models/ and measure their accuracy")
    parser.add_argument("models", nargs="*", type=Path, help="files of models/ (default: all)")
    parser.add_argument("--markdown", action="store_true", help="one table of all models in Markdown")
    parser.add_argument("--ratio", default="0.5", help="share of the channels to take (default: 0.5)")
    given, others = parser.parse_known_args()
    arguments = ["--ratio", given.ratio, *others]
    models = given.models or [MODELS / name for name in sorted(entries())]
    for model in models:
        if model.name not in entries() or not model.is_file():
            parser.error(f"{model} is not a model of {MODELS}, which has held-out data")
    if given.markdown:
        print("| " + " | ".join(COLUMNS) + " |\n|---|" + "---:|" * (len(COLUMNS) - 1))
    with tempfile.TemporaryDirectory() as folder:
        for model in models:
            report, before, after = measure(model, arguments, Path(folder))
            if given.markdown:
                print(markdown_row(model, report, before, after), flush=True)
                continue
            samples = entries()[model.name]["n"]
            row = [f"accuracy ({samples} held out)", f"{before:.3f}", f"{after:.3f}", f"{100 * (after - before):+.1f} pt"]
            print(terminal.text(terminal.run(report, [row])))


if __name__ == "__main__":
    main()
