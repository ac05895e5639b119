"""tract (Rust) on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

PACKAGES = ("tract",)
_TYPES = {"float32": "f32", "float64": "f64", "int64": "i64", "int32": "i32", "bool": "bool"}


def outputs(model: Path, feeds: Mapping[str, np.ndarray], folder: Path) -> list[np.ndarray]:
    """Loads a model for inputs of these shapes and runs it."""
    import tract

    loaded = tract.onnx().load(str(model))
    for position, array in enumerate(feeds.values()):
        loaded.set_input_fact(position, f"{','.join(map(str, array.shape))},{_TYPES[str(array.dtype)]}")
    loaded.analyse()
    found = loaded.into_model().into_runnable().run(list(feeds.values()))
    return [np.array(value.to_numpy()) for value in found]
