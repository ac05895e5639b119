"""A small classifier for tests of whole runs: quick to prune, with data that it is right for."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, parser

import onnxprune
from onnxprune.model.model import Model
from onnxprune.runtime.session import session

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,8] x) => (float[N,%d] scores)
{
  a = MatMul (x, w1)
  hidden = Relu (a)
  scores = MatMul (hidden, w2)
}
"""
WIDTH = 32


def classifier(classes: int = 4) -> onnx.ModelProto:
    """Two layers, of which half of the channels hardly matter."""
    model = parser.parse_model(TEXT % classes)
    rng = np.random.default_rng(0)
    scale = np.where(np.arange(WIDTH) < WIDTH // 2, 1.0, 0.01)
    for name, values in (("w1", rng.normal(size=(8, WIDTH)) * scale), ("w2", rng.normal(size=(WIDTH, classes)))):
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return model


def samples(count: int = 400, *, labelled: bool = True) -> dict[str, NDArray[Any]]:
    """Inputs, and the classes that the classifier chooses for them as labels."""
    x = np.random.default_rng(1).normal(size=(count, 8)).astype(np.float32)
    if not labelled:
        return {"x": x}
    return {"x": x, "labels": session(Model(classifier())).run(None, {"x": x})[0].argmax(axis=1)}


def pruned(ratio: float = 0.5, **options: Any) -> onnxprune.Result:
    """The classifier pruned by its weights, without repair and timing."""
    return onnxprune.prune(classifier(), ratio, importance="l2", repair="none", time=False, **options)
