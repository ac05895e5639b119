"""What nothing needs once an index of a searched axis is gone: an expert that no token has any more.

A mixture of experts that is spelled out takes, for each expert, the tokens whose router chose it, and adds what it
makes of them to what others made. Which tokens those are is computed from a part of a mask, which is zero (false) once
the index is gone. What is listed of a zero mask is empty, and so is what is computed of it, until a node writes it
into a tensor, which then stays as it was, or adds it. These nodes can be left out, with all that only they need.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxprune.coupling.components import AxisClasses
from onnxprune.graph.graph import Axis, Graph, Node, Value
from onnxprune.graph.operators import Copies, operator_of, other_summand
from onnxprune.ops.ties import Part, Refill, Sum, Ties


class _State(enum.Enum):
    """What a value is once the part is zero."""

    ZERO = enum.auto()
    EMPTY = enum.auto()
    OTHER = enum.auto()


@dataclass(frozen=True)
class Branch:
    """What can be left out with an index.

    Attributes:
        part: The part that is zero then.
        ends: Nodes that pass a value on as it is, with the input that holds it.
        nodes: The nodes that only they need, in the order in which they run.
    """

    part: Part
    ends: tuple[tuple[Node, int], ...]
    nodes: tuple[Node, ...]


def open_branches(ties: Ties, classes: AxisClasses) -> list[Branch]:
    """What can be left out with single indices of searched axes; other indices that parts are of are pinned."""
    searched = {int(classes.of[search.axis.id]) for search in ties.searches}
    found, returned = [], ties.graph.returned if searched else set()
    for part in ties.parts:
        if int(classes.of[part.axis.id]) not in searched:
            where = np.array([part.index]) if part.others else None
            ties.pins.append((part.axis, where, f"{part.node.label} looks indices up along it"))
        elif (branch := branch_of(ties.graph, returned, part)) is None:
            _pin(ties, part)
        else:
            found.append(branch)
    return found


def pin_returned(ties: Ties) -> None:
    """Pins axes along which a graph or a body returns positions."""
    for scope in ties.graph.scopes():
        for value in scope.outputs:
            if value is not None and value in ties.counted and value.producer is not None:
                reason = f"{value.producer.label} returns positions along it"
                ties.pins.append((ties.counted[value], None, reason))


def zero_branches(ties: Ties, branches: Sequence[Branch], zero: NDArray[np.bool_]) -> list[Branch]:
    """The branches whose part is zero once its index is gone; the indices of others are pinned."""
    found = []
    for branch in branches:
        source = branch.part.source
        if source is None or zero[source.id]:
            found.append(branch)
        else:
            _pin(ties, branch.part)
    return found


def forget_refills(ties: Ties, classes: AxisClasses) -> None:
    """Gives nothing zeros along an axis that is searched: what is lost there counts as minus infinity, not as zero."""
    searched = {int(classes.of[search.axis.id]) for search in ties.searches}

    def stays(one: Refill | Sum) -> bool:
        return int(classes.of[one.axis.id]) not in searched

    ties.refills = [one for one in ties.refills if stays(one)]
    ties.sums = [replace(one, reduces=one.reduces and stays(one)) for one in ties.sums]


def present_with(branches: Sequence[Branch]) -> dict[Node | Value, Axis]:
    """The axis with an index of which each node goes, and each constant that nothing else reads."""
    found: dict[Node | Value, Axis] = {}
    for branch in branches:
        inside = set(branch.nodes)
        found.update(dict.fromkeys(branch.nodes, branch.part.axis))
        constants = (v for node in branch.nodes for v in node.inputs if v is not None and v.tensor is not None)
        own = (v for v in constants if inside.issuperset(node for node, _ in v.consumers))
        found.update(dict.fromkeys(own, branch.part.axis))
    return found


def _pin(ties: Ties, part: Part) -> None:
    reason = f"{part.node.label} takes one index, without which something else would be missing"
    ties.pins.append((part.axis, np.array([part.index]), reason))


def branch_of(graph: Graph, returned: set[int], part: Part) -> Branch | None:
    """What can be left out once the index of a part is gone; None where the rest needs something of it.

    Args:
        graph: The graph.
        returned: What leaves it, see `Graph.returned`.
        part: The part.
    """
    states = {part.node.output(): _State.ZERO}
    ends: dict[Node, int] = {}
    pending = _readers(part.node)
    while pending:
        node = pending.pop(min(pending))  # in the order in which they run: all that a node reads is known
        if node.scope is not graph.main or node.bodies:
            return None
        passed = _passed_on(node, states)
        if passed is not None:
            ends[node] = passed
            continue
        state = _state_made(node, [_state(node, i, states) for i in range(len(node.inputs))])
        made = [out for out in node.outputs if out is not None]
        if any(id(out) in returned for out in made):
            return None
        states.update(dict.fromkeys(made, state))
        pending |= _readers(node)
    return Branch(part, tuple(ends.items()), tuple(_only_for(returned, ends))) if ends else None


def _readers(node: Node) -> dict[int, Node]:
    """The nodes that read what a node makes, by their place."""
    return {reader.index: reader for out in node.outputs if out is not None for reader, _ in out.consumers}


def _passed_on(node: Node, states: dict[Value, _State]) -> int | None:
    """The input that is the output of a node that writes or adds nothing; None where it is no such node."""
    operator = operator_of(node)
    if operator.writes is not None:
        empty = any(_state(node, i, states) is _State.EMPTY for i in (1, operator.writes))
        return 0 if empty and _state(node, 0, states) is None else None
    for i in range(len(node.inputs)):
        rest = other_summand(node, i)
        if rest is None or _state(node, i, states) is not _State.ZERO or states.get(rest) is not None:
            continue
        if rest.shape == node.output().shape and None not in (rest.shape or [None]):
            return 1 - i
    return None


def _state(node: Node, i: int, states: dict[Value, _State]) -> _State | None:
    value = node.inputs[i] if i < len(node.inputs) else None
    return None if value is None else states.get(value)


def _state_made(node: Node, inputs: list[_State | None]) -> _State:
    """What a node makes of empty or zero inputs; None stands for all others."""
    operator, first = operator_of(node), inputs[0]
    if operator.reads_lengths:
        return _State.OTHER
    if operator.lists_nonzero:
        return _State.OTHER if first is _State.OTHER else _State.EMPTY
    if operator.reads_parts and len(inputs) > 1 and inputs[1] is _State.EMPTY:
        return _State.EMPTY  # nothing is looked up
    if operator.copies in (Copies.ALL, Copies.SOME):
        return first or _State.OTHER
    elementwise = operator.pointwise or operator.activation
    if (elementwise and _State.EMPTY in inputs) or (operator.macs is not None and first is _State.EMPTY):
        return _State.EMPTY
    if operator.copies is Copies.JOINED and set(inputs) == {_State.EMPTY}:
        return _State.EMPTY
    if any(inputs[i] is _State.ZERO for i in operator.proportional):
        return _State.ZERO
    return _State.OTHER


def _only_for(returned: set[int], ends: dict[Node, int]) -> list[Node]:
    """The nodes that nothing but the ends needs, for other inputs than what they pass on, in the order of running."""
    gone = set[Node]()

    def unneeded(value: Value) -> bool:
        readers = ((node in gone or ends.get(node, i) != i) for node, i in value.consumers)
        return id(value) not in returned and all(readers)

    pending = [value for node, passed in ends.items() for i, value in enumerate(node.inputs) if value and i != passed]
    while pending:
        node = pending.pop().producer
        if node is None or node in gone or not all(unneeded(v) for v in node.outputs if v is not None):
            continue
        gone.add(node)
        pending += [value for value in node.inputs if value is not None]
    return sorted(gone, key=lambda node: node.index)
