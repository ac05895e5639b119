"""Chains of layers with nothing but element-wise functions between them, as one function of their weights.

z[0] = W[0] x + b[0],    z[i] = W[i] f[i - 1](z[i - 1]) + b[i]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxprune.graph.contents import constant_data
from onnxprune.graph.graph import Node, Value
from onnxprune.graph.operators import operator_of
from onnxprune.layers.linear import LinearLayer

LONGEST = 3
"""Layers of a chain; more are cut."""


@dataclass(frozen=True, eq=False)
class Chain:
    """A chain of layers.

    Attributes:
        layers: The layers, in order.
        between: The nodes from each layer's output to the next one's input, in order.
    """

    layers: tuple[LinearLayer, ...]
    between: tuple[tuple[Node, ...], ...]


def chains(layers: Sequence[LinearLayer], returned: set[int]) -> list[Chain]:
    """Layers divided into chains of maximal length, ordered by their last layers.

    Args:
        layers: Layers in topological order. Transposed convolutions, and layers with a shared weight, are left out.
        returned: Values that leave their graph, by `id`.
    """
    layers = [layer for layer in layers if not layer.weight_shared and layer.kind != "conv_transpose"]
    outputs = {id(layer.output): layer for layer in layers}
    before: dict[str, tuple[LinearLayer, tuple[Node, ...]]] = {}
    for layer in layers:
        found = _between(layer.x, outputs, returned)
        if found is not None and found[0].x_axis == found[0].out_axis == layer.x_axis:
            before[layer.name] = found
    done: dict[str, tuple[list[LinearLayer], list[tuple[Node, ...]]]] = {}
    for layer in layers:  # a chain continues where its last layer is the one before
        source = before.get(layer.name)
        chain = done.pop(source[0].name, None) if source is not None else None
        if chain is None or len(chain[0]) == LONGEST or source is None or not source[1]:
            if chain is not None and source is not None:
                done[source[0].name] = chain
            chain = ([], [])
        else:
            chain[1].append(source[1])
        chain[0].append(layer)
        done[layer.name] = chain
    found_chains = [Chain(tuple(chain), tuple(between)) for chain, between in done.values()]
    return sorted(found_chains, key=lambda c: c.layers[-1].node.index)


def _between(
    x: Value, outputs: dict[int, LinearLayer], returned: set[int]
) -> tuple[LinearLayer, tuple[Node, ...]] | None:
    """The layer that a value is a function of, element by element, and the nodes between; None if there is none.

    Nothing else may read the values between.
    """
    nodes: dict[int, Node] = {}
    todo, source = [x], None
    seen: list[Value] = []
    while todo:
        value = todo.pop()
        if id(value) in outputs:
            if source not in (None, outputs[id(value)]):
                return None
            source = outputs[id(value)]
            seen.append(value)
            continue
        node = value.producer
        if node is None or not _elementwise(node) or node.scope is not x.scope:
            return None
        seen.append(value)
        if node.index not in nodes:
            nodes[node.index] = node
            todo += [v for v in node.inputs if v is not None and _varies(v)]
    if source is None:
        return None
    inside = {id(n) for n in nodes.values()}
    for value in seen:
        readers = [n for n, _ in value.consumers]
        if value is x:
            if len(readers) > 1 or id(x) in returned:
                return None
        elif id(value) in returned or not all(id(n) in inside for n in readers):
            return None
    return source, tuple(nodes[i] for i in sorted(nodes))


def _varies(value: Value) -> bool:
    return value.tensor is None and constant_data(value) is None


def _elementwise(node: Node) -> bool:
    """Whether a node is element-wise, with constants that vary along the feature axis at most."""
    if len([o for o in node.outputs if o is not None]) != 1:
        return False
    operator = operator_of(node)
    if operator.activation:
        return True
    if not operator.pointwise:
        return False
    constants = [v for v in node.inputs if v is not None and not _varies(v)]
    return all(v.tensor is None or _lies_along_features(v.tensor.dims, node.output().rank) for v in constants)


def _lies_along_features(dims: Sequence[int], rank: int | None) -> bool:
    """Whether a constant is the same for all samples, along axis 0, and varies along one other axis at most."""
    if sum(d != 1 for d in dims) > 1:
        return False
    return all(d == 1 for d in dims) or (rank is not None and (len(dims) < rank or dims[0] == 1))
