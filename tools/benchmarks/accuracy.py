"""What pruning leaves of the accuracy of trained models, without labels and without training.

    python -m tools.benchmarks accuracy ../shared/real [--only NAME ...] [--targets 0.7 0.5] [--samples 1024]
        [--modes none data-free calibrated distilled] [--stored-as qdq-channel] [--peer PEER_PYTHON]

FOLDER holds ``models/NAME.onnx`` and ``evaluate.py``, a script that prints the metric of a model as JSON and writes
unlabelled calibration inputs. Every model is pruned to each share of its MACs, in a process of its own: without
repair, repaired without data, with calibration data, and trained on the original's outputs too; with ``--peer``, a
Python that has onnxsim, also by that (see `peer_onnxsim.py`), at the highest number of MACs not above ours. With
``--stored-as`` the models are quantised before, in a form of `tests.support.quantised_models`, and count as what they
are worth then. A row holds the metric, its share of the original's, the same above chance, MACs left, seconds, peak
memory, and of a training the errors on held-back samples; the means over all models follow. A model that cannot reach
the target counts with what it has then.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxprune.cost.measure import measure
from onnxprune.model.inputs import fed_inputs
from onnxprune.model.model import load

OURS = {
    "none": ["--repair", "none"],
    "data-free": ["--repair", "data-free"],
    "calibrated": [],
    "distilled": ["--repair", "distilled"],
}
WITH_DATA = ("calibrated", "distilled")
DEFAULT_MODES = ("none", "data-free", "calibrated")
PEERS = {"onnxsim": False, "onnxsim-wanda": True}
"""Whether each gets the calibration data."""
PEER_STEPS = 7
QUANTISED_WITH = 64
"""Samples that static quantisation takes its ranges from."""
BICUBIC = {"psnr_y_db": 26.31}
"""Where the metric of super-resolution starts: what bicubic interpolation reaches, as the folder's notes have it."""


@dataclass
class Row:
    """One run; `left` is the share of the MACs, or of the weights that are not zero.

    `held_before` and `held_after` are the errors on the samples that judged a training: squared, as a share of the
    variance of the outputs, of the calibrated model and of the one that was taken.
    """

    model: str
    metric: str
    base: float
    target: str
    mode: str
    value: float | None = None
    of_base: float | None = None
    above_chance: float | None = None
    left: float | None = None
    seconds: float | None = None
    peak_mb: float | None = None
    held_before: float | None = None
    held_after: float | None = None
    why: str = ""

    def judge(self, value: float, chance: float) -> None:
        """Fills in what the model is worth now."""
        self.value, self.of_base = round(value, 4), round(value / self.base, 4)
        self.above_chance = round((value - chance) / (self.base - chance), 4)


def evaluate(script: Path, name: str, model: Path | None = None) -> dict[str, Any]:
    """The metric of a model by the folder's own script."""
    done = subprocess.run(
        [sys.executable, str(script), name, *([str(model)] if model else []), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_calibration(script: Path, name: str, data: Path, samples: int) -> None:
    """Writes unlabelled calibration samples of a model by the folder's own script."""
    words = [sys.executable, str(script), name, "--calib", str(data), "--n", str(samples)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def chance_of(metric: str, model: onnx.ModelProto) -> float:
    """What guessing reaches: half for an area under a curve, one of the classes for a top-1 score."""
    if metric in BICUBIC:
        return BICUBIC[metric]
    if metric.endswith("_auc"):
        return 0.5
    sizes = [math.prod(d.dim_value for d in o.type.tensor_type.shape.dim[1:]) for o in model.graph.output]
    return 1 / max(sizes) if metric == "top1" and max(sizes) > 1 else 0.0


def timed(command: Sequence[str]) -> tuple[int, str, str, float, float]:
    """Exit status, what was said on stdout, the first words on stderr, seconds, and peak memory in MB."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complaint:
        process = subprocess.Popen(command, stdout=said, stderr=complaint, text=True)
        _, status, usage = os.wait4(process.pid, 0)
        seconds, code = time.perf_counter() - start, os.waitstatus_to_exitcode(status)
        said.seek(0)
        complaint.seek(0)
        words = complaint.read().strip().splitlines()
        return code, said.read(), words[-1][:120] if words else "", seconds, usage.ru_maxrss / 1024


def prune(row: Row, model: Path, out: Path, data: Path) -> bool:
    """Prunes by our command; whether there is a model to judge."""
    words = [*OURS[row.mode], *(["--calib", str(data)] if row.mode in WITH_DATA else [])]
    code, said, row.why, seconds, peak = timed(
        [sys.executable, "-m", "onnxprune", str(model), "-o", str(out), "--target", row.target, "--json", *words]
    )
    row.seconds, row.peak_mb = round(seconds, 1), round(peak)
    if code not in (0, 1):
        return False
    report = json.loads(said)
    row.left, row.why = _share(report["macs"]["before"], report["macs"]["after"]), ""
    if (training := report["distilled"]) is not None:
        row.held_before, row.held_after = training["before"], training["after"]
    return True


def prune_by_peer(row: Row, python: str, model: Path, out: Path, data: Path) -> bool:
    """Prunes by the peer, with the smallest sparsity that reaches the target; the time is that of its last run."""
    words = ["--calib", str(data)] if PEERS[row.mode] else []
    before, target = measure(load(model), {}).macs, float(row.target.removeprefix("macs="))
    low, high, found = 0.0, 1.0, False
    for _ in range(PEER_STEPS):
        sparsity, trial = (low + high) / 2, out.with_suffix(".trial.onnx")
        code, _, why, seconds, peak = timed(
            [
                python,
                str(Path(__file__).with_name("peer_onnxsim.py")),
                str(model),
                str(trial),
                "--sparsity",
                str(sparsity),
                *words,
            ]
        )
        if code:
            row.why = why
            return False
        left = _share(before, measure(load(trial), {}).macs)
        if left is None or left > target:
            low = sparsity
            row.why = f"{left} of the MACs at a sparsity of {sparsity:.2f}"
            continue
        high, found = sparsity, True
        trial.replace(out)
        row.left, row.seconds, row.peak_mb = left, round(seconds, 1), round(peak)
    row.why = "" if found else row.why
    return found


def _share(before: int | None, after: int | None) -> float | None:
    return round(after / before, 4) if before and after is not None else None


@dataclass
class Case:
    """A model of the folder: its file, what it is worth, its calibration data, and where to write a pruned one."""

    script: Path
    model: Path
    data: Path
    out: Path
    metric: str
    base: float
    chance: float

    def row(self, target: str, mode: str) -> Row:
        """A run that is still to be done."""
        return Row(self.model.stem, self.metric, round(self.base, 4), target, mode)

    def judge(self, row: Row) -> None:
        """Fills in what the pruned model is worth."""
        row.judge(evaluate(self.script, self.model.stem, self.out)["value"], self.chance)


def quantise(model: Path, data: Path, form: str, out: Path) -> None:
    """Writes a model in a form of `tests.support.quantised_models`, with some of the calibration data."""
    from tests.support.quantised_models import VARIANTS

    proto = onnx.load(model)
    names = [value.name for value in fed_inputs(proto.graph)]
    with np.load(data) as arrays:
        feeds = [{name: arrays[name][i : i + 1] for name in names} for i in range(QUANTISED_WITH)]
    onnx.save(VARIANTS[form](proto, feeds), out)


def cases(folder: Path, names: Sequence[str] | None, samples: int, form: str | None = None) -> Iterator[Case]:
    """The models of the folder, one after the other; their files last until the next is asked for."""
    script = folder / "evaluate.py"
    for path in sorted((folder / "models").glob("*.onnx")):
        if names and path.stem not in names:
            continue
        with tempfile.TemporaryDirectory() as tmp:
            data = Path(tmp) / "calib.npz"
            write_calibration(script, path.stem, data, samples)
            model = path
            if form is not None:
                model = Path(tmp) / path.name
                quantise(path, data, form, model)
            base = evaluate(script, path.stem, model)
            yield Case(
                script,
                model,
                data,
                Path(tmp) / "pruned.onnx",
                base["metric"],
                base["value"],
                chance_of(base["metric"], onnx.load(path, load_external_data=False)),
            )


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row a run, as it is done."""
    for case in cases(args.folder, args.only, args.samples, args.stored_as):
        for target in args.targets:
            for mode in [*args.modes, *(PEERS if args.peer else ())]:
                row = case.row(f"macs={target}", mode)
                made = (
                    prune_by_peer(row, args.peer, case.model, case.out, case.data)
                    if args.peer and mode in PEERS
                    else prune(row, case.model, case.out, case.data)
                )
                if made:
                    case.judge(row)
                yield asdict(row)


def verdict(done: Sequence[dict[str, Any]], args: argparse.Namespace) -> tuple[list[str], int]:
    """Means over the models, of the share of the base metric and of the same above chance."""
    lines = []
    for target in dict.fromkeys(r["target"] for r in done):
        for mode in dict.fromkeys(r["mode"] for r in done):
            mine = [r for r in done if (r["target"], r["mode"]) == (target, mode) and r["of_base"] is not None]
            if mine:
                of_base = sum(r["of_base"] for r in mine) / len(mine)
                above = sum(r["above_chance"] for r in mine) / len(mine)
                lines.append(
                    f"{target}, {mode}: {100 * of_base:.1f}% of the base metric, {100 * above:.1f}% above "
                    f"chance, over {len(mine)} models"
                )
    return lines, 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--targets", nargs="*", type=float, default=[0.7, 0.5])
    parser.add_argument("--modes", nargs="*", choices=list(OURS), default=list(DEFAULT_MODES))
    parser.add_argument("--stored-as", metavar="FORM", help="quantise the models first")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--peer", metavar="PYTHON", help="a Python that has onnxsim")
