"""Prunes models of `models/` and measures what that does to their accuracy on held-out data.

    python tools/demo.py models/pt_resnet_bn.onnx --ratio 0.5 --calibrated
    python tools/demo.py --markdown --ratio 0.5     the table of the README, over all models

With --calibrated the model's unlabelled calibration inputs (models/digits_calib*.npz) are given to the command. Further
options go to `onnxprune` as they are, in the form `--importance=l1`. Pruned models go to a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from onnxprune.common.text import percent
from onnxprune.report import tables, terminal
from onnxprune.report.report import Report

MODELS = Path(__file__).resolve().parents[1] / "models"


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
    command = ["onnxprune", str(model), *arguments, "-o", str(pruned), "--json", "--quiet"]
    print(f"$ {shlex.join(command)}", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout), accuracy(model, entry), accuracy(pruned, entry)


def calibration(model: Path) -> list[str]:
    """The option that names a model's calibration inputs."""
    return ["--calib", str(MODELS / entries()[model.name]["calibration"])]


def markdown(models: Sequence[Path], ratios: Sequence[str], others: list[str], folder: Path) -> Iterator[str]:
    """The lines of the README's table."""
    modes = {"removal alone": ["--repair", "none"], "no data": []}
    columns = ("parameters", "MACs", *(f"accuracy, {mode}" for mode in [*modes, "calibrated"]))
    titles = ["Model", "accuracy", *(f"{what} at {r}" for r in ratios for what in columns)]
    yield "| " + " | ".join(titles) + " |"
    yield "|---|" + "---:|" * (len(titles) - 1)
    for model in models:
        cells = [f"`{model.name}`", f"{accuracy(model, entries()[model.name]):.3f}"]
        for ratio in ratios:
            runs = [
                measure(model, ["--ratio", ratio, *mode, *others], folder)
                for mode in [*modes.values(), calibration(model)]
            ]
            report = runs[0][0]
            for pair in (report["params"], report["macs"]):
                known = pair["before"] is not None and pair["after"] is not None
                cells.append(percent(pair["after"], pair["before"]) if known else "unknown")
            cells += [f"{after:.3f}" for _, _, after in runs]
        yield "| " + " | ".join(cells) + " |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="prune models of models/ and measure their accuracy")
    parser.add_argument("models", nargs="*", type=Path, help="files of models/ (default: all)")
    parser.add_argument("--ratio", nargs="+", default=["0.5"], help="shares of the channels to take (default: 0.5)")
    parser.add_argument("--markdown", action="store_true", help="one table of all models in Markdown")
    parser.add_argument("--calibrated", action="store_true", help="repair with the model's calibration inputs")
    given, others = parser.parse_known_args()
    models = given.models or [MODELS / name for name in sorted(entries())]
    for model in models:
        if model.name not in entries() or not model.is_file():
            parser.error(f"{model} is not a model of {MODELS}, which has held-out data")
    with tempfile.TemporaryDirectory() as folder:
        if given.markdown:
            for line in markdown(models, given.ratio, others, Path(folder)):
                print(line, flush=True)
            return
        for model in models:
            for ratio in given.ratio:
                report, before, after = measure(
                    model, ["--ratio", ratio, *(calibration(model) if given.calibrated else []), *others], Path(folder)
                )
                title = f"accuracy ({entries()[model.name]['n']} held out)"
                row = [title, f"{before:.3f}", f"{after:.3f}", f"{100 * (after - before):+.1f} pt"]
                print(tables.text(terminal.run(Report.from_dict(report), str(model), report["output"], [row])))


if __name__ == "__main__":
    main()
