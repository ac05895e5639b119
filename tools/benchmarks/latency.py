"""Accuracy at equal time: a target of latency beside targets of MACs at several multiples.

    python -m tools.benchmarks latency ../shared/real [--only NAME ...] [--targets 0.6] [--multiples 1 4 8 16]
        [--samples 128]

FOLDER is that of `accuracy`. Every model is measured once, and pruned to each share of its time; then to the share of
its MACs that takes the same time at each multiple of ``--round-to``, which is searched by measuring. All are repaired
with the same samples. A row holds the predicted time (of the first try, and of the one that was taken), the time of the
result measured anew against the original in alternation (onnxruntime, one thread, processor time), the MACs left, and
the metric with its share of the original's.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxprune.cost.measure import measure
from onnxprune.errors import InputError
from onnxprune.model.save import save
from onnxprune.options import LATENCY, Channels, Options
from onnxprune.pipeline.analysis import reanalyze
from onnxprune.pipeline.attempt import attempt, select
from onnxprune.pipeline.original import Original
from onnxprune.pipeline.prepare import Prepared, prepare
from onnxprune.pipeline.progress import Clock
from onnxprune.pipeline.time_target import measured_ratio
from onnxprune.runtime.determinism import limited_run
from onnxprune.verification.check import time_models
from tools.benchmarks.accuracy import evaluate, write_calibration

MODELS = [
    "resnet8_cifar10_keras",
    "resnet20_cifar10_pytorch",
    "resnet56_cifar10_pytorch",
    "ppocr_cls_paddle",
    "mobilenetv1_0.25_128_tf1",
    "mobilenetv2_1.0_224_tf2",
    "fastestdet_coco_pytorch",
    "deeplabv3_mnv2_dm05_tf1",
    "dscnn_kws_tf",
    "kwt1_kws_transformer_tf",
    "sst2_transformer_tiny",
    "squeezenet1.1_caffe2",
]
"""Labelled models with convolutions or attention."""
BISECTIONS = 6
"""Shares of the MACs that are tried for the same time."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command line."""
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=MODELS)
    parser.add_argument("--targets", nargs="*", type=float, default=[0.6])
    parser.add_argument("--multiples", nargs="*", type=int, default=[1, 4, 8, 16])
    parser.add_argument("--samples", type=int, default=128)


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row a run."""
    script = args.folder / "evaluate.py"
    for name in args.only:
        model = args.folder / "models" / f"{name}.onnx"
        base = evaluate(script, name)["value"]
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "calib.npz"
            write_calibration(script, name, data, args.samples)
            options = Options.of(target={LATENCY: args.targets[0]}, calib=str(data), verify=False, time=False)
            with limited_run(options.resources):
                original, clock = Original.of(model), Clock()
                prepared = prepare(original, options, clock)
                for target in args.targets:
                    for channels in _tried(prepared, target, args.multiples):
                        yield {"model": name, "target": target, **_row(prepared, channels, script, name, base)}


def _tried(prepared: Prepared, target: float, multiples: list[int]) -> Iterator[Channels]:
    """A target of latency, and targets of MACs that take as long."""
    yield Channels(target={LATENCY: target})
    for multiple in multiples:
        low, high = 0.02, 1.0
        found = None
        for _ in range(BISECTIONS):
            share = (low + high) / 2
            channels = Channels(target={"macs": share}, round_to=multiple)
            if _ratio(prepared, channels) <= target:
                low, found = share, channels
            else:
                high = share
        if found is not None:
            yield found


def _ratio(prepared: Prepared, channels: Channels) -> float:
    assert prepared.timed is not None and prepared.timed.engine is not None
    return measured_ratio(prepared.analysis, prepared.timed.engine, select(prepared, channels))


def _row(prepared: Prepared, channels: Channels, script: Path, name: str, base: float) -> dict[str, Any]:
    row: dict[str, Any] = {"by": "latency" if LATENCY in channels.limits else f"macs, multiples of {channels.round_to}"}
    try:
        copy = reanalyze(prepared.analysis, prepared.analysis.model.copy())
        first = select(prepared, channels).targets
        pruned = attempt(prepared, replace(prepared.options, channels=channels), copy)
    except InputError as error:
        return row | {"why": error.message}
    assert prepared.timed is not None
    if pruned.latency is not None:
        whole = prepared.timed.times.milliseconds
        row |= {"first": first[LATENCY]["left"] / whole, "measured": (pruned.latency.measured or 0) / whole}
        row["predicted"] = pruned.latency.predicted / whole
    timing = time_models(prepared.original.source, pruned.model, io_slices=pruned.io_slices)
    before, after = prepared.loaded.cost.macs, measure(pruned.model, run=True).macs
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pruned.onnx"
        save(pruned.model, path)
        value = evaluate(script, name, path)["value"]
    return row | {
        "time": timing if isinstance(timing, str) else timing.ratio,
        "macs": after / before if before and after else None,
        "metric": value,
        "of_base": value / base,
    }
