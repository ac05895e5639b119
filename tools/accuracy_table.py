"""What pruning leaves of the accuracy of trained models, without labels and without training.

    python tools/accuracy_table.py ../shared/real [--only NAME ...] [--targets 0.7 0.5] [--samples 400] [--csv FILE]

FOLDER holds ``models/NAME.onnx`` and ``evaluate.py``, a script that prints the metric of a model as JSON and writes
unlabelled calibration inputs. Every model is pruned to each share of its MACs, in a process of its own: without
repair, repaired without data, and with calibration data. Prints the metric, its share of the original's, the same
above chance, seconds and peak memory, and the means over all models.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MODES: dict[str, list[str]] = {"none": ["--repair", "none"], "data-free": ["--repair", "data-free"], "calibrated": []}
CHANCE = {"person_presence_auc": 0.5, "clip_auc": 0.5}
"""Where a guess stands, for metrics that begin above zero."""
FIELDS = ["model", "metric", "base", "target", "mode", "value", "of_base", "macs_left", "seconds", "peak_mb", "why"]


def evaluate(script: Path, name: str, model: Path | None, extra: list[str]) -> dict[str, Any]:
    """The metric of a model by the folder's own script."""
    done = subprocess.run([sys.executable, str(script), name, *([str(model)] if model else []), "--json", *extra],
                          capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def prune(model: Path, out: Path, share: float, words: list[str]) -> tuple[dict[str, Any] | None, str, float, float]:
    """Runs the command; report (None where it failed), last words, seconds and peak memory in MB."""
    command = [sys.executable, "-m", "onnxprune", str(model), "-o", str(out), "--target", f"macs={share}", "--json",
               *words]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complaint:
        process = subprocess.Popen(command, stdout=said, stderr=complaint, text=True)
        _, status, usage = os.wait4(process.pid, 0)
        seconds, code = time.perf_counter() - start, os.waitstatus_to_exitcode(status)
        said.seek(0)
        complaint.seek(0)
        words_said = complaint.read().strip().splitlines()
        report = json.loads(said.read()) if code in (0, 1) else None
    return report, words_said[0] if words_said else "", seconds, usage.ru_maxrss / 1024


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--targets", nargs="*", type=float, default=[0.7, 0.5])
    parser.add_argument("--modes", nargs="*", default=list(MODES))
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    script = args.folder / "evaluate.py"
    rows: list[dict[str, Any]] = []
    for path in sorted((args.folder / "models").glob("*.onnx")):
        if args.only and path.stem not in args.only:
            continue
        with tempfile.TemporaryDirectory() as tmp:
            data = Path(tmp) / "calib.npz"
            subprocess.run([sys.executable, str(script), path.stem, "--calib", str(data), "--n", str(args.samples)],
                           check=True)
            base = evaluate(script, path.stem, None, [])
            for share in args.targets:
                for mode in args.modes:
                    out = Path(tmp) / "pruned.onnx"
                    words = [*MODES[mode], *(["--calib", str(data)] if mode == "calibrated" else [])]
                    report, why, seconds, peak = prune(path, out, share, words)
                    value = evaluate(script, path.stem, out, [])["value"] if report else None
                    macs = report["macs"] if report else {"before": None}
                    rows.append({
                        "model": path.stem, "metric": base["metric"], "base": round(base["value"], 4), "target": share,
                        "mode": mode, "value": None if value is None else round(value, 4),
                        "of_base": None if value is None else round(value / base["value"], 4),
                        "macs_left": round(macs["after"] / macs["before"], 4) if macs["before"] else None,
                        "seconds": round(seconds, 1), "peak_mb": round(peak), "why": "" if report else why})
                    print(" | ".join(str(v) for v in rows[-1].values()), flush=True)
    if args.csv:
        with args.csv.open("w", newline="") as f:
            writer = csv.DictWriter(f, FIELDS)
            writer.writeheader()
            writer.writerows(rows)
    summary(rows)


def summary(rows: list[dict[str, Any]]) -> None:
    """Means over the models, of the share of the base metric and of the same above chance."""
    for share in dict.fromkeys(r["target"] for r in rows):
        for mode in dict.fromkeys(r["mode"] for r in rows):
            mine = [r for r in rows if r["target"] == share and r["mode"] == mode and r["value"] is not None]
            if mine:
                mean = sum(r["of_base"] for r in mine) / len(mine)
                above = [(r["value"] - c) / (r["base"] - c) for r in mine for c in [CHANCE.get(r["metric"], 0.0)]]
                print(f"macs={share}, {mode}: {100 * mean:.1f}% of the base metric, "
                      f"{100 * sum(above) / len(above):.1f}% above chance, over {len(mine)} models")


if __name__ == "__main__":
    main()
