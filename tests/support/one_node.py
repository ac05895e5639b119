"""Models of one node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from onnxprune.model.model import Model, load

Operand = tuple[str, Sequence[Any] | None, bool]
"""The name of an input, its shape, and whether it is a weight."""


def one_node(
    op: str,
    inputs: Sequence[Operand],
    output: Sequence[Any] | None,
    *,
    domain: str = "",
    opset: int = 17,
    outputs: int = 1,
    **attributes: Any,
) -> Model:
    """A model of one node whose operands are all float."""
    names = ["y", *(f"y{i}" for i in range(1, outputs))]
    node = helper.make_node(op, [n for n, _, _ in inputs], names, domain=domain, **attributes)
    weights = [numpy_helper.from_array(np.ones(s or (), "f"), n) for n, s, is_weight in inputs if is_weight and n]
    fed = [helper.make_tensor_value_info(n, 1, s) for n, s, is_weight in inputs if not is_weight]
    graph = helper.make_graph([node], "g", fed, [helper.make_tensor_value_info("y", 1, output)], weights)
    sets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return load(helper.make_model(graph, opset_imports=sets, ir_version=8))


def x(*shape: Any) -> Operand:
    """An activation."""
    return ("x", shape, False)


def w(*shape: Any, name: str = "w") -> Operand:
    """A weight."""
    return (name, shape, True)
