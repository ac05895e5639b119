"""TensorFlow Lite (LiteRT), by way of onnx2tf; images are given and returned with channels last."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("onnx2tf", "tensorflow", "ai-edge-litert")
_SAMPLES = "calibration_image_sample_data_20x128x128x3_float32.npy"
"""A file of images that onnx2tf downloads where it is not in the working directory."""


def outputs(model: Path, feeds: Mapping[str, np.ndarray], folder: Path) -> list[np.ndarray]:
    """Converts a model with `onnx2tf` and runs it."""
    from ai_edge_litert.interpreter import Interpreter

    shutil.copy(model, folder / "m.onnx")
    np.save(folder / _SAMPLES, np.random.default_rng(0).random((20, 128, 128, 3), dtype=np.float32))
    shapes = [f"{name}:{','.join(map(str, array.shape))}" for name, array in feeds.items()]
    program = Path(sys.executable).parent / "onnx2tf"
    words = [str(program), "-i", "m.onnx", "-o", "made", "-ois", *shapes, "-n", "-nuo", "-coion"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    made = folder / "made" / "m_float32.tflite"
    if not made.exists():
        raise RuntimeError(f"onnx2tf: {(done.stdout + done.stderr).strip()[-300:]}")
    interpreter = Interpreter(str(made), num_threads=1)
    interpreter.allocate_tensors()
    details = interpreter.get_input_details()
    for detail in details:
        interpreter.set_tensor(detail["index"], _fitting(detail, feeds, len(details)))
    interpreter.invoke()
    return [np.array(interpreter.get_tensor(detail["index"])) for detail in interpreter.get_output_details()]


def _fitting(detail: dict[str, Any], feeds: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    """The array of one input, in the order of axes that it has there."""
    named = [array for name, array in feeds.items() if name.replace("/", "_") in detail["name"]]
    array = next(iter(feeds.values())) if count == 1 else named[0]
    wanted = tuple(detail["shape"])
    if array.shape != wanted and array.ndim > 2:
        array = np.moveaxis(array, 1, -1)
    return np.ascontiguousarray(array, dtype=detail["dtype"]).reshape(wanted)
