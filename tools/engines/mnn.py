"""MNN on the CPU, in float32; inputs of 64-bit integers become 32-bit ones."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

PACKAGES = ("MNN",)
# The converter's Python module, without MNN.tools, which installs a package that reports its use.
_CONVERT = "import sys, _tools; _tools.mnnconvert(['mnnconvert', '-f', 'ONNX', *sys.argv[1:], '--bizCode', 'x'])"


def outputs(model: Path, feeds: Mapping[str, np.ndarray], folder: Path) -> list[np.ndarray]:
    """Converts a model with `mnnconvert` and runs it."""
    wanted = [o.name for o in onnx.load(model, load_external_data=False).graph.output]
    net, given = loaded(model, feeds, wanted, folder)
    return [read(y) for y in net.forward(given)]


def loaded(model: Path, feeds: Mapping[str, np.ndarray], wanted: Sequence[str], folder: Path) -> tuple[Any, list[Any]]:
    """A converted and loaded model, and its inputs."""
    made = folder / "model.mnn"
    words = ["--modelFile", str(model), "--MNNModel", str(made)]
    done = subprocess.run([sys.executable, "-c", _CONVERT, *words], capture_output=True, text=True)
    if not made.exists():
        raise RuntimeError(f"mnnconvert: {(done.stdout + done.stderr).strip()[-300:]}")
    import MNN.expr as expr
    import MNN.nn as nn

    runtime = nn.create_runtime_manager(({"backend": 0, "numThread": 1, "precision": "high"},))
    net = nn.load_module_from_file(str(made), list(feeds), list(wanted), runtime_manager=runtime)
    formats = [entry.data_format for entry in net.get_info()["inputs"]]
    given = [_variable(expr, array, layout) for array, layout in zip(feeds.values(), formats, strict=True)]
    return _Net(net), given


class _Net:
    """A module of MNN whose outputs are a list, however many there are."""

    def __init__(self, net: Any) -> None:
        self._net = net

    def forward(self, given: list[Any]) -> list[Any]:
        found = self._net.forward(given)
        return list(found) if isinstance(found, (list, tuple)) else [found]


def _variable(expr, array: np.ndarray, layout):
    whole = array.dtype.kind in "iub"
    array = array.astype(np.int32) if whole else array
    plain = expr.NCHW if layout != expr.NHWC else expr.NHWC
    variable = expr.placeholder(list(array.shape), plain, expr.int if whole else expr.float)
    variable.write(array)
    return expr.convert(variable, expr.NC4HW4) if layout == expr.NC4HW4 else variable


def read(variable) -> np.ndarray:
    """The values of an output."""
    import MNN.expr as expr

    if variable.data_format == expr.NC4HW4:
        variable = expr.convert(variable, expr.NCHW)
    return np.array(variable.read())
