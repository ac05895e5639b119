"""A target of latency in several engines, and the cross table: pruned for one, run in another.

    python -m tools.benchmarks engines ../shared/real [--only NAME ...] [--target 0.6] [--samples 128]
        [--engines onnxruntime openvino mnn]

FOLDER is that of `accuracy`. Each model is measured in each engine (`tools.timers`, one thread, processor time), pruned
to the share of its time there, and held to it there. A row holds the time left in every engine, measured anew against
the original in alternation, and the metric.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import onnxprune
from onnxprune.engines.profiles import DEFAULT
from onnxprune.errors import OnnxPruneError
from onnxprune.verification.check import time_models
from tools import timers
from tools.benchmarks.accuracy import evaluate, write_calibration

MODELS = ["resnet8_cifar10_keras", "resnet20_cifar10_pytorch", "ppocr_cls_paddle", "mobilenetv1_0.25_128_tf1"]
"""Labelled models that all three engines take."""
ENGINES = [DEFAULT, "openvino", "mnn"]
PAIRS = 5
"""Times that original and pruned model are loaded and timed in an engine in turn."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=MODELS)
    parser.add_argument("--engines", nargs="*", default=ENGINES, choices=ENGINES)
    parser.add_argument("--target", type=float, default=0.6)
    parser.add_argument("--samples", type=int, default=128)


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row a model and engine."""
    script = args.folder / "evaluate.py"
    for name in args.only:
        model = args.folder / "models" / f"{name}.onnx"
        base = evaluate(script, name)["value"]
        with tempfile.TemporaryDirectory() as folder:
            data, pruned = Path(folder) / "calib.npz", Path(folder) / "pruned.onnx"
            write_calibration(script, name, data, args.samples)
            for engine in args.engines:
                row: dict[str, Any] = {"model": name, "for": engine, "target": args.target}
                try:
                    result = onnxprune.prune(
                        model,
                        target={"latency": args.target},
                        engine=DEFAULT if engine == DEFAULT else f"tools.timers:{engine}",
                        calib=data,
                        verify=False,
                        time=False,
                    )
                except OnnxPruneError as error:
                    yield row | {"why": str(error)}
                    continue
                result.save(pruned)
                found = result.report.targets["latency"]
                whole = found.asked / args.target
                row |= {"first": (found.predicted or 0) / whole, "measured": (found.left or 0) / whole}
                row |= {f"in {other}": time_left(model, pruned, other) for other in ENGINES}
                value = evaluate(script, name, pruned)["value"]
                yield row | {"metric": value, "of_base": value / base}


def time_left(model: Path, pruned: Path, engine: str) -> float | str:
    """Time of a pruned model as a share of its original's; why not, where the engine does not take it."""
    if engine == DEFAULT:
        timing = time_models(model, pruned)
        return timing if isinstance(timing, str) else timing.ratio
    timer = getattr(timers, engine)
    try:
        return float(np.median([timer(str(pruned)) / timer(str(model)) for _ in range(PAIRS)]))
    except Exception as error:  # an engine may fail in any way
        return f"{type(error).__name__}: {error}"[:80]
