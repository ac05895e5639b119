"""Topological order of the nodes of a graph, and the names that they read and define."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import GraphProto, NodeProto

from onnxprune.common.text import printable
from onnxprune.errors import ModelError
from onnxprune.model.tensors import subgraphs


def topological_order(graph: GraphProto) -> list[NodeProto]:
    """Returns the nodes in topological order; nodes that are in order already keep it.

    ONNX requires this order, but onnxruntime accepts any, so models in the field have any.

    Raises:
        ModelError: The graph has a cycle.
    """
    made_by = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    needs = [sorted({made_by[name] for name in read_names(node) if name in made_by}) for node in graph.node]
    if all(not before or before[-1] < i for i, before in enumerate(needs)):
        return list(graph.node)
    result: list[NodeProto] = []
    done: set[int] = set()
    left = [iter(before) for before in needs]
    for first in range(len(needs)):  # depth-first search with an explicit stack
        path = {first: None} if first not in done else {}  # a dict is an ordered set
        while path:
            i = next(reversed(path))
            step = next((j for j in left[i] if j not in done), None)
            if step is None:
                del path[i]
                done.add(i)
                result.append(graph.node[i])
            elif step in path:
                raise ModelError(
                    f"the graph has a cycle through {describe(graph.node[step])}",
                    "a node cannot read what comes of its own output: export the model again",
                )
            else:
                path[step] = None
    return result


def read_names(node: NodeProto) -> Iterator[str]:
    """Yields the names that a node reads from its graph or an enclosing one, captures of its subgraphs included."""
    yield from filter(None, node.input)
    for _, body in subgraphs(node):
        own = set(defined_names(body))
        for inner in body.node:
            yield from (name for name in read_names(inner) if name not in own)
        yield from (o.name for o in body.output if o.name and o.name not in own)


def defined_names(graph: GraphProto) -> Iterator[str]:
    """Yields the names that a graph defines, once for each definition."""
    initializers = [t.name for t in graph.initializer] + [s.values.name for s in graph.sparse_initializer]
    yield from initializers
    known = set(initializers)  # before IR version 4 initializers are listed as inputs as well
    yield from (v.name for v in graph.input if v.name not in known)
    for node in graph.node:
        yield from filter(None, node.output)


def describe(node: NodeProto) -> str:
    """Returns the description of a node in messages: its operator and its name or first output."""
    return f"{printable(node.op_type)} '{printable(node.name or next(filter(None, node.output), ''))}'"
