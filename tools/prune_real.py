"""Prunes a folder of trained models and holds each result to masked equivalence.

    python tools/prune_real.py ../shared/real/models --judge ../shared/zoo/equivalence.py [--ratio 0.5] [--markdown]

Runs ``onnxprune MODEL --ratio R --repair none`` on every model, then the judge (a script that takes ORIGINAL PRUNED
--plan PLAN and exits with 0 when the pruned model computes what the masked original does), and prints a row a model:
what is left of parameters, MACs and bytes, the drift of the first output, the seconds. Exit status 0 when none
crashes and none is wrong.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

COLUMNS = [
    "model",
    "verdict",
    "params",
    "params left",
    "MACs",
    "MACs left",
    "bytes left",
    "drift (relative RMS)",
    "seconds",
]


def prune(model: Path, folder: Path, ratio: float, judge: Path | None) -> list[str]:
    """One row of the table: prunes `model` in a process of its own and judges the result."""
    out, plan = folder / "pruned.onnx", folder / "plan.json"
    command = [
        sys.executable,
        "-m",
        "onnxprune",
        str(model),
        "-o",
        str(out),
        "--ratio",
        str(ratio),
        "--repair",
        "none",
        "--plan",
        str(plan),
        "--json",
    ]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[0]
        return [model.stem, f"exit {done.returncode}: {last}"] + ["-"] * 6 + [f"{seconds:.1f}"]
    report = json.loads(done.stdout)
    verdict = "not judged"
    if judge is not None:
        judged = subprocess.run(
            [sys.executable, str(judge), str(model), str(out), "--plan", str(plan)], capture_output=True, text=True
        )
        verdict = "equivalent" if judged.returncode == 0 else f"WRONG: {_why(judged.stdout)}"
    drift = next(iter(report["drift"].values()), {}).get("rel_rms")
    return [
        model.stem,
        verdict,
        f"{report['params']['before']:,}",
        _left(report["params"]),
        "-" if report["macs"]["before"] is None else f"{report['macs']['before'] / 1e6:,.1f} M",
        _left(report["macs"]),
        _left(report["bytes"]),
        "-" if drift is None else f"{drift:.3f}",
        f"{seconds:.1f}",
    ]


def _why(stdout: str) -> str:
    try:
        return str(json.loads(stdout).get("why", "no reason"))
    except json.JSONDecodeError:
        return "the judge failed"


def _left(pair: dict[str, Any]) -> str:
    return f"{pair['after'] / pair['before']:.2f}" if pair["before"] and pair["after"] is not None else "-"


def show(rows: list[list[str]], markdown: bool) -> None:
    """Prints the rows under their columns."""
    table = [COLUMNS, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(COLUMNS))]
    lines = [" | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]
    if markdown:
        lines = [f"| {line} |" for line in lines]
        lines.insert(1, "|" + "---|" * len(COLUMNS))
    print("\n".join(lines))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--judge", type=Path)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    rows = []
    for model in sorted(args.folder.glob("*.onnx")):
        with tempfile.TemporaryDirectory() as tmp:
            rows.append(prune(model, Path(tmp), args.ratio, args.judge))
            print(f"{rows[-1][0]}: {rows[-1][1]}", file=sys.stderr, flush=True)
    show(rows, args.markdown)
    return int(any(not row[1].startswith(("equivalent", "not judged")) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
