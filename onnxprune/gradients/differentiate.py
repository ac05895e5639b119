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

from onnxprune.gradients.free_constants import constant_names, free_constants, replace_entries
from onnxprune.graph.contents import Data
from onnxprune.graph.graph import Graph, Node, Value
from onnxprune.graph.operators import operator_of
from onnxprune.graph.shape_inference import infer
from onnxprune.model.model import Model
from onnxprune.ops.gradients.node_gradient import NodeGradient
from onnxprune.ops.gradients.writer import OLDEST_OPSET, Writer

logger = logging.getLogger(__name__)

TYPES = {TensorProto.FLOAT, TensorProto.DOUBLE}
"""Element types that gradients are computed in."""


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
    walk = _Backward(copy, outputs, variables)
    seeds = {name: walk.write.name(f"gradient/of {name}") for name in outputs}
    for name, seed in seeds.items():
        walk.add(name, seed)
    walk.run()
    found = {name: total for name in variables if (total := walk.gradient(name)) is not None}
    reasons = {name: walk.reason(name) for name in variables if name not in found}
    _assemble(copy, walk, outputs, found, seeds)
    return GradientModel(copy, seeds, found, reasons)


class _Backward:
    """The walk from the outputs back to the variables."""

    def __init__(self, model: Model, outputs: Sequence[str], variables: Sequence[str]) -> None:
        self.graph = Graph(model.proto)
        self._data: Mapping[Value, Data] = infer(self.graph)
        self.write = Writer(model.proto)
        self.values = self.graph.main.names
        for name in [*outputs, *variables]:
            if name not in self.values:
                raise LookupError(f"the model has no value '{name}'")
        self._needed = _downstream(self.graph, variables)
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
            self._terms[name] = terms = [self.write.total(terms)]
        return terms[0]

    def reason(self, name: str) -> str:
        """Why a value has no gradient."""
        return self._stops.get(name, "no output depends on it by operators that can be differentiated")

    def run(self) -> None:
        """Visits every node that lies between the outputs and the variables."""
        for node in reversed(self.graph.main.nodes):
            outputs = [None if v is None else self.gradient(v.name) for v in node.outputs]
            stopped = next((self._stops[v.name] for v in node.outputs if v is not None and v.name in self._stops), None)
            if stopped is None and not any(outputs):
                continue
            wanted = [v is not None and v.name in self._needed for v in node.inputs]
            captured = [v for v in _captured(node) if v.name in self._needed]
            if not any(wanted) and not captured:
                continue
            given = stopped if stopped is not None else self._applied(node, outputs, wanted, captured)
            if isinstance(given, str):
                for value in [*(v for v in node.inputs if v is not None), *captured]:
                    if value.name in self._needed:
                        self._stops.setdefault(value.name, given)
                continue
            for i, name in given.items():
                self.add(node.input(i).name, name)

    def _applied(
        self, node: Node, outputs: Sequence[str | None], wanted: Sequence[bool], captured: Sequence[Value]
    ) -> dict[int, str] | str:
        """Gradients of the inputs of a node, or why there are none."""
        rule = operator_of(node).gradient
        if rule is None or captured:
            return f"{node.op_type} has no gradient rule"
        if self.write.opset < OLDEST_OPSET:
            return f"opset {self.write.opset} is older than {OLDEST_OPSET}"
        g = NodeGradient(node, self.write, outputs, wanted, self._data)
        before = len(self.write.nodes), len(self.write.constants)
        try:
            rule(g)
            missing = [i for i, needed in enumerate(wanted) if needed and i not in g.given and _is_float(node.input(i))]
            if not missing:
                return g.given
            why = f"the gradient rule of {node.op_type} covers no input number {missing[0]}"
        except Exception as e:  # whatever the rule does wrong
            expected = isinstance(e, LookupError)
            logger.log(logging.DEBUG if expected else logging.WARNING, "gradient of %s", node.label, exc_info=True)
            why = str(e.args[0]) if expected and e.args else f"the gradient rule of {node.op_type} failed: {e}"
        del self.write.nodes[before[0] :], self.write.constants[before[1] :]
        return why


def _is_float(value: Value) -> bool:
    return value.elem_type in TYPES


def _captured(node: Node) -> Iterator[Value]:
    """Values of outer scopes that the bodies of a node read."""
    for body in node.bodies.values():
        for inner in body.nodes:
            yield from (v for v in inner.inputs if v is not None and v.scope is not body and v.scope is node.scope)
            yield from (v for v in _captured(inner) if v.scope is node.scope)


def _downstream(graph: Graph, variables: Collection[str]) -> set[str]:
    """Names of the values that depend on the variables by floating-point numbers."""
    needed = {name for name in variables if _is_float(graph.main.names[name])}
    for node in graph.main.nodes:
        read = [v for v in [*node.inputs, *_captured(node)] if v is not None]
        if any(v.name in needed for v in read):
            needed |= {v.name for v in node.outputs if v is not None and (_is_float(v) or not v.elem_type)}
    return needed


def _assemble(
    model: Model, walk: _Backward, outputs: Sequence[str], found: Mapping[str, str], seeds: Mapping[str, str]
) -> None:
    """Puts what was found into the model, in place."""
    graph = model.proto.graph
    constants = constant_names(graph)
    free_constants(model, [name for name in found if name in constants])
    graph.initializer.extend(walk.write.constants)
    graph.node.extend(walk.write.nodes)
    graph.input.extend(_info(walk.values[name], seed) for name, seed in seeds.items())
    infos = [_info(walk.values[name], name) for name in outputs]
    infos += [_info(walk.values[name], gradient) for name, gradient in found.items()]
    replace_entries(graph.output, infos)
    del graph.value_info[:]


def _info(value: Value, name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, value.elem_type or TensorProto.FLOAT, value.shape)
