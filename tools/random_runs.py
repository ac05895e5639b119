"""Prunes architectures and trained models at random ratios with random options for a while, and judges the results.

    python tools/random_runs.py ../shared/zoo --real ../shared/real/models --minutes 15 [--seed 0] [--most 30e6]
        [--data]

Each run is `onnxprune` in a process of its own, with options drawn from the run's number. The models take turns in a
shuffled order that is always the same, so that as many runs as there are models reach every one. Runs with
``--repair none`` that take channels exactly must be equivalent to the masked original (the judge is the zoo's
``equivalence.py``); all others must end with exit status 0, or 1 or 5 where they miss a target or a gate. With
``--data`` the runs have random numbers for calibration data, and patterns of zeros as well as channels. Prints a line a
run and the counts. Exit status 0 when nothing is wrong.
"""

from __future__ import annotations

import argparse
import collections
import csv
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx

from onnxprune.runtime.sample_inputs import sample_inputs

PATIENCE = 900.0
NONE, DATA = ["--repair", "none"], ["--calib", "calib.npz"]
WAYS = [NONE] * 6 + [
    [*NONE, "--mixing"],
    [],
    ["--repair", "data-free"],
    ["--gate", "drift=0.3"],
    [*NONE, "--gate", "drift=0.5", "--drift-search"],
]
INFORMED = [
    DATA,
    DATA,
    [*DATA, *NONE],
    [*DATA, "--steps", "2"],
    [*DATA, "--gate", "drift=0.5"],
    *([*DATA, "--pattern", pattern] for pattern in ("2:4", "weights=0.7", "4x1=0.5")),
    [*DATA, "--pattern", "weights=0.6", "--global"],
    [*DATA, "--pattern", "channels", "--pattern", "2:4"],
    ["--pattern", "2:4", "--permute"],
    ["--pattern", "weights=0.6", "--repair", "data-free"],
]
SAMPLES = 24


def options(rng: random.Random, data: bool) -> list[str]:
    """How much goes, of what, and what happens then."""
    way = rng.choice(INFORMED if data else WAYS)
    if "--pattern" in way and "channels" not in way:
        return way
    much = rng.choice(
        [
            ["--ratio", f"{rng.choice([0.1, 0.25, 0.5, 0.5, 0.75, 0.9, rng.random()]):.3f}"],
            ["--ratio", f"{rng.uniform(0.05, 0.9):.3f}", "--global"],
            ["--target", f"{rng.choice(['macs', 'params', 'bytes'])}={rng.uniform(0.2, 0.9):.2f}"],
        ]
    )
    found = [*much, *way, "--seed", str(rng.randrange(100))]
    if not data:
        found += ["--importance", rng.choice(["l1", "l2", "fpgm", "lamp", "random"])]
    if rng.random() < 0.3:
        found += ["--round-to", str(rng.choice([2, 4, 8]))]
    if rng.random() < 0.2:
        found += ["--min-channels", str(rng.choice([2, 4, 16]))]
    if rng.random() < 0.25:
        found += ["--attention", "dims"]
    return found


def call(*command: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a Python script or module; status -1 where it takes too long."""
    try:
        done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return -1, "", f"no end within {PATIENCE:.0f} s"
    return done.returncode, done.stdout, done.stderr


def fill(path: Path, model: Path) -> None:
    """Writes samples of random inputs, each a whole feed."""
    proto = onnx.load(model)
    feeds = [sample_inputs(proto, seed=i) for i in range(SAMPLES)]
    np.savez(path, **{name: np.stack([f[name] for f in feeds]) for name in feeds[0]})


def run(model: Path, folder: Path, given: list[str], judge: Path) -> str:
    """One run: ``equivalent``, ``ran``, ``missed`` or ``refused``, anything else is wrong."""
    out, plan, data = (folder / name for name in ("pruned.onnx", "plan.json", "calib.npz"))
    if data.name in given:
        fill(data, model)
        given = [str(data) if word == data.name else word for word in given]
    code, _, err = call("-m", "onnxprune", model, "-o", out, "--plan", plan, "--json", *given)
    said = " ".join(line for line in err.splitlines() if line.startswith("error:"))
    if code == 2 and said and not out.exists():
        return f"refused: {said.removeprefix('error: ')[:100]}"
    if code in (1, 5):
        return "missed"
    if code != 0:
        return f"WRONG: exit status {code} {said or err.strip()[-200:]}"
    exact = "none" in given and not {"--mixing", "--pattern"} & {*given}  # "none" can only be the repair
    if not exact:
        return "ran"
    code, verdict, err = call(judge, model, out, "--plan", plan)
    if code == 0:
        return "equivalent"
    try:
        return f"WRONG: {json.loads(verdict).get('why')}"
    except json.JSONDecodeError:
        return f"WRONG: the judge failed: {err.strip()[-200:]}"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=0, help="number of the first run")
    parser.add_argument("--most", type=float, default=math.inf, help="parameters that a model may have")
    parser.add_argument("--data", action="store_true", help="runs with calibration data and patterns of zeros")
    parser.add_argument("--keep", type=Path, help="where to put models that went wrong")
    args = parser.parse_args()
    sys.path.insert(0, str(args.zoo.resolve()))
    import hydrate

    with (args.zoo / "INDEX.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if float(r["params"] or 0) <= args.most]
    paths = [args.zoo / "skeletons" / row["path"] for row in rows]
    paths += sorted(args.real.glob("*.onnx")) if args.real else []
    random.Random(0).shuffle(paths)
    print(f"{len(paths)} models", flush=True)
    counts: collections.Counter[str] = collections.Counter()
    end, number = time.monotonic() + 60 * args.minutes, args.seed
    while time.monotonic() < end:
        path, given = paths[number % len(paths)], options(random.Random(number), args.data)
        with tempfile.TemporaryDirectory() as tmp:
            model = path
            if path.suffix == ".gz":
                model = Path(tmp, "model.onnx")
                onnx.save(hydrate.load(path), model)
            verdict = run(model, Path(tmp), given, args.zoo / "equivalence.py")
            if verdict.startswith("WRONG") and args.keep:
                args.keep.mkdir(parents=True, exist_ok=True)
                os.replace(model, args.keep / f"{number}.onnx") if model != path else None
        counts[verdict.split(":")[0]] += 1
        print(f"{number} {path.name} {' '.join(given)}: {verdict}", flush=True)
        number += 1
    print(f"runs {args.seed} to {number - 1}: {dict(counts)}")
    return int(counts["WRONG"] > 0)


if __name__ == "__main__":
    sys.exit(main())
