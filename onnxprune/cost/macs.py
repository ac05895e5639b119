"""Multiply-accumulates (MACs): the terms that operators declare (`ops.registry.macs`), summed over a graph.

The same terms count a model here and predict in `cost_model` what is left of it, so that the two cannot differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import NodeProto

from onnxprune.graph.graph import Graph, Node
from onnxprune.graph.operators import Term, operator_of

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
    except (LookupError, ValueError, TypeError, AttributeError):  # an unknown rank, or a malformed node
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
    graph = graph_with_shapes(proto, shapes)
    total = 0.0
    for node in graph.main.nodes:
        found = terms(node)
        if found is None:
            return None
        for factor, axes in found:
            for axis in axes:
                if axis.length is None:
                    return None
                factor *= axis.length
            total += factor
    return round(total)


def graph_with_shapes(proto: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> Graph:
    """The graph of a model, the values of its main graph with these shapes."""
    graph = Graph(proto)
    for name, value in graph.main.names.items():
        if value.tensor is None and name in shapes:
            value.shape = list(shapes[name])
    return graph
