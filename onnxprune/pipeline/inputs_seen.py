"""What calibration samples are: their ranges, and whether they look like what the model was trained on.

A BatchNormalization keeps the mean and the variance that its input had in training. Where those of the samples are far
from them at the first one, the samples are hardly preprocessed as in training, whatever their labels. Models whose
BatchNormalization nodes were merged into the convolutions before them do not tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph.graph import Graph
from onnxprune.layers.batch_norm import normalizations
from onnxprune.model.model import Model
from onnxprune.pipeline.data import CalibrationSplit
from onnxprune.repair.batch_norm import channel_statistics
from onnxprune.report.report import InputReport, TrainingMismatch
from onnxprune.runtime.partition import CannotCut
from onnxprune.runtime.staged_run import StagedRun

FEWEST = 8
"""Samples from which on their statistics are compared with those of training."""


class _Input:
    """Sums over the values of one input."""

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = ()
        self._count = self._total = self._squares = 0.0
        self._low, self._high = np.inf, -np.inf
        self._samples = self._broken = 0
        self._first: NDArray[Any] | None = None
        self._alike = True

    def add(self, array: NDArray[Any]) -> None:
        samples = array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
        self._shape = array.shape[1:]
        self._samples += len(samples)
        self._first = samples[0].copy() if self._first is None else self._first
        self._alike &= samples.shape[1:] == self._first.shape and bool((samples == self._first).all())
        if samples.dtype.kind not in "biuf":
            return
        values = samples.astype(np.float64)
        finite = np.isfinite(values)
        self._broken += int((~finite.all(axis=1)).sum())
        values = values[finite]
        if values.size:
            self._count, self._total = self._count + values.size, self._total + values.sum()
            self._squares += np.square(values).sum()
            self._low, self._high = min(self._low, float(values.min())), max(self._high, float(values.max()))

    def report(self) -> InputReport:
        if not self._count:
            return InputReport(list(self._shape), None, None, None, None, self._samples, self._broken, self._alike)
        mean = self._total / self._count
        deviation = float(np.sqrt(max(self._squares / self._count - mean**2, 0.0)))
        return InputReport(
            list(self._shape), self._low, self._high, mean, deviation, self._samples, self._broken, self._alike
        )


def inputs_seen(data: CalibrationSplit) -> dict[str, InputReport]:
    """Shape of a sample, range, mean and deviation of each input, over the calibration samples."""
    found: dict[str, _Input] = {}
    for part in (data.held, data.fit) if data.held_out else (data.fit,):
        for feeds in part.batches():
            for name, array in feeds.items():
                found.setdefault(name, _Input()).add(np.asarray(array))
    return {name: values.report() for name, values in found.items()}


def training_mismatch(original: Model, data: CalibrationSplit) -> TrainingMismatch | None:
    """How far the samples are from training at the first BatchNormalization; None where none tells."""
    nodes = normalizations(Graph(original.proto))
    samples = data.held if data.held.count is None or data.held.count >= FEWEST else data.fit
    if not nodes or (samples.count is not None and samples.count < FEWEST):
        return None
    try:
        with StagedRun(original, samples, [[nodes[0].x.name]]) as run:
            seen = run.step()[nodes[0].x.name]
            if any(array.ndim < 2 for array in seen):
                return None
            mean, variance = channel_statistics(seen)
    except CannotCut:
        return None
    trained, spread = (original.array(t).astype(np.float64) for t in (nodes[0].mean, nodes[0].variance))
    spread = np.maximum(spread, 1e-12)
    if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
        return None
    divergence = 0.5 * (variance / spread + (mean - trained) ** 2 / spread - 1 - np.log(variance / spread))
    return TrainingMismatch(nodes[0].name, float(np.median(divergence)))


@dataclass(frozen=True)
class SamplesSeen:
    """What calibration samples are, whatever is pruned with them; see `CalibrationReport` for the attributes."""

    inputs: dict[str, InputReport]
    mismatch: TrainingMismatch | None
    unused: list[str]


def samples_seen(original: Model, data: CalibrationSplit) -> SamplesSeen:
    """Reads the samples once and compares them with what the original was trained on."""
    return SamplesSeen(inputs_seen(data), training_mismatch(original, data), unused(data))


def unused(data: CalibrationSplit) -> list[str]:
    """Names of given arrays that are neither inputs nor labels."""
    return list(dict.fromkeys(getattr(data.fit, "unused", ())))
