"""In which order the nodes of a graph can run."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import GraphProto, NodeProto

from onnxprune._text import printable
from onnxprune.errors import ModelError
from onnxprune.model.tensors import subgraphs


def ordered(graph: GraphProto) -> list[NodeProto]:
    """The nodes so that each comes after what it reads; onnxruntime takes them in any order, so models come so.

    Raises:
        ModelError: A node reads what comes of its own output.
    """
    made_by = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    needs = [sorted({made_by[name] for name in reads(node) if name in made_by}) for node in graph.node]
    if all(not before or before[-1] < i for i, before in enumerate(needs)):
        return list(graph.node)
    result: list[NodeProto] = []
    done: set[int] = set()
    left = [iter(before) for before in needs]
    for first in range(len(needs)):
        path = {first: None} if first not in done else {}  # a dict keeps the order in which it was filled
        while path:
            i = next(reversed(path))
            step = next((j for j in left[i] if j not in done), None)
            if step is None:
                del path[i]
                done.add(i)
                result.append(graph.node[i])
            elif step in path:
                raise ModelError(
                    f"the graph has a cycle through {described(graph.node[step])}",
                    "a node cannot read what comes of its own output: export the model again",
                )
            else:
                path[step] = None
    return result


def reads(node: NodeProto) -> Iterator[str]:
    """Names that a node, or the graphs in it, take from the graph that the node is in or from around it."""
    yield from node.input
    for _, body in subgraphs(node):
        own = set(defined(body))
        for inner in body.node:
            yield from (name for name in reads(inner) if name not in own)
        yield from (o.name for o in body.output if o.name not in own)


def defined(graph: GraphProto) -> Iterator[str]:
    """Names that a graph gives a meaning itself, as often as it does so."""
    initializers = [t.name for t in graph.initializer] + [s.values.name for s in graph.sparse_initializer]
    yield from initializers
    known = set(initializers)  # the older way is to list initializers as inputs as well
    yield from (v.name for v in graph.input if v.name not in known)
    for node in graph.node:
        yield from filter(None, node.output)


def described(node: NodeProto) -> str:
    """How messages name a node."""
    return f"{printable(node.op_type)} '{printable(node.name or next(filter(None, node.output), ''))}'"
