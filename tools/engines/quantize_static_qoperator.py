"""onnxruntime's `quantize_static`, as QOperator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tools.engines.static_quantization import quantize

PACKAGES = ("onnxruntime",)


def convert(source: Path, target: Path, samples: Sequence[dict[str, np.ndarray]]) -> None:
    """Quantises weights and activations."""
    quantize(source, target, samples, "QOperator")
