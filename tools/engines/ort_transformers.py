"""onnxruntime's optimiser of transformers, which fuses attention and normalisations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

PACKAGES = ("onnxruntime", "sympy")


def convert(source: Path, target: Path, samples: Sequence[dict[str, np.ndarray]]) -> None:
    """Fuses what looks like a BERT; heads and width are detected."""
    from onnxruntime.transformers.optimizer import optimize_model

    optimize_model(str(source), model_type="bert", num_heads=0, hidden_size=0, opt_level=0).save_model_to_file(
        str(target)
    )
