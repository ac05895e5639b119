"""Multiply-accumulates (MACs): the terms that operators declare (`ops.registry.macs`), summed over a graph.

The same terms count a model here and predict in `cost_model` what is left of it, so that the two cannot differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import NodeProto, TensorProto

from onnxprune.graph.graph import Graph, Node
from onnxprune.graph.operators import Term, operator_of
from onnxprune.model.tensors import constants

Shape = tuple[int, ...]


def is_heavy(node: Node | NodeProto) -> bool:
    """Whether a node's multiply-accumulates are counted."""
    return operator_of(node).macs is not None


def terms(node: Node) -> list[Term] | None:
    """The terms of a node; none for a cheap operator, None where a rank that they need is unknown."""
    declared = operator_of(node).macs
    if declared is None:
        return []
    try:
        return [(factor, list(axes)) for factor, axes in declared(node)]
    except LookupError:  # an unknown rank, or a node that the declaration cannot follow
        return None


def macs_from_shapes(proto: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> int | None:
    """Multiply-accumulates of the main graph's convolutions, matrix products, recurrent layers and attention.

    Bodies of If, Loop and Scan are not counted: how often they run is not known.

    Args:
        proto: The model; its weights are not read.
        shapes: Shapes of inputs and intermediate values by name; those of constants need not be given.

    Returns:
        The sum, or None where a shape that it needs is missing.
    """
    found = macs_of_nodes(proto, shapes)
    return None if found is None else round(sum(found.values()))


def macs_of_nodes(proto: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> dict[str, float] | None:
    """The same by the first output of each node that counts."""
    graph = graph_with_shapes(_heavy_part(proto), shapes)
    counted: dict[str, float] = {}
    for node in graph.main.nodes:
        found = terms(node)
        if found is None:
            return None
        total = 0.0
        for factor, axes in found:
            for axis in axes:
                if axis.length is None or axis.length < 0:  # below zero: the inputs are too short to run
                    return None
                factor *= axis.length
            total += factor
        name = next(filter(None, node.proto.output), "")
        counted[name] = counted.get(name, 0.0) + total
    return counted


def graph_with_shapes(proto: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> Graph:
    """The graph of a model, the values of its main graph with these shapes."""
    graph = Graph(proto)
    for name, value in graph.main.names.items():
        if value.tensor is None and name in shapes:
            value.shape = list(shapes[name])
    return graph


def _heavy_part(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The nodes of the main graph that count, what they read as inputs and constants without values."""
    nodes = [node for node in proto.graph.node if is_heavy(node)]
    made = {name for node in nodes for name in node.output}
    stored = {name: (t.data_type, t.dims) for scope, name, t in constants(proto) if not scope}
    stored |= {s.values.name: (s.values.data_type, s.dims) for s in proto.graph.sparse_initializer}
    read = dict.fromkeys(name for node in nodes for name in node.input if name and name not in made)
    graph = onnx.GraphProto(
        node=nodes,
        initializer=[
            TensorProto(name=name, data_type=stored[name][0], dims=stored[name][1]) for name in read if name in stored
        ],
        input=[onnx.ValueInfoProto(name=name) for name in read if name not in stored],
    )
    return onnx.ModelProto(graph=graph, opset_import=proto.opset_import)
