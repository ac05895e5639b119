"""OnnxSlim."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

PACKAGES = ("onnxslim",)


def convert(source: Path, target: Path, samples: Sequence[dict[str, np.ndarray]]) -> None:
    """Folds constants and fuses nodes."""
    import onnxslim

    onnxslim.slim(str(source), str(target))
