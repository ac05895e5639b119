"""OpenVINO on the CPU, in float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

PACKAGES = ("openvino",)


def outputs(model: Path, feeds: Mapping[str, np.ndarray], folder: Path) -> list[np.ndarray]:
    """Converts a model as `ovc` does and runs it."""
    import openvino

    converted = openvino.convert_model(str(model))
    names = {port.any_name: next(n for n in feeds if n in port.names) for port in converted.inputs}
    converted.reshape({port: list(feeds[name].shape) for port, name in names.items()})
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(converted, "CPU", settings)
    found = compiled({port: feeds[name] for port, name in names.items()})
    return [np.array(found[port]) for port in compiled.outputs]
