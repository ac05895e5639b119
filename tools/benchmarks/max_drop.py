"""Whether a limit on the accuracy that may be lost holds on test data: ``--max-drop`` beside what is lost there.

    python -m tools.benchmarks max_drop ../shared/real [--only NAME ...] [--drops 0.01] [--runs 0.85 0.7 0.5 search]
        [--seeds 0]

FOLDER is that of `accuracy`; its ``evaluate.py`` also has ``SIMPLE``: name -> (metric, loader, function), where the
loader returns inputs and labels of the split ``calib`` or ``test``. Every model is pruned with the labelled samples of
the first split to each share of its MACs, and once searched for the smallest within the limit. A row holds what is left
of the MACs, the drop on the held-out samples with its upper bound, whether a model was written, and the drop on the
test split with its standard error. A model that was written is *within* where the drop on the test split is at most
the limit, else *by chance* where it is beyond by at most two standard errors (of the test split alone), else *MISSED*.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx

from tools.benchmarks.accuracy import timed

MODELS = ["resnet8_cifar10_keras", "resnet20_cifar10_pytorch", "resnet56_cifar10_pytorch", "mnist_cntk"]
"""Classifiers with thousands of labelled samples."""
RUNS = ("0.85", "0.7", "0.5", "search")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=MODELS)
    parser.add_argument("--drops", nargs="*", type=float, default=[0.01])
    parser.add_argument("--runs", nargs="*", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row a run."""
    module = evaluation(args.folder / "evaluate.py")
    for name in args.only:
        model = args.folder / "models" / f"{name}.onnx"
        load = module.SIMPLE[name][1]
        with tempfile.TemporaryDirectory() as folder:
            data, out = Path(folder) / "calib.npz", Path(folder) / "pruned.onnx"
            (inputs,), labels = load("calib", None)
            np.savez(data, labels=labels, **{onnx.load(model).graph.input[0].name: inputs})
            (inputs,), labels = load("test", None)
            before = hits(module, model, inputs, labels)
            for drop in args.drops:
                for seed in args.seeds:
                    for run in args.runs:
                        row = {"model": name, "max_drop": drop, "seed": seed, "run": run}
                        row |= pruned(model, out, data, run, drop, seed)
                        if out.exists():
                            row |= tested(before, hits(module, out, inputs, labels), drop)
                        yield row


def evaluation(script: Path) -> ModuleType:
    """The folder's own script as a module."""
    spec = importlib.util.spec_from_file_location("evaluate_real", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def hits(module: ModuleType, model: Path, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether a model is right for each sample of the test split."""
    scores = module.forward(module.session(model), inputs).reshape(len(inputs), -1)
    found: np.ndarray = (scores.argmax(axis=1) if scores.shape[1] > 1 else scores[:, 0]) == labels
    return found.astype(np.float64)


def pruned(model: Path, out: Path, data: Path, run: str, drop: float, seed: int) -> dict[str, Any]:
    """One run: what is left, and what the report says of the drop."""
    out.unlink(missing_ok=True)
    how = ["--search", "--target", "macs=0.1"] if run == "search" else ["--target", f"macs={run}"]
    words = [model, "-o", out, "--json", "--no-time", "--calib", data, "--max-drop", drop, "--seed", seed, *how]
    code, said, why, seconds, _ = timed([sys.executable, "-m", "onnxprune", *(str(word) for word in words)])
    if code not in (0, 5):
        return {"code": code, "why": why}
    report = json.loads(said)
    gate = report["gates"]["max-drop"]
    return {
        "macs_left": round(report["macs"]["after"] / report["macs"]["before"], 3),
        "held_out": gate["samples"],
        "drop": gate["measured"],
        "at_most": gate["at_most"],
        "written": out.exists(),
        "seconds": round(seconds),
    }


def tested(before: np.ndarray, after: np.ndarray, limit: float) -> dict[str, Any]:
    """The drop on the test split, and whether it is within the limit."""
    lost = before - after
    drop, error = float(lost.mean()), float(lost.std(ddof=1) / np.sqrt(len(lost)))
    verdict = "within" if drop <= limit else "by chance" if drop <= limit + 2 * error else "MISSED"
    return {"test": len(lost), "test_drop": drop, "test_error": error, "verdict": verdict}


def verdict(done: list[dict[str, Any]], _: argparse.Namespace) -> tuple[list[str], int]:
    """How many models were written, how many of them keep the limit on the test split, and the table as Markdown."""
    written = [row for row in done if "verdict" in row]
    counts = {word: sum(row["verdict"] == word for row in written) for word in ("within", "by chance", "MISSED")}
    head = f"{len(written)} of {len(done)} written: " + ", ".join(f"{n} {word}" for word, n in counts.items())
    return [head, *markdown(done)], 1 if counts["MISSED"] else 0


def markdown(done: list[dict[str, Any]]) -> list[str]:
    """The rows as a table."""
    titles = [
        "Model",
        "limit",
        "asked",
        "MACs left",
        "held-out",
        "drop there",
        "at most",
        "written",
        "drop on test",
        "",
    ]
    lines = [f"| {' | '.join(titles)} |", "|---|---:|---|---:|---:|---:|---:|---|---:|---|"]
    for row in done:
        if "macs_left" not in row:
            lines.append(f"| `{row['model']}` | {100 * row['max_drop']:g} | {row['run']} | | | | | {row['why']} | | |")
            continue
        test = f"{_points(row['test_drop'])} ± {_points(row['test_error'])}" if "verdict" in row else ""
        drop, at_most, left = _points(row["drop"]), _points(row["at_most"]), f"{100 * row['macs_left']:.0f}%"
        written = "yes" if row["written"] else "no"
        cells = [
            f"`{row['model']}`",
            f"{100 * row['max_drop']:g}",
            row["run"],
            left,
            str(row["held_out"]),
            drop,
            at_most,
            written,
            test,
        ]
        lines.append(f"| {' | '.join([*cells, row.get('verdict', '')])} |")
    return lines


def _points(share: float) -> str:
    """A share in points."""
    return f"{100 * share:.2f}"
