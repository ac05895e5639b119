"""The graph as the analysis sees it: values with shapes, nodes with resolved inputs, scopes that nest.

A `Value` is one tensor of one scope: a graph input, a constant or the output of a node. Bodies of If, Loop and
Scan are scopes of their own whose captured names resolve to the outer value, so nothing below needs to know
that a graph nests. The protos remain the source of truth: a `Node` and a `Value` only refer to them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from onnxprune.graph.lengths import Dim
from onnxprune.graph.operators import operator_of
from onnxprune.graph.stated_types import tensor_type
from onnxprune.model.topology import topological_order


class Axis(NamedTuple):
    """One axis of one value."""

    value: Value
    position: int

    @property
    def id(self) -> int:
        """Number that is unique among the axes of the graph."""
        return self.value.first_axis + self.position

    @property
    def length(self) -> int | None:
        """Static length, None where it is free or unknown; raises LookupError where the value has no such axis."""
        shape = self.value.shape or []
        if not 0 <= self.position < len(shape):
            raise LookupError(f"{self.value.key} has no axis {self.position}")
        n = shape[self.position]
        return n if isinstance(n, int) else None

    @property
    def factors(self) -> tuple[Dim, ...]:
        """What the index is made of, see `Value.factors`; () where nothing is known of a free axis."""
        return (n,) if (n := self.length) is not None else self.value.factors.get(self.position, ())

    @property
    def width(self) -> int | None:
        """How many indices are told apart: all, or the fixed digits of a free axis; None where it has none."""
        fixed = [n for n in self.factors if isinstance(n, int)]
        return math.prod(fixed) if fixed else None

    def __str__(self) -> str:
        return f"{self.value.key}[{self.position}]"


@dataclass(eq=False)
class Value:
    """One tensor of one scope.

    Attributes:
        name: Name in its own scope.
        key: Name that is unique in the model, ``OUTER/attribute|NAME`` in inner scopes.
        index: Position in `Graph.values`.
        shape: Length of each axis, None where the rank is unknown.
        elem_type: `TensorProto.DataType`, 0 where unknown.
        tensor: The constant's own proto, None for what is computed.
        scope: Where the value is defined.
        producer: The node that computes it (a Constant node for constants held in one).
        consumers: Nodes that read it with the position of the input.
        first_axis: Number of its first axis, see `Graph.number_axes`.
        factors: For a free axis whose index has digits of fixed size, the sizes of all, outermost first: those of an
            axis of length ``b*h`` that a batch and heads were merged to are ``("b", h)``.
    """

    name: str
    key: str
    index: int
    scope: Scope
    shape: list[Dim] | None = None
    elem_type: int = 0
    tensor: TensorProto | None = None
    producer: Node | None = None
    consumers: list[tuple[Node, int]] = field(default_factory=list)
    first_axis: int = -1
    factors: dict[int, tuple[Dim, ...]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Value({self.key!r}, shape={self.shape})"

    @property
    def rank(self) -> int | None:
        """Number of axes, None where it is unknown."""
        return None if self.shape is None else len(self.shape)

    @property
    def is_returned(self) -> bool:
        """Whether its own graph or body returns it, so that more than its readers here depend on it."""
        return any(self is output for output in self.scope.outputs)

    def axis(self, position: int) -> Axis:
        """One axis, counted from the end where negative."""
        return Axis(self, position + len(self.shape or []) if position < 0 else position)

    def axes(self) -> list[Axis]:
        """All axes, none where the rank is unknown."""
        return [Axis(self, i) for i in range(len(self.shape or []))]

    def ranked_axes(self) -> list[Axis]:
        """All axes; raises LookupError where the rank is unknown."""
        if self.shape is None:
            raise LookupError(f"the rank of {self.key} is unknown")
        return self.axes()


@dataclass(eq=False)
class Node:
    """One node with its inputs and outputs resolved to values; None where an optional one is absent."""

    proto: NodeProto
    scope: Scope
    index: int
    opset: int
    inputs: list[Value | None] = field(default_factory=list)
    outputs: list[Value | None] = field(default_factory=list)
    bodies: dict[str, Scope] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Node({self.label})"

    @property
    def op_type(self) -> str:
        """Name of the operator."""
        return self.proto.op_type

    @property
    def domain(self) -> str:
        """Domain of the operator, "" for the standard one."""
        return "" if self.proto.domain == "ai.onnx" else self.proto.domain

    @property
    def label(self) -> str:
        """How messages name the node."""
        return f"{self.op_type} {self.proto.name or (self.proto.output[0] if self.proto.output else '')!r}"

    def has(self, index: int) -> bool:
        """Whether an optional input is given."""
        return 0 <= index < len(self.inputs) and self.inputs[index] is not None

    def input(self, index: int) -> Value:
        """An input that must be given; raises LookupError where it is not."""
        value = self.inputs[index] if index < len(self.inputs) else None
        if value is None:
            raise LookupError(f"input {index} of {self.label} is missing")
        return value

    def output(self, index: int = 0) -> Value:
        """An output that must be given; raises LookupError where it is not."""
        value = self.outputs[index] if index < len(self.outputs) else None
        if value is None:
            raise LookupError(f"output {index} of {self.label} is missing")
        return value

    def attribute(self, name: str, default: Any = None) -> Any:
        """Value of an attribute, strings decoded; `default` where it is absent."""
        for a in self.proto.attribute:
            if a.name == name:
                value = onnx.helper.get_attribute_value(a)
                if isinstance(value, list) and a.strings:
                    return [text.decode() for text in value]
                return value.decode() if isinstance(value, bytes) else value
        return default


@dataclass(eq=False)
class Scope:
    """The main graph or the body of a control-flow node."""

    path: str
    proto: GraphProto
    parent: Scope | None = None
    names: dict[str, Value] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value | None] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Scope({self.path!r}, {len(self.nodes)} nodes)"

    def find(self, name: str) -> Value | None:
        """The value that `name` means here, looked up through the enclosing scopes."""
        scope: Scope | None = self
        while scope is not None:
            value = scope.names.get(name)
            if value is not None:
                return value
            scope = scope.parent
        return None


class Graph:
    """Every value and node of a model, in topological order (a body comes before the node that owns it).

    A constant with at most one axis longer than 1 (a bias, a scale) that several nodes read becomes one value a
    reader: equal vectors are often merged by simplifiers, which says nothing about whether they belong together.
    """

    def __init__(self, proto: ModelProto) -> None:
        self.proto = proto
        self.values: list[Value] = []
        self.nodes: list[Node] = []
        self.opsets = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in proto.opset_import}
        self.main = self._scope(proto.graph, "", None)
        self._part_vectors()

    def scopes(self) -> Iterator[Scope]:
        """The main graph and every body, outer ones first."""

        def below(scope: Scope) -> Iterator[Scope]:
            yield scope
            for node in scope.nodes:
                for body in node.bodies.values():
                    yield from below(body)

        yield from below(self.main)

    @property
    def returned(self) -> set[int]:
        """Values that leave a graph or a body, by `id`."""
        return {id(v) for scope in self.scopes() for v in scope.outputs}

    def constants(self) -> Iterator[Value]:
        """Values that hold a tensor of their own."""
        return (v for v in self.values if v.tensor is not None)

    @cached_property
    def constant_nodes(self) -> dict[Node, None]:
        """Nodes that read constants or what is made of them, nothing else, and make the same in every run; in order."""
        found: dict[Node, None] = {}
        for node in self.nodes:
            sources = [v for v in node.inputs if v is not None]
            if (
                sources
                and not node.bodies
                and not operator_of(node).random
                and all(v.tensor is not None or v.producer in found for v in sources)
            ):
                found[node] = None
        return found

    def number_axes(self) -> int:
        """Numbers the axes of all values once shapes are known; returns how many there are."""
        count = 0
        for value in self.values:
            value.first_axis = count
            count += len(value.shape or [])
        return count

    def _value(self, scope: Scope, name: str, **fields: Any) -> Value:
        key = f"{scope.path}|{name}" if scope.path else name
        value = Value(name, key, len(self.values), scope, **fields)
        self.values.append(value)
        scope.names[name] = value
        return value

    def _scope(self, proto: GraphProto, path: str, parent: Scope | None) -> Scope:
        scope = Scope(path, proto, parent)
        for t in proto.initializer:
            self._value(scope, t.name, shape=list(t.dims), elem_type=t.data_type, tensor=t)
        for sparse in proto.sparse_initializer:
            self._value(scope, sparse.values.name, shape=list(sparse.dims), elem_type=sparse.values.data_type)
        for info in proto.input:
            value = scope.names.get(info.name)
            if value is None:
                value = self._value(scope, info.name)
                value.shape, value.elem_type = tensor_type(info)
                scope.inputs.append(value)
        for node in topological_order(proto):
            self._node(node, scope)
        scope.outputs = [scope.find(o.name) for o in proto.output]
        return scope

    def _node(self, proto: NodeProto, scope: Scope) -> None:
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        node = Node(proto, scope, -1, self.opsets.get(domain, 1))
        outer = proto.output[0] if proto.output and proto.output[0] else proto.name
        for a in proto.attribute:
            bodies = [(a.name, a.g)] if a.type == AttributeProto.GRAPH else []
            bodies += [(f"{a.name}.{i}", g) for i, g in enumerate(a.graphs)]
            for name, body in bodies:
                path = f"{outer}/{name}"
                node.bodies[name] = self._scope(body, f"{scope.path}|{path}" if scope.path else path, scope)
        node.index = len(self.nodes)
        self.nodes.append(node)
        scope.nodes.append(node)
        for i, name in enumerate(proto.input):
            value = scope.find(name) if name else None
            node.inputs.append(value)
            if value is not None:
                value.consumers.append((node, i))
        for name in proto.output:
            node.outputs.append(self._value(scope, name, producer=node) if name else None)
        if node.op_type == "Constant" and node.domain == "" and node.outputs and node.outputs[0] is not None:
            for a in proto.attribute:
                if a.name == "value":
                    out = node.outputs[0]
                    out.tensor, out.shape, out.elem_type = a.t, list(a.t.dims), a.t.data_type

    def _part_vectors(self) -> None:
        returned = self.returned
        for value in list(self.constants()):
            long = sum(d != 1 for d in value.shape or [])
            if long > 1 or len(value.consumers) < 2 or id(value) in returned:
                continue
            if any(_reads_in_parts(node) for node, _ in value.consumers):
                continue  # its readers share out one vector: what one leaves out another needs
            users = value.consumers[1:]
            del value.consumers[1:]
            for node, i in users:
                twin = Value(
                    value.name,
                    value.key,
                    len(self.values),
                    value.scope,
                    value.shape,
                    value.elem_type,
                    value.tensor,
                    value.producer,
                    [(node, i)],
                )
                self.values.append(twin)
                node.inputs[i] = twin


def _reads_in_parts(node: Node) -> bool:
    operator = operator_of(node)
    return operator.reads_parts or operator.reads_lengths
