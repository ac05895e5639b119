"""Whether the sliders of a page tell the truth: what they show beside what a run of their recipe has.

    python -m tools.benchmarks sliders MODEL [MODEL ...] [--choices 3] [--seed 0]

Every model is measured and pruned to 0.7 of its time; on the page of that run, in headless Chromium, every slider is
moved to a random place, and the recipe is saved and run. A row holds the parameters, the MACs and the share of the time
that the page showed, and those of the result, whose time is measured anew against the original in alternation. The
verdict is that counts agree exactly, and times within a tenth.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.support import browser
from tests.support.sliders import move

LEAST = 0.2
"""Share of a group that stays at least."""
TOLERANCE = 0.1
MISSED = 1
"""Exit status of a run that misses its target, and writes the model and the page."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--choices", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each choice on each model's page."""
    rng = np.random.default_rng(args.seed)
    for model in args.models:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            page = folder / "page.html"
            first = ["--target", "latency=0.7", "--repair", "none", "--no-time", "--html", page]
            _onnxprune(model, *first, "-o", folder / "first.onnx")
            for _ in range(args.choices):
                yield _row(model, page, folder, rng.uniform(LEAST, 1, 97).round(3).tolist())


def _row(model: Path, page: Path, folder: Path, shares: list[float]) -> dict[str, Any]:
    """What the page shows for some shares, and what the run of the recipe reports."""
    with browser.opened(page) as tab:
        shown, recipe = move(tab, shares)
    (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
    command = [model, "--recipe", folder / "recipe.toml", "--json", "--force", "-o", folder / "chosen.onnx"]
    report = json.loads(_onnxprune(*command))
    return {
        "model": model.stem,
        "params_shown": shown["parameters"].count,
        "params": report["params"]["after"],
        "macs_shown": shown["MACs"].count,
        "macs": report["macs"]["after"],
        "time_shown": shown["time"].share,
        "time": report["latency"]["ratio"],
    }


def verdict(done: list[dict[str, Any]], args: argparse.Namespace) -> tuple[list[str], int]:
    """What was asked, and whether it holds."""
    exact = all(row["params_shown"] == row["params"] and row["macs_shown"] == row["macs"] for row in done)
    off = [abs(row["time_shown"] / row["time"] - 1) for row in done]
    near = sum(one <= TOLERANCE for one in off)
    lines = [
        f"parameters and MACs are {'those shown' if exact else 'NOT always those shown'}",
        f"times within {TOLERANCE:.0%}: {near} of {len(done)}; off by {np.median(off):.1%} in the median",
    ]
    return lines, int(not exact or near < len(done))


def _onnxprune(*words: Any) -> str:
    """What a run prints; it may miss its target."""
    done = subprocess.run([sys.executable, "-m", "onnxprune", *map(str, words)], capture_output=True, text=True)
    if done.returncode != MISSED:
        done.check_returncode()
    return done.stdout
