"""CPU time, wall time and anonymous memory of every verb on a large model, beside copying and reading its files.

    python -m tools.benchmarks streaming [MODEL.onnx | --gigabytes 1 --weights float16|int4] [--only prune ...]
        [--rounds 3] [--folder FOLDER]

Without a model it writes a decoder (see `tools.decoders`). Each side is a process of its own, and in every round all
of them take their turn. ``copy`` is `cp` of all files plus one read of them. Memory is the largest sum of RssAnon of
a process and its children, seen every 20 ms: mapped files do not count, as the system may drop their pages. CPU time
is that of all of them. Modules are compiled beforehand, as an installation does it. Sides write to disk as they would
for a user; `cp` leaves its pages to the system's cache, and everything else syncs what it writes, so that ``copy
synced`` is the fairer wall time. At the end the medians, and their ratios to those of ``copy``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onnxprune.model.model import load
from tools.decoders import Sizes, write

ANONYMOUS = "RssAnon:"
POLL = 0.02


def sides(model: Path, folder: Path) -> dict[str, list[str]]:
    """The command of each side."""
    files = " ".join(f"'{file}'" for file in [model, *load(model).data_files])
    cli = [sys.executable, "-m", "onnxprune"]
    pruned, plan = str(folder / "pruned.onnx"), str(folder / "plan.json")
    written = ["-o", pruned, "--force", "--quiet", "--no-verify"]
    ratio = ["--ratio", "0.3"]
    copied = f"mkdir -p '{folder}/copy' && cp {files} '{folder}/copy' && cat {files} >/dev/null"
    return {
        "copy": ["sh", "-c", copied],
        "copy synced": ["sh", "-c", f"{copied} && sync '{folder}'/copy/*"],
        "prune": [*cli, str(model), *ratio, *written],
        "2:4": [*cli, str(model), "--pattern", "2:4", *written],
        "unstructured": [*cli, str(model), "--pattern", "weights=0.5", *written],
        "sparse": [*cli, str(model), "--pattern", "weights=0.9", "--sparse-storage", *written],
        "plan": [*cli, str(model), *ratio, "--dry-run", "--plan", plan, "--force", "--quiet"],
        "apply": [*cli, "apply", plan, str(model), *written],
        "inspect": [*cli, "inspect", str(model), "--json"],
        "inspect zeros": [*cli, "inspect", str(model), "--sparsity", "--json"],
        "verified": [*cli, str(model), *ratio, *(w for w in written if w != "--no-verify"), "--no-time"],
    }


def measured(command: list[str], log: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Runs a command; its seconds, CPU seconds, and anonymous memory in megabytes.

    Raises:
        RuntimeError: It fails; its last line is told.
    """
    before, start, most = _cpu(), time.perf_counter(), 0
    with (
        open(log, "wb") as out,
        subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment) as process,
    ):
        while process.poll() is None:
            most = max(most, sum(map(_anonymous, _family(process.pid))))
            time.sleep(POLL)
    if process.returncode:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {''.join(last)}")
    return {"wall_s": time.perf_counter() - start, "cpu_s": _cpu() - before, "anonymous_mb": most / 1e6}


def _cpu() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def _family(process: int) -> Iterator[int]:
    """A process and all that it started, as far as they are there."""
    yield process
    with contextlib.suppress(OSError):
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            for child in children.read_text().split():
                yield from _family(int(child))


def _anonymous(process: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(ANONYMOUS):
                return int(line.split()[1]) * 1024
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--weights", choices=["float16", "int4"], default="float16")
    parser.add_argument("--only", nargs="+", default=[], metavar="SIDE", help="copy and these only")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write; it needs three times the model's size")


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row a run; what a side writes is removed before the next one begins."""
    with tempfile.TemporaryDirectory(dir=args.folder) as tmp:
        folder, model = Path(tmp), args.model
        if model is None:
            model = folder / "decoder.onnx"
            write(model, Sizes().filling(args.gigabytes * 1e9, args.weights), args.weights)
        plan = folder / "plan.json"
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "compiled"), "PYTHONDONTWRITEBYTECODE": ""}
        _compile(folder, args.weights, environment)
        wanted = {"copy", "plan", *args.only} if "apply" in args.only else {"copy", *args.only}
        for _ in range(args.rounds):
            for name, command in sides(model, folder).items():
                if args.only and name not in wanted:
                    continue
                yield {"side": name, **measured(command, folder / "log", environment)}
                _clear(folder, "pruned*", "copy")
            plan.unlink(missing_ok=True)


def _compile(folder: Path, weights: str, environment: dict[str, str]) -> None:
    """Runs each side on a small model, so that Python stores what it compiles where the environment says."""
    small = folder / "small.onnx"
    write(small, Sizes(hidden=256, inner=512, vocabulary=64), weights)
    for command in sides(small, folder).values():
        measured(command, folder / "log", environment)
    _clear(folder, "pruned*", "copy", "plan.json", "small*")


def _clear(folder: Path, *patterns: str) -> None:
    for pattern in patterns:
        for file in folder.glob(pattern):
            shutil.rmtree(file) if file.is_dir() else file.unlink()


def verdict(done: list[dict[str, Any]], args: argparse.Namespace) -> tuple[list[str], int]:
    """Medians, and their ratios to those of the copy."""
    figures = ("wall_s", "cpu_s", "anonymous_mb")
    medians = {
        side: [statistics.median(row[f] for row in done if row["side"] == side) for f in figures]
        for side in dict.fromkeys(row["side"] for row in done)
    }
    wall, cpu, _ = medians["copy"]
    lines = ["side           wall s   ratio   CPU s   ratio   anonymous MB"]
    lines += [
        f"{side:13} {a:7.1f} {a / wall:7.2f} {b:7.1f} {b / cpu:7.2f} {c:14.0f}" for side, (a, b, c) in medians.items()
    ]
    return lines, 0
