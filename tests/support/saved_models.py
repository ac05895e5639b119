"""What tests of saving share: models with external data, and what a saved model consists of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxprune.model.model import load


def chain(width: int, layers: int, seed: int = 0) -> onnx.ModelProto:
    """A chain of matrix products with weights of width * width * 4 bytes."""
    rng = np.random.default_rng(seed)
    weights = [numpy_helper.from_array(rng.standard_normal((width, width), "f"), f"w{i}") for i in range(layers)]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(layers)]
    ends = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [1, width]) for i in (0, layers)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def external(folder: Path, name: str = "in.onnx", **sizes: int) -> Path:
    """A chain with its weights in a data file of another kind of name than ours."""
    path = folder / name
    onnx.save(chain(**sizes), path, save_as_external_data=True, location=f"{name}.weights", size_threshold=0)
    return path


def saved_as(path: Path) -> dict[str, bytes]:
    """A saved model with the data files that it refers to, by name; loading it is part of the question."""
    return {f.name: f.read_bytes() for f in (path, *load(path).data_files)}
