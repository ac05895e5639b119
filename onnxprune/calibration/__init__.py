"""Calibration data: whatever people have, as batches that fit the model, with memory bounded by the batch."""

from onnxprune.calibration.samples import Progress, Samples
from onnxprune.calibration.sources import open_samples

__all__ = ["Progress", "Samples", "open_samples"]
