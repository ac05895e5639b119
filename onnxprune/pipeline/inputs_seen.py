"""What calibration samples are: their ranges, and whether they look like what the model was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.model.model import Model
from onnxprune.pipeline.data import CalibrationSplit
from onnxprune.pipeline.training_match import scale_mismatch, training_mismatch
from onnxprune.report.report import InputReport, ScaleMismatch, TrainingMismatch


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
        axes = getattr(part, "axes", None) or {}
        for feeds in part.batches():
            for name, array in feeds.items():
                samples = np.asarray(array)
                found.setdefault(name, _Input()).add(np.moveaxis(samples, axes[name], 0) if name in axes else samples)
    return {name: values.report() for name, values in found.items()}


@dataclass(frozen=True)
class SamplesSeen:
    """What calibration samples are, whatever is pruned with them; see `CalibrationReport` for the attributes."""

    inputs: dict[str, InputReport]
    mismatch: TrainingMismatch | None
    scale: ScaleMismatch | None
    unused: list[str]


def samples_seen(original: Model, data: CalibrationSplit) -> SamplesSeen:
    """Reads the samples once and compares them with what the original was trained on."""
    mismatch, scale = training_mismatch(original, data), scale_mismatch(original, data)
    return SamplesSeen(inputs_seen(data), mismatch, scale, unused(data))


def unused(data: CalibrationSplit) -> list[str]:
    """Names of given arrays that are neither inputs nor labels."""
    return list(dict.fromkeys(getattr(data.fit, "unused", ())))
