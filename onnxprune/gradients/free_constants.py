"""Constants as inputs of a model: their values can then change from run to run."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import GraphProto, helper

from onnxprune.graph.graph import Graph
from onnxprune.model.inputs import fed_inputs
from onnxprune.model.model import Model
from onnxprune.model.tensors import replace_entries

IR_VERSION = 4
"""The first one in which an initializer need not be a graph input."""


def free_constants(model: Model, names: Iterable[str]) -> None:
    """Makes constants of the main graph inputs, in place; inputs that had defaults are no inputs any more.

    Args:
        model: The model.
        names: Names of initializers, or of outputs of Constant nodes.
    """
    graph, values, free = model.proto.graph, Graph(model.proto).main.names, list(names)
    infos = [helper.make_tensor_value_info(n, values[n].elem_type, values[n].shape) for n in free]
    replace_entries(graph.input, [*fed_inputs(graph), *infos])
    replace_entries(graph.initializer, [t for t in graph.initializer if t.name not in free])
    replace_entries(graph.node, [n for n in graph.node if not (n.op_type == "Constant" and n.output[0] in free)])
    model.proto.ir_version = max(model.proto.ir_version, IR_VERSION)


def constant_names(graph: GraphProto) -> set[str]:
    """Names of the constants that a graph holds."""
    made = {n.output[0] for n in graph.node if n.op_type == "Constant" and n.domain in ("", "ai.onnx")}
    return made | {t.name for t in graph.initializer}
