"""Whether predicted sensitivity is true: the damage that ``onnxprune sensitivity`` tells beside what pruning does.

    python -m tools.benchmarks sensitivity ../shared/real [--only NAME ...] [--ratio 0.5] [--plans 0.25 0.5]

FOLDER is that of `max_drop`, or holds models with an ``INDEX.json``, as ``models/`` does. Half of each group is pruned
alone, by a run of its own with the whole repair, and the outputs on the test split are compared with the original's.
A row a group holds the predicted and the measured damage, and what is lost of the metric there; then come whole plans,
whose prediction is the sum over the groups that lose channels. The verdict is Spearman's rank correlation of predicted
and measured damage over the groups of each model, 0.9 at least.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

import onnxprune
from onnxprune.model.inputs import fed_inputs
from onnxprune.model.model import load
from onnxprune.options import Options
from onnxprune.pipeline.analysis import prunable
from onnxprune.pipeline.group_patterns import group_patterns
from onnxprune.runtime.io_slices import Batch
from onnxprune.verification.output_error import measured
from tools.benchmarks.accuracy import timed
from tools.benchmarks.max_drop import evaluation, hits

MODELS = ["resnet8_cifar10_keras", "mnist_cntk", "dscnn_kws_tf", "sst2_transformer_tiny", "resnet20_cifar10_pytorch"]
"""Labelled classifiers of several kinds."""
WHOLE = "whole plan"
LEAST = 0.9
"""Rank correlation that is asked for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=MODELS)
    parser.add_argument("--ratio", type=float, default=0.5, help="one of those that sensitivity tells")
    parser.add_argument("--plans", nargs="*", type=float, default=[0.25, 0.5])
    parser.add_argument("--samples", type=int, default=1024)


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row a group, then one a plan, of each model."""
    script = args.folder / "evaluate.py"
    for name in args.only:
        with tempfile.TemporaryDirectory() as folder:
            labelled = _real(script, name, Path(folder)) if script.exists() else _indexed(args.folder, name)
            yield from _Case(labelled, Path(folder), args.samples).rows(args)


@dataclass(frozen=True)
class _Labelled:
    """A classifier with its data.

    Attributes:
        model: Its file.
        calib: File of the calibration samples.
        inputs: Test samples, an array for each input.
        labels: Their labels.
        hits: Whether a model is right for each test sample.
    """

    model: Path
    calib: Path
    inputs: Sequence[np.ndarray]
    labels: np.ndarray
    hits: Callable[[Path], np.ndarray]


def _real(script: Path, name: str, folder: Path) -> _Labelled:
    """A model of the folder of `max_drop`, whose calibration samples are written to another folder."""
    module, model = evaluation(script), script.parent / "models" / f"{name}.onnx"
    load_split = module.SIMPLE[name][1]
    inputs, labels = load_split("calib", None)
    calib = folder / "calib.npz"
    np.savez(calib, labels=labels, **dict(zip(_inputs(model), inputs, strict=True)))
    inputs, labels = load_split("test", None)
    return _Labelled(model, calib, inputs, labels, lambda path: hits(module, path, inputs[0], labels))


def _indexed(folder: Path, name: str) -> _Labelled:
    """A model of a folder with an index."""
    entries = json.loads((folder / "INDEX.json").read_text())["models"]
    (entry,) = (one for one in entries if one["file"] == f"{name}.onnx")
    with np.load(folder / entry["test"]) as test:
        inputs, labels = test[entry["input"]], test[entry["labels_key"]]

    def right(path: Path) -> np.ndarray:
        (scores,) = onnxruntime.InferenceSession(path).run(None, {entry["input"]: inputs})
        return np.asarray(np.asarray(scores).argmax(axis=1) == labels, np.float64)

    return _Labelled(folder / entry["file"], folder / entry["calibration"], [inputs], labels, right)


def _inputs(model: Path) -> list[str]:
    return [i.name for i in fed_inputs(onnx.load(model).graph)]


class _Case:
    """One model with its data."""

    def __init__(self, labelled: _Labelled, folder: Path, samples: int) -> None:
        self._labelled, self._model, self._out = labelled, labelled.model, folder / "pruned.onnx"
        self._names = _inputs(labelled.model)
        self._words = ["--calib", labelled.calib, "--samples", samples]

    def rows(self, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
        """See `rows`."""
        _, said, _, seconds, _ = self._run(["sensitivity", self._model, "--json"])
        groups = json.loads(said)["groups"]
        before = self._labelled.hits(self._model)
        head = {"model": self._model.stem}
        for group in groups:
            row = head | {"group": group["group"], "predicted": _damage(group, args.ratio)}
            found, _ = self._pruned(before, _alone(self._model, group["group"], 1 - args.ratio))
            yield row | found
        for ratio in args.plans:
            found, pruned = self._pruned(before, ["--ratio", str(ratio)])
            total = sum(_damage(group, ratio) for group in groups if group["group"] in pruned)
            row = head | {"group": f"{WHOLE} {ratio:g}", "predicted": total, "sensitivity_seconds": round(seconds, 1)}
            yield row | found

    def _run(self, words: list[Any]) -> tuple[int, str, str, float, float]:
        return timed([sys.executable, "-m", "onnxprune", *(str(word) for word in [*words, *self._words])])

    def _pruned(self, before: np.ndarray, words: list[str]) -> tuple[dict[str, Any], set[str]]:
        """One run: what it does on the test split, and the names of the groups that lose channels."""
        command = [self._model, "-o", self._out, "--no-time", "--json", *words]
        code, said, why, seconds, _ = self._run(command)
        if code:
            return {"code": code, "why": why}, set()
        pruned = {group["name"] for group in json.loads(said)["groups"] if group["removed"]}
        error = measured(load(self._model), [load(self._out)], list(self._batches()), unsquash=True).shares()[0]
        drop = float((before - self._labelled.hits(self._out)).mean())
        return {"measured": error, "test_drop": round(drop, 4), "seconds": round(seconds, 1)}, pruned

    def _batches(self) -> Iterator[Batch]:
        fixed = onnx.load(self._model).graph.input[0].type.tensor_type.shape.dim[0].dim_value
        size, count = fixed or 128, len(self._labelled.labels)
        for start in range(0, count // size * size if fixed else count, size):
            parts = (a[start : start + size] for a in self._labelled.inputs)
            yield dict(zip(self._names, parts, strict=True))


def _alone(model: Path, group: str, share: float) -> list[str]:
    """Options with which one group keeps a share, and all others stay whole: a name may belong to several."""
    groups = prunable(onnxprune.analyze(model), Options.of(0.5).scope)
    shares = {one.pattern: share if groups[one.group].name == group else 1.0 for one in group_patterns(groups)}
    return [word for pattern, kept in shares.items() for word in ("--keep", f"{pattern}={kept:g}")]


def _damage(group: dict[str, Any], ratio: float) -> float:
    """What sensitivity tells of one group."""
    return float(next(point["damage"] for point in group["points"] if point["share"] == ratio))


def verdict(done: list[dict[str, Any]], _: argparse.Namespace) -> tuple[list[str], int]:
    """The rank correlation of each model, and how predictions compare with what was measured."""
    lines, missed = [], False
    for model in dict.fromkeys(row["model"] for row in done):
        mine = [row for row in done if row["model"] == model and "measured" in row]
        groups = [(r["predicted"], r["measured"]) for r in mine if not r["group"].startswith(WHOLE)]
        found = spearman(*zip(*groups, strict=True)) if len(groups) > 1 else float("nan")
        ratio = float(np.exp(np.mean([np.log(p / m) for p, m in groups])))
        lines.append(f"{model}: Spearman {found:.3f} of {len(groups)} groups, predicted over measured {ratio:.2f}")
        plans = [f"{r['group']}: {r['predicted']:.3g} predicted, {r['measured']:.3g} measured" for r in mine]
        lines += plans[len(groups) :]
        missed |= not found >= LEAST
    return lines, int(missed)


def spearman(first: Any, second: Any) -> float:
    """Rank correlation of two sequences of numbers without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
    return round(float(np.corrcoef(*ranks)[0, 1]), 6)
