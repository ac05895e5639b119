"""Reverse-mode differentiation: from a model to a model that computes gradients as well.

The nodes are visited from the outputs backwards, and each adds the nodes that its operator declares
(`ops.registry.gradient`); gradients that several consumers give a value are added up (Griewank and Walther, "Evaluating
Derivatives", 2nd ed. 2008, chapter 3). What no rule covers stops the gradient: nothing upstream of it has a complete
one, which is said with the reason.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx
from onnx import TensorProto, helper

from onnxprune.gradients.free_constants import constant_names, free_constants
from onnxprune.graph.contents import Data
from onnxprune.graph.graph import Graph, Node, Scope, Value
from onnxprune.graph.operators import Copies, operator_of
from onnxprune.graph.shape_inference import infer
from onnxprune.model.model import Model
from onnxprune.model.tensors import FLOATS, replace_entries
from onnxprune.ops.gradients.node_gradient import NodeGradient
from onnxprune.ops.gradients.writer import OLDEST_OPSET, Writer

logger = logging.getLogger(__name__)

TYPES = {TensorProto.FLOAT, TensorProto.DOUBLE}
"""Element types that gradients are computed in."""
HALVES = FLOATS - TYPES
"""Element types of values that depend on others smoothly, and whose gradients are not computed."""


@dataclass(frozen=True)
class GradientModel:
    """A model that computes outputs and gradients.

    Attributes:
        model: The model. Its inputs are those of the original, the variables that were constants, by their names, and
            the gradient of each output, of the output's shape; its outputs are the chosen outputs and the gradients.
        seeds: Name of the input that takes the gradient of an output, by the output's name.
        gradients: Name of the output that holds the gradient of a variable, by the variable's name.
        reasons: Why a variable has no gradient, by its name.
    """

    model: Model
    seeds: Mapping[str, str]
    gradients: Mapping[str, str]
    reasons: Mapping[str, str] = field(default_factory=dict)


def differentiate(model: Model, outputs: Sequence[str], variables: Sequence[str]) -> GradientModel:
    """Makes the model that computes the gradients of some outputs with respect to some values.

    Args:
        model: The model; not modified. Static shapes make a faster result; what is free stays free.
        outputs: Names of values of the main graph, all of them floating-point numbers.
        variables: Names of constants, graph inputs or computed values of the main graph.

    Raises:
        LookupError: A name is unknown.
    """
    copy = model.copy()
    graph = Graph(copy.proto)
    data, values, write = infer(graph), graph.main.names, Writer(copy.proto)
    for name in [*outputs, *variables]:
        if name not in values:
            raise LookupError(f"the model has no value '{name}'")
    needed = {name for name in variables if _is_float(values[name])}
    walk = _Backward(graph.main, data, write, needed)
    seeds = {name: write.name(f"gradient/of {name}") for name in outputs}
    for name, seed in seeds.items():
        walk.add(name, seed)
    walk.run()
    found = {name: total for name in variables if (total := walk.gradient(name)) is not None}
    reasons = {name: walk.reason(name) for name in variables if name not in found}
    _assemble(copy, write, values, outputs, found, seeds)
    return GradientModel(copy, seeds, found, reasons)


class _Backward:
    """The walk through one scope, from its outputs back to the variables."""

    def __init__(self, scope: Scope, data: Mapping[Value, Data], write: Writer, variables: Collection[str]) -> None:
        self._scope, self._data, self._write = scope, data, write
        self._needed = _downstream(scope, variables)
        self._terms: dict[str, list[str]] = {}
        self._stops: dict[str, str] = {}

    def add(self, name: str, term: str) -> None:
        """Adds to the gradient of a value."""
        self._terms.setdefault(name, []).append(term)

    def gradient(self, name: str) -> str | None:
        """Name of the gradient of a value; None where it has none, or an incomplete one."""
        terms = self._terms.get(name)
        if not terms or name in self._stops:
            return None
        if len(terms) > 1:
            self._terms[name] = terms = [self._write.total(terms)]
        return terms[0]

    def stopped(self, name: str) -> str | None:
        """Why a value has no complete gradient; None where nothing stopped it."""
        return self._stops.get(name)

    def reason(self, name: str) -> str:
        """Why a value has no gradient."""
        return self._stops.get(name, "no output depends on it by operators that can be differentiated")

    def run(self) -> None:
        """Visits every node that lies between the outputs and the variables."""
        for node in reversed(self._scope.nodes):
            outputs = [None if v is None else self.gradient(v.name) for v in node.outputs]
            stopped = next((self._stops[v.name] for v in node.outputs if v is not None and v.name in self._stops), None)
            if stopped is None and not any(outputs):
                continue
            wanted = [v is not None and v.name in self._needed for v in node.inputs]
            captured = list(dict.fromkeys(v for v in _captured(node) if v.name in self._needed))
            if not any(wanted) and not captured:
                continue
            given = stopped if stopped is not None else self._applied(node, outputs, wanted, captured)
            if isinstance(given, str):
                for value in [*(v for v in node.inputs if v is not None), *captured]:
                    if value.name in self._needed:
                        self._stops.setdefault(value.name, given)
                continue
            for name, term in given:
                self.add(name, term)

    def _applied(
        self, node: Node, outputs: Sequence[str | None], wanted: Sequence[bool], captured: Sequence[Value]
    ) -> list[tuple[str, str]] | str:
        """What a node reads with its gradients, by name, or why there are none."""
        branches = captured and node.op_type == "If" and not node.domain
        rule = operator_of(node).gradient
        if not branches and (rule is None or captured):
            return f"{node.op_type} has no gradient rule"
        numbers = (v for v, w in zip(node.inputs, wanted, strict=True) if w and v is not None and v.elem_type)
        if not (operator_of(node).reads_zero_points or _moves(node)) and not all(map(_is_float, numbers)):
            return f"{node.label} reads numbers of another precision"
        if self._write.opset < OLDEST_OPSET:
            return f"opset {self._write.opset} is older than {OLDEST_OPSET}"
        g = NodeGradient(node, self._write, outputs, wanted, self._data)
        before = len(self._write.nodes), len(self._write.constants)
        try:
            if branches:
                return self._through_branches(g, outputs, captured)
            assert rule is not None
            rule(g)
            if g.ignored:
                return f"the gradient rule of {node.op_type} does not cover output number {g.ignored[0]}"
            missing = [i for i, needed in enumerate(wanted) if needed and i not in g.given and _is_float(node.input(i))]
            reasons = {i: f"the gradient rule of {node.op_type} covers no input number {i}" for i in missing}
            if g.given or not missing:
                for i, reason in reasons.items():  # the gradients of the other inputs are whole without it
                    self._stops.setdefault(node.input(i).name, reason)
                return [(g.x(i), name) for i, name in g.given.items()]
            why = reasons[missing[0]]
        except Exception as e:  # whatever the rule does wrong
            expected = isinstance(e, LookupError)
            logger.log(logging.DEBUG if expected else logging.WARNING, "gradient of %s", node.label, exc_info=True)
            why = str(e.args[0]) if expected and e.args else f"the gradient rule of {node.op_type} failed: {e}"
        del self._write.nodes[before[0] :], self._write.constants[before[1] :]
        return why

    def _through_branches(
        self, g: NodeGradient, outputs: Sequence[str | None], captured: Sequence[Value]
    ) -> list[tuple[str, str]]:
        """Gradients of what the branches of an If read: another If, each of whose branches runs one of them again.

        Raises:
            LookupError: A branch has an operator without gradient.
        """
        bodies = {name: self._branch(g, body, outputs, captured) for name, body in g.node.bodies.items()}
        return list(zip((v.name for v in captured), self._write.choose(g.x(), bodies, len(captured)), strict=True))

    def _branch(
        self, g: NodeGradient, body: Scope, outputs: Sequence[str | None], captured: Sequence[Value]
    ) -> onnx.GraphProto:
        """A branch of the other If: the nodes of the branch, and those that compute the gradients."""
        if twice := [name for node in body.proto.node for name in node.output if name in self._scope.names]:
            raise LookupError(f"{g.node.label} has a value {twice[0]!r}, and so has the graph around it")
        with self._write.apart() as nodes:
            walk = _Backward(body, self._data, self._write, self._needed)
            for value, gradient in zip(body.outputs, outputs, strict=True):
                if value is not None and gradient is not None:
                    walk.add(value.name, gradient)
            walk.run()
            found = []
            for value in captured:
                if (why := walk.stopped(value.name)) is not None:
                    raise LookupError(why)
                gradient = walk.gradient(value.name)
                # an output of a branch is made in it, and one that does not depend on the value gives zeros
                found.append(self._write.emit("Identity", gradient) if gradient is not None else g.zeros(value))
        kinds = [value.elem_type or TensorProto.FLOAT for value in captured]  # shapes may differ from branch to branch
        infos = [helper.make_tensor_value_info(name, kind, None) for name, kind in zip(found, kinds, strict=True)]
        made = helper.make_graph([*body.proto.node, *nodes], self._write.name("gradient/branch"), [], infos)
        made.initializer.extend(body.proto.initializer)
        made.sparse_initializer.extend(body.proto.sparse_initializer)
        return made


def _is_float(value: Value) -> bool:
    return value.elem_type in TYPES


def _captured(node: Node) -> Iterator[Value]:
    """Values of outer scopes that the bodies of a node read, or return."""
    for body in node.bodies.values():
        for value in [*(v for inner in body.nodes for v in [*inner.inputs, *_captured(inner)]), *body.outputs]:
            if value is not None and value.scope is not body:
                yield value


def _downstream(scope: Scope, variables: Collection[str]) -> set[str]:
    """Names of the values that vary with the variables, and of the variables."""
    needed = set(variables)
    for node in scope.nodes:
        read = [v for v in [*node.inputs, *_captured(node)] if v is not None]
        if any(v.name in needed for v in (read[:1] if _moves(node) else read)):
            needed |= {v.name for v in node.outputs if v is not None and _carries(node, v)}
    return needed


def _carries(node: Node, value: Value) -> bool:
    """Whether an output varies with what a node reads, in whatever type; ids, conditions and shapes do not."""
    if _is_float(value) or not value.elem_type or value.elem_type in HALVES:
        return True
    operator = operator_of(node)
    return operator.zero_point is not None or (value is node.outputs[0] and (operator.quantises or _moves(node)))


def _moves(node: Node) -> bool:
    """Whether all that a node does to its first input is to move its elements, quantised ones too."""
    operator = operator_of(node)
    return operator.copies is Copies.ALL and not operator.casts


def _assemble(
    model: Model,
    write: Writer,
    values: Mapping[str, Value],
    outputs: Sequence[str],
    found: Mapping[str, str],
    seeds: Mapping[str, str],
) -> None:
    """Puts what was found into the model, in place."""
    graph = model.proto.graph
    constants = constant_names(graph)
    free_constants(model, [name for name in found if name in constants])
    graph.initializer.extend(write.constants)
    graph.node.extend(write.nodes)
    graph.input.extend(_info(values[name], seed) for name, seed in seeds.items())
    infos = [_info(values[name], name) for name in outputs]
    infos += [_info(values[name], gradient) for name, gradient in found.items()]
    replace_entries(graph.output, infos)
    del graph.value_info[:]


def _info(value: Value, name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, value.elem_type or TensorProto.FLOAT, value.shape)
