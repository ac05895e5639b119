"""Which wrong preprocessing of calibration samples a run tells, and what it costs the model that is not pruned.

    python -m tools.benchmarks preprocessing ../shared/real [--only NAME ...] [--samples 128]

FOLDER is that of `max_drop`. The samples of each model are fed as in training, and in every other way of `WAYS` that
their shape allows. A row holds the accuracy of the original on them (top1 of the split ``calib``), and what the run
said: an error, or its warning of the preprocessing. The verdict is a table, and counts warnings of right samples.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import onnxprune
from tools.benchmarks.max_drop import evaluation, hits

Array = NDArray[Any]

MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
LESS = np.array([123.0, 117.0, 104.0])
"""Statistics of ImageNet per channel, of values from 0 to 1; its mean of values from 0 to 255."""


@dataclass(frozen=True)
class Original:
    """How the samples of a model are made from bytes: ``(bytes - shift) / factor``; and where their channels are."""

    factor: Array
    shift: Array
    axis: int


MODELS = {
    "resnet20_cifar10_pytorch": Original(255 * DEVIATION, 255 * MEAN, 1),
    "mobilenetv2_1.0_224_tf2": Original(np.array([127.5]), np.array([127.5]), 3),
    "dscnn_kws_tf": Original(np.array([1 / 0.5847029]), np.array([83.0]), 3),
}

WAYS: dict[str, Callable[[Array], Array | None]] = {
    "bytes": lambda x: x,
    "bytes less the mean": lambda x: x - LESS if x.shape[-1] == 3 else x - x.mean(),
    "0 to 1": lambda x: (x - _lowest(x)) / 255,
    "-1 to 1": lambda x: (x - _lowest(x)) / 127.5 - 1,
    "standardized": lambda x: (x / 255 - MEAN) / DEVIATION if x.shape[-1] == 3 else (x - x.mean()) / x.std(),
}
"""From bytes, channels last."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--samples", type=int, default=128)


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each way of feeding each model."""
    module = evaluation(args.folder / "evaluate.py")
    for name in args.only:
        model = args.folder / "models" / f"{name}.onnx"
        (right,), labels = module.SIMPLE[name][1]("calib", args.samples)
        for way, inputs in ways(right, MODELS[name]):
            row = {"model": name, "fed": way}
            if inputs.shape == right.shape:
                row["top1"] = round(float(hits(module, model, inputs, labels).mean()), 3)
            yield row | {"told": told(model, inputs)}


def ways(right: Array, original: Original) -> Iterator[tuple[str, Array]]:
    """The samples as in training, and otherwise; a way that changes nothing is left out."""
    yield "as in training", right
    last = np.moveaxis(right, original.axis, -1)
    for way, make in WAYS.items():
        made = np.moveaxis(np.asarray(make(last * original.factor + original.shift)), -1, original.axis)
        if not np.allclose(made, right, atol=1e-3):
            yield way, np.ascontiguousarray(made, dtype=np.float32)
    if last.shape[-1] == 3:
        yield "channels in reverse", np.ascontiguousarray(np.flip(right, original.axis))
    other = last if original.axis == 1 else np.moveaxis(right, 3, 1)
    yield "channels first" if original.axis == 3 else "channels last", np.ascontiguousarray(other)


def told(model: Path, inputs: Array) -> str:
    """What a run says of the samples; empty where it says nothing."""
    try:
        done = onnxprune.prune(model, 0.1, repair="none", importance="l2", calib=inputs, time=False)
    except onnxprune.InputError as error:
        return f"error: {error}"
    return "; ".join(line for line in done.report.warnings if "preprocessed" in line)


def verdict(done: list[dict[str, Any]], _: argparse.Namespace) -> tuple[list[str], int]:
    """The table, and how many rows of right samples were warned of."""
    lines = ["| Model | samples | top1 | said |", "|---|---|---:|---|"]
    for row in done:
        score = f"{100 * row['top1']:.1f}" if "top1" in row else ""
        said = row["told"].removeprefix("calibration data: ").replace("|", "\\|").split("): are the samples")
        lines.append(f"| `{row['model']}` | {row['fed']} | {score} | {said[0] + ')' * (len(said) > 1) or 'nothing'} |")
    wrong = sum(row["fed"] == "as in training" and bool(row["told"]) for row in done)
    return [*lines, f"warnings of samples as in training: {wrong}"], int(wrong > 0)


def _lowest(x: Array) -> float:
    """The lowest value of the type of the bytes: int8 or uint8."""
    return -128.0 if round(float(x.min())) < 0 else 0.0
