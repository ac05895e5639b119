"""The walk from the outputs of a graph back to its variables.

The nodes are visited in reverse, and each adds the nodes that its operator declares; gradients that several consumers
give a value are added up. The bodies of control flow are walked through in the same way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence

from onnxprune.gradients.bodies import captured, downstream, is_float, only_moves
from onnxprune.gradients.branches import through_branches
from onnxprune.gradients.loops import through_iterations
from onnxprune.graph.contents import Data
from onnxprune.graph.graph import Node, Scope, Value
from onnxprune.graph.operators import operator_of
from onnxprune.ops.gradients.node_gradient import NodeGradient
from onnxprune.ops.gradients.writer import OLDEST_OPSET, Writer

logger = logging.getLogger(__name__)

Terms = list[tuple[str, str]]
"""Names of values, each with that of a summand of its gradient."""
BodyRule = Callable[["Backward", NodeGradient, Sequence[str | None], Sequence[Value]], Terms]
"""Gradients of what a node with bodies reads, given those of its outputs and the variables that its bodies capture."""

BODIES: Mapping[str, BodyRule] = {"If": through_branches, "Loop": through_iterations, "Scan": through_iterations}
"""What is differentiated body by body."""


class Backward:
    """The walk through one scope, from its outputs back to the variables.

    Attributes:
        scope: The main graph or a body.
        needed: Names of the variables and of all that varies with them.
    """

    def __init__(self, scope: Scope, data: Mapping[Value, Data], write: Writer, variables: Collection[str]) -> None:
        self.scope, self._data, self._write = scope, data, write
        self.needed = downstream(scope, variables)
        self._terms: dict[str, list[str]] = {}
        self._stops: dict[str, str] = {}

    def inside(self, body: Scope, variables: Collection[str]) -> Backward:
        """A walk through a body of a node of this scope."""
        return Backward(body, self._data, self._write, variables)

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

    def complete(self, name: str) -> str | None:
        """Name of the gradient of a value; None where nothing depends on it.

        Raises:
            LookupError: The gradient lacks a part.
        """
        if name in self._stops:
            raise LookupError(self._stops[name])
        return self.gradient(name)

    def reason(self, name: str) -> str:
        """Why a value has no gradient."""
        return self._stops.get(name, "no output depends on it by operators that can be differentiated")

    def run(self) -> None:
        """Visits every node that lies between the outputs and the variables."""
        for node in reversed(self.scope.nodes):
            outputs = [None if v is None else self.gradient(v.name) for v in node.outputs]
            stopped = next((self._stops[v.name] for v in node.outputs if v is not None and v.name in self._stops), None)
            if stopped is None and not any(outputs):
                continue
            wanted = [v is not None and v.name in self.needed for v in node.inputs]
            # a vector that several nodes read is one value a reader, and has one gradient
            inside = list({v.name: v for v in captured(node) if v.name in self.needed}.values())
            if not any(wanted) and not inside:
                continue
            given = stopped if stopped is not None else self._applied(node, outputs, wanted, inside)
            if isinstance(given, str):
                for value in [*(v for v in node.inputs if v is not None), *inside]:
                    if value.name in self.needed:
                        self._stops.setdefault(value.name, given)
                continue
            for name, term in given:
                self.add(name, term)

    def _applied(
        self, node: Node, outputs: Sequence[str | None], wanted: Sequence[bool], inside: Sequence[Value]
    ) -> Terms | str:
        """What a node reads with its gradients, by name, or why there are none."""
        body_rule = BODIES.get(node.op_type) if node.bodies and not node.domain else None
        rule = operator_of(node).gradient
        if body_rule is None and (rule is None or inside):
            return f"{node.op_type} has no gradient rule"
        read = [*(v for v, w in zip(node.inputs, wanted, strict=True) if w and v is not None), *inside]
        known = operator_of(node)
        takes_all = known.casts or known.reads_zero_points or only_moves(node)
        if not takes_all and any(v.elem_type and not is_float(v) for v in read):
            return f"{node.label} reads numbers of another precision"
        if self._write.opset < OLDEST_OPSET:
            return f"opset {self._write.opset} is older than {OLDEST_OPSET}"
        g = NodeGradient(node, self._write, outputs, wanted, self._data)
        before = len(self._write.nodes), len(self._write.constants)
        try:
            if body_rule is not None:
                return body_rule(self, g, outputs, inside)
            assert rule is not None
            rule(g)
            if g.ignored:
                return f"the gradient rule of {node.op_type} does not cover output number {g.ignored[0]}"
            missing = [i for i, needed in enumerate(wanted) if needed and i not in g.given and is_float(node.input(i))]
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
