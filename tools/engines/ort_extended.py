"""onnxruntime's graph optimisations, up to its extended level, saved as a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

PACKAGES = ("onnxruntime",)


def convert(source: Path, target: Path, samples: Sequence[dict[str, np.ndarray]]) -> None:
    """Optimises a model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath, options.log_severity_level = str(target), 3
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
