"""Calibration data: files, folders, images, arrays and streams, read as batches that fit the model's inputs.

Data are streamed: memory is bounded by the size of a batch.
"""

from onnxprune.calibration.samples import Progress, Samples
from onnxprune.calibration.sources import open_samples

__all__ = ["Progress", "Samples", "open_samples"]
