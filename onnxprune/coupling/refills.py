"""What zeros mean for sums, means and refills, and which nodes must be given zeros for them to be exact.

A variance over channels, written out, adds up ``(x - mean) ** 2``: not zero where x is. But it is computed of x element
by element, and so is what it was once x has its zeros back: the Sub and the Pow are refilled with the ReduceMean.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxprune.coupling.components import AxisClasses, Index
from onnxprune.graph.graph import Axis, Graph, Node, Value
from onnxprune.graph.operators import Copies, operator_of
from onnxprune.model.tensors import FLOATS
from onnxprune.ops.ties import Refill, Ties

PADS_ALL, PADS_BOOLEANS = 11, 13
"""Opsets from which on Pad takes integers, and booleans; before, it takes floating-point numbers."""
MOST_NODES = 12
"""How many nodes are refilled for the sake of one: each computes as much as before."""


@dataclass(frozen=True)
class Refilling:
    """What is known about zeros, to tell what can be refilled.

    Attributes:
        ties: What the rules said.
        classes: Axes united as a whole.
        zero: Which axes are zero once masked, by number.
    """

    ties: Ties
    classes: AxisClasses
    zero: NDArray[np.bool_]

    @cached_property
    def _divisors(self) -> frozenset[int]:
        """What is divided by, by number of the axis."""
        return frozenset(axis.id for axis in self.ties.divisors)

    def before(self, one: Refill) -> list[Refill] | None:
        """What has to be refilled before a node, none where its input is zero; None where nothing helps."""
        if not self._can_be_padded(one.axis.value):
            return None
        if self.zero[list(one.zero)].all():
            return []
        class_ = int(self.classes.of[one.axis.id])
        found: dict[Node, Refill] = {}
        return list(found.values()) if self._reach(one.node, class_, one.reason, found) else None

    def _can_be_padded(self, value: Value) -> bool:
        """Whether the Pad of the operator set takes the values."""
        opset = self.ties.graph.opsets.get("", 1)
        return value.elem_type in FLOATS or opset >= (
            PADS_BOOLEANS if value.elem_type == TensorProto.BOOL else PADS_ALL
        )

    def _reach(self, node: Node, class_: int, reason: str, found: dict[Node, Refill]) -> bool:
        """Whether all that a node reads along the axes is zero, or computed element by element of what is."""
        for value in node.inputs:
            for axis in self._along(value.axes(), class_) if value is not None else []:
                maker = axis.value.producer
                if self.zero[axis.id] or maker in found:
                    continue
                if maker is None or len(found) == MOST_NODES:
                    return False
                if not self._by_element(maker, class_) or not self._can_be_padded(axis.value):
                    return False
                found[maker] = Refill(maker, axis, (), reason)
                if not self._reach(maker, class_, reason, found):
                    return False
        return True

    def _by_element(self, node: Node, class_: int) -> bool:
        """Whether a node computes each element of those at its index, and something finite of zeros along the axes."""
        operator = operator_of(node)
        read = [axis for value in node.inputs if value is not None for axis in self._along(value.axes(), class_)]
        return (
            (operator.pointwise or operator.activation or (_keeps_axes(node) and not operator.random))
            and node not in self.ties.graph.constant_nodes
            and bool(read)
            and not any(axis.value.elem_type == TensorProto.INT32 for axis in read)  # no weight, but for a bias
            and not any(axis.id in self._divisors and self.zero[axis.id] for axis in read)
        )

    def _along(self, axes: list[Axis], class_: int) -> list[Axis]:
        return [axis for axis in axes if self.classes.of[axis.id] == class_]


def _keeps_axes(node: Node) -> bool:
    """Whether a node copies what it reads and only moves, adds or drops axes of length one.

    A Reshape may take its lengths from what was cut.
    """
    operator = operator_of(node)
    if operator.copies != Copies.ALL or operator.infers_length:
        return False
    read, made = (sorted(str(n) for n in value.shape or [] if n != 1) for value in (node.input(0), node.output()))
    return read == made


def unmet(ties: Ties, classes: AxisClasses, zero: NDArray[np.bool_]) -> set[Axis]:
    """Axes that were to be refilled with zeros, where that would not be exact."""
    refilling = Refilling(ties, classes, zero)
    return {one.axis for one in ties.refills if refilling.before(one) is None}


def grade_by_zeros(ties: Ties, classes: AxisClasses, zero: NDArray[np.bool_]) -> None:
    """Makes sums mix where no summand is zero nor can be refilled, and refills where that is not exact; in place.

    Of means and divisors those are left that are zero; refills are those that are exact, with what comes before them.
    """
    refilling = Refilling(ties, classes, zero)
    asked = list(ties.refills)
    for one in ties.sums:
        if not zero[list(one.zero)].any():
            if one.reduces and one.node not in ties.graph.constant_nodes and not ties.renumbered:
                asked.append(Refill(one.node, one.axis, one.zero, one.reason))
            else:
                ties.mixes.append((one.axis, None, one.reason))
    ties.refills = []
    for refill in asked:
        before = refilling.before(refill)
        if before is None:
            ties.mixes.append((refill.axis, None, refill.reason))
        else:
            ties.refills += [*before, refill]
    ties.means = [mean for mean in ties.means if zero[mean.axis.id]]
    ties.divisors = [axis for axis in ties.divisors if zero[axis.id]]


@dataclass(frozen=True)
class End:
    """An input or output of a refilled node, along axes of which indices are lost.

    Attributes:
        node: The node.
        index: Which input or output.
        value: What it is.
        is_output: Whether it is an output.
        whole: Whether an input is taken as another refilled node makes it, before it is cut.
        pads: Classes of axes along which zeros are appended.
        cuts: Classes of axes along which the end is cut off.
    """

    node: Node
    index: int
    value: Value
    is_output: bool
    whole: bool
    pads: frozenset[int]
    cuts: frozenset[int]


def ends(graph: Graph, classes: AxisClasses, refills: Iterable[Refill]) -> list[End]:
    """What to do for the nodes that are refilled, in execution order: what one makes for another is not cut."""
    refilled: dict[Node, set[int]] = {}
    for one in refills:
        refilled.setdefault(one.node, set()).add(int(classes.of[one.axis.id]))
    returned, none = graph.returned, frozenset[int]()

    def along(value: Value, node: Node | None) -> frozenset[int]:
        of = refilled.get(node, set()) if node is not None else set()
        return frozenset(int(classes.of[axis.id]) for axis in value.axes()) & of if of else none

    found = []
    for node in [n for n in graph.nodes if n in refilled]:
        for i, value in enumerate(node.inputs):
            if value is not None and (of := along(value, node)):
                made = along(value, value.producer)
                whole = bool(made & of)
                pads, cuts = (of - made, made - of) if whole else (of, none)
                found.append(End(node, i, value, False, whole, pads, cuts))
        for i, value in enumerate(node.outputs):
            if value is not None and (made := along(value, node)):
                inside = id(value) not in returned and all(made & along(value, n) for n, _ in value.consumers)
                found.append(End(node, i, value, True, True, none, none if inside else made))
    return found


def padded_constants(
    graph: Graph, classes: AxisClasses, channel: Index, refills: Iterable[Refill]
) -> dict[Value, frozenset[int]]:
    """Constants that refilled nodes alone read, and which of their axes keep their length: zeros follow what is left.

    They are those that several nodes share and that lose other indices for each: every copy is stored with its zeros,
    where a constant with one loss is cut and gets its zeros from a node, as other values do.
    """
    pads: dict[tuple[Node, int], frozenset[int]] = {}
    for end in ends(graph, classes, refills):
        if not end.is_output and end.value.tensor is not None:
            pads[end.node, end.index] = end.pads
    channels: dict[str, set[tuple[bytes, ...]]] = {}
    for value in graph.constants() if pads else ():
        channels.setdefault(value.key, set()).add(tuple(channel[classes.span(a.id)].tobytes() for a in value.axes()))
    found = {}
    for value in dict.fromkeys(node.input(i) for node, i in pads):
        wanted = {pads.get(reader) for reader in value.consumers}
        of = wanted.pop()
        if of and not wanted and len(channels[value.key]) > 1:
            found[value] = frozenset(axis.position for axis in value.axes() if int(classes.of[axis.id]) in of)
    return found
