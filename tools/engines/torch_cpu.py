"""PyTorch, by way of onnx2torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

PACKAGES = ("onnx2torch", "torch")


def outputs(model: Path, feeds: Mapping[str, np.ndarray], folder: Path) -> list[np.ndarray]:
    """Converts a model to a module and runs it."""
    import onnx2torch
    import torch

    module = onnx2torch.convert(str(model)).eval()
    with torch.no_grad():
        found = module(*(torch.from_numpy(array) for array in feeds.values()))
    return [tensor.numpy() for tensor in (found if isinstance(found, (list, tuple)) else [found])]
