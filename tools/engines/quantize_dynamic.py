"""onnxruntime's `quantize_dynamic`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

PACKAGES = ("onnxruntime",)


def convert(source: Path, target: Path, samples: Sequence[dict[str, np.ndarray]]) -> None:
    """Quantises weights; activations are quantised at run time."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(str(source), str(target), weight_type=QuantType.QUInt8)
