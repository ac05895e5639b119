"""The gradient of a Loop or Scan: a Loop that walks the iterations backwards.

The node is made to return what its states are at the beginning of each iteration. The other Loop computes each
iteration again from these, and from the gradients of what it made those of what it read: of the states, for the
iteration before; of slices, which are stacked again; and of the values outside that its body reads, which are added up.
Iterations that never ran, because a condition ended the Loop, left no state, and are not walked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper

from onnxprune.gradients.bodies import refuse_random, refuse_shadows
from onnxprune.gradients.iterations import BODY, Parts, Replay, Slices, State, info_of, parts_of
from onnxprune.graph.graph import Scope, Value
from onnxprune.model.topology import read_names, topological_order
from onnxprune.ops.gradients.node_gradient import NodeGradient

if TYPE_CHECKING:
    from onnxprune.gradients.backward import Backward


@dataclass(frozen=True)
class _Wanted:
    """What gradients are computed of.

    Attributes:
        states: States, from iteration to iteration.
        outside: Values outside, added up over the iterations.
        read: Slices, stacked.
    """

    states: Sequence[State]
    outside: Sequence[Value]
    read: Sequence[Slices]

    @property
    def carried(self) -> list[Value]:
        """Values whose gradients go from iteration to iteration."""
        return [*(state.start for state in self.states), *self.outside]


def through_iterations(
    walk: Backward, g: NodeGradient, outputs: Sequence[str | None], captured: Sequence[Value]
) -> list[tuple[str, str]]:
    """Gradients of what a Loop or Scan reads, by name.

    Args:
        walk: The walk through the graph around it.
        g: The node.
        outputs: Gradients of its outputs.
        captured: The variables that its body reads from outside.

    Raises:
        LookupError: The body has an operator without gradient, cannot be run again, or has a state whose shape may
            change.
    """
    refuse_shadows(walk.scope, g.node, g.node.bodies[BODY])
    parts = parts_of(g, outputs)
    inner, used = walk.inside(parts.body, parts.varying(walk.needed)), parts.used()
    wanted = _Wanted(
        [s for s in parts.states if s.start.name in inner.needed and used & {s.start.name, s.end.name}],
        [value for value in captured if value.name in used],
        [piece for piece in parts.read if piece.whole in walk.needed and piece.value.name in used],
    )
    for state in wanted.states:
        parts.check_state(state)
    replay = Replay(g, parts)
    initial = [state.gradient or g.zeros(state.initial) for state in wanted.states]
    initial += [g.zeros(value) for value in wanted.outside]
    *found, order = g.write.repeat(replay.count, initial, _body(g, inner, parts, replay, wanted))
    replay.finish()
    names = [*(state.initial.name for state in wanted.states), *(value.name for value in wanted.outside)]
    terms = list(zip(names, found, strict=False))
    stacks = zip(wanted.read, found[len(names) :], strict=True)
    terms += [(piece.whole, _joined(g, stack, piece, order)) for piece, stack in stacks]
    return [(name, term) for name, term in terms if name in walk.needed]


def _joined(g: NodeGradient, stack: str, piece: Slices, order: str) -> str:
    """Slices in the order of the iterations that were walked, joined as they were read."""
    rank = g.rank(piece.value)
    straight = stack if piece.turned else g.emit("Gather", stack, order, axis=0)
    axis = piece.axis % (rank + 1)
    return (
        g.emit("Transpose", straight, perm=[*range(1, axis + 1), 0, *range(axis + 1, rank + 1)]) if axis else straight
    )


def _body(g: NodeGradient, inner: Backward, parts: Parts, replay: Replay, wanted: _Wanted) -> GraphProto:
    """The body of the other Loop: it runs an iteration again and goes back through it."""
    given = [g.write.name("gradient/state") for _ in wanted.carried]
    for name, piece in zip(replay.slices, parts.made, strict=True):
        inner.add(piece.value.name, name)
    for name, state in zip(given, wanted.states, strict=False):
        inner.add(state.end.name, name)
    with g.write.apart() as nodes:
        inner.run()
        results = [_made(g, inner, value) for value in wanted.carried[: len(wanted.states)]]
        for name, value in zip(given[len(results) :], wanted.outside, strict=True):
            term = inner.complete(value.name)
            results.append(g.emit("Identity", name) if term is None else g.emit("Add", name, term))
        results += [_made(g, inner, piece.value) for piece in wanted.read]
        order = g.emit("Identity", replay.index)
    again, names = _made_again(parts.body, nodes)
    refuse_random(again)
    with g.write.apart() as beginning:
        replay.begin(names)
    values = [*wanted.carried, *(piece.value for piece in wanted.read)]
    body = helper.make_graph(
        [*beginning, *again, *nodes],
        g.write.name("gradient/iteration"),
        [_number(replay.position), *(info_of(name, v) for name, v in zip(given, wanted.carried, strict=True))],
        [*(info_of(name, v) for name, v in zip(results, values, strict=True)), _number(order)],
    )
    body.initializer.extend(tensor for tensor in parts.body.proto.initializer if tensor.name in names)
    body.sparse_initializer.extend(parts.body.proto.sparse_initializer)
    return body


def _made(g: NodeGradient, inner: Backward, value: Value) -> str:
    """The gradient of an input of the body, zeros where nothing in it depends on the input."""
    found = inner.complete(value.name)
    return g.zeros(value) if found is None else g.emit("Identity", found)


def _made_again(body: Scope, nodes: Iterable[NodeProto]) -> tuple[list[NodeProto], set[str]]:
    """The nodes of a body that make what other nodes read, in order, and the names that all of them read."""
    names = {name for node in nodes for name in read_names(node)}
    found = []
    for node in reversed(topological_order(body.proto)):
        if names.intersection(node.output):
            found.append(node)
            names.update(read_names(node))
    return found[::-1], names


def _number(name: str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.INT64, [])
