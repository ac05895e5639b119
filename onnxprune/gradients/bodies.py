"""What varies with what, through the bodies of nodes too, and which bodies can be run again for a gradient."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from onnx import NodeProto, TensorProto

from onnxprune.graph.graph import Node, Scope, Value
from onnxprune.graph.operators import Copies, operator_of
from onnxprune.model.tensors import FLOATS, subgraphs
from onnxprune.model.topology import describe

TYPES = {TensorProto.FLOAT, TensorProto.DOUBLE}
"""Element types that gradients are computed in."""
HALVES = FLOATS - TYPES
"""Element types of values that depend on others smoothly, and whose gradients are not computed."""


def is_float(value: Value) -> bool:
    """Whether the gradient of a value can be computed, by its element type."""
    return value.elem_type in TYPES


def captured(node: Node) -> Iterator[Value]:
    """Values of outer scopes that the bodies of a node read, or return."""
    for body in node.bodies.values():
        for value in [*(v for inner in body.nodes for v in [*inner.inputs, *captured(inner)]), *body.outputs]:
            if value is not None and value.scope is not body:
                yield value


def read_by(node: Node) -> list[Value]:
    """All that a node reads, its bodies included."""
    return [v for v in [*node.inputs, *captured(node)] if v is not None]


def downstream(scope: Scope, variables: Collection[str]) -> set[str]:
    """Names of the values that vary with the variables, and of the variables."""
    found = set(variables)
    for node in scope.nodes:
        read = read_by(node)
        if any(v.name in found for v in (read[:1] if only_moves(node) else read)):
            found |= {v.name for v in node.outputs if v is not None and _carries(node, v)}
    return found


def upstream(scope: Scope, results: Collection[str]) -> set[str]:
    """Names of the values that some results are made of, and of the results."""
    found = set(results)
    for node in reversed(scope.nodes):
        if any(v is not None and v.name in found for v in node.outputs):
            found |= {v.name for v in read_by(node)}
    return found


def _carries(node: Node, value: Value) -> bool:
    """Whether an output varies with what a node reads, in whatever type; ids, conditions and shapes do not."""
    if is_float(value) or not value.elem_type or value.elem_type in HALVES:
        return True
    operator = operator_of(node)
    return operator.zero_point is not None or (value is node.outputs[0] and (operator.quantises or only_moves(node)))


def only_moves(node: Node) -> bool:
    """Whether all that a node does to its first input is to move its elements, quantised ones too."""
    operator = operator_of(node)
    return operator.copies is Copies.ALL and not operator.casts


def refuse_shadows(scope: Scope, node: Node, body: Scope) -> None:
    """Raises LookupError where a body has a name that the graph around it has too: one could be taken for the other."""
    if twice := next((name for name in body.names if scope.find(name) is not None), None):
        raise LookupError(f"{node.label} has a value {twice!r}, and so has the graph around it")


def refuse_random(nodes: Iterable[NodeProto]) -> None:
    """Raises LookupError where a node may make something else when it runs again."""
    for node in nodes:
        # one that copies is random in training alone, which a third input says
        if (operator := operator_of(node)).random and (operator.copies is not Copies.ALL or len(node.input) > 2):
            raise LookupError(f"{describe(node)} may make something else when it runs again")
        for _, body in subgraphs(node):
            refuse_random(body.node)
