"""Whether reports tell the accuracy that pruning costs: what they say beside what is lost on labelled test data.

    python -m tools.benchmarks told ../shared/real [--only NAME ...] [--samples 512] [--runs 0.7 0.5 2:4 blind ...]

FOLDER is that of `accuracy`. Every model is pruned with calibration data to shares of its MACs and with 2:4, and once
without data (``blind``). A row holds the share and the points of the metric that are lost on the test data, what the
report said is lost (the squared error of the outputs where none of them chooses classes), and whether it warned. The
verdict is the rank correlation (Spearman, 1904) of both over the runs with data, and the runs that were warned of for
at most a point or not warned of for more than five.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tools.benchmarks.accuracy import evaluate, timed

RUNS = {
    "0.85": ["--target", "macs=0.85"],
    "0.7": ["--target", "macs=0.7"],
    "0.5": ["--target", "macs=0.5"],
    "0.3": ["--target", "macs=0.3"],
    "2:4": ["--pattern", "2:4"],
    "blind": ["--target", "macs=0.5"],
}
SMALL, LARGE = 0.01, 0.05
"""A loss of the metric up to the first needs no warning; one above the second needs one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--runs", nargs="*", default=list(RUNS), choices=list(RUNS))


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row a run."""
    script = args.folder / "evaluate.py"
    models = sorted((args.folder / "models").glob("*.onnx"), key=lambda path: path.stat().st_size)
    for model in models:
        if args.only and model.stem not in args.only:
            continue
        base = evaluate(script, model.stem)
        with tempfile.TemporaryDirectory() as folder:
            data, out = Path(folder) / "calib.npz", Path(folder) / "pruned.onnx"
            made = [sys.executable, script, model.stem, "--calib", data, "--n", args.samples]
            timed([str(word) for word in made])
            for run in args.runs:
                yield told(script, model, out, data, run, base)


def told(script: Path, model: Path, out: Path, data: Path, run: str, base: dict[str, Any]) -> dict[str, Any]:
    """One run: what the report says, and what is true."""
    row: dict[str, Any] = {"model": model.stem, "run": run, "metric": base["metric"]}
    given = [*RUNS[run], *([] if run == "blind" else ["--calib", data])]
    words = [sys.executable, "-m", "onnxprune", model, "-o", out, "--force", "--json", *given]
    code, said, why, seconds, _ = timed([str(word) for word in words])
    if code not in (0, 1):
        return row | {"why": why}
    report = json.loads(said)
    value = evaluate(script, model.stem, out)["value"]
    row |= {"base": base["value"], "value": value, "lost": round(1 - value / base["value"], 4)}
    row["points"] = round(base["value"] - value, 4)
    judged = report["calibration"]
    if judged is not None:
        decided = judged["decisions"]
        row["said"] = judged["relative_error"] if decided is None else decided["lost"]["mean"]
        row["chooses"] = decided is not None
        row["held_out"] = judged["samples"]
    row["warned"] = any("accuracy" in line or "others than before" in line for line in report["warnings"])
    return row | {"seconds": round(seconds)}


def verdict(done: list[dict[str, Any]], _: argparse.Namespace) -> tuple[list[str], int]:
    """Rank correlation, wrong warnings and missing ones."""
    known = [row for row in done if row.get("said") is not None]
    lines = []
    for what, some in (("all", known), ("that choose classes", [r for r in known if r["chooses"]])):
        if len(some) > 2:
            rho = rank_correlation([r["said"] for r in some], [r["lost"] for r in some])
            lines.append(f"rank correlation over {len(some)} runs with data, outputs {what}: {rho:.3f}")
    lines += [
        f"warned at {r['points']:.3f}: {r['model']} {r['run']}" for r in known if r["warned"] and r["points"] <= SMALL
    ]
    lines += [
        f"silent at {r['points']:.3f}: {r['model']} {r['run']}"
        for r in known
        if not r["warned"] and r["points"] > LARGE
    ]
    return lines, 0


def rank_correlation(a: list[float], b: list[float]) -> float:
    """Spearman's rank correlation; equal numbers have the mean of their ranks."""

    def ranks(values: list[float]) -> np.ndarray:
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        mean: np.ndarray = np.cumsum(counts) - (counts - 1) / 2
        return mean[inverse]

    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])
