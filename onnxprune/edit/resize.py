"""Axis lengths after removal, and the edits of nodes that follow from them.

`KeptLengths` computes the new lengths; `NodeEdits` collects the edits that the resize functions of the rules request.
The model is not changed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.coupling.coupling import Coupling
from onnxprune.graph.contents import Data, Unknown, length_of, same
from onnxprune.graph.data_propagation import evaluate
from onnxprune.graph.graph import Axis, Graph, Node, Value
from onnxprune.graph.lengths import Dim, of_dim, to_dim
from onnxprune.graph.operators import operator_of
from onnxprune.graph.polynomials import Length, quotient

Entries = list[int | Length | None]
"""What an input must hold; None where it stays as it is computed."""


@dataclass(frozen=True, eq=False)
class NewPositions:
    """What an index tensor must hold along an axis, or everywhere, see `ties.NewShape.set_positions`."""

    along: int | None
    column: int | None
    entries: NDArray[np.int64]


class KeptLengths:
    """Axis lengths after the removal of channels.

    Args:
        coupling: The analyzed graph.
        removed: Boolean per channel id, True for removed channels; shape (elements,).
    """

    def __init__(self, coupling: Coupling, removed: NDArray[np.bool_]) -> None:
        self._classes = coupling.classes
        self._is_kept = ~removed[coupling.channel]  # by element
        # Of several classes with the same offset, only the last one has elements.
        owners = np.searchsorted(self._classes.offset, np.flatnonzero(~self._is_kept), side="right") - 1
        sizes = np.maximum(self._classes.length, 0)
        self._removed_count = np.bincount(owners, minlength=len(sizes)) if len(sizes) else sizes  # by class

    @property
    def any_removed(self) -> bool:
        """Whether anything is removed at all."""
        return bool(self._removed_count.any())

    def changed(self, axis: Axis) -> bool:
        """Whether an index of the axis is removed."""
        return bool(self._removed_count[self._classes.of[axis.id]])

    def touches(self, value: Value) -> bool:
        """Whether an index of any axis of the value is removed."""
        n = len(value.shape or [])
        return bool(n) and bool(self._removed_count[self._classes.of[value.first_axis : value.first_axis + n]].any())

    def kept(self, axis: Axis) -> NDArray[np.int64]:
        """Returns the kept indices of the original axis."""
        return np.flatnonzero(self._is_kept[self._classes.span(axis.id)])

    def removed(self, axis: Axis) -> NDArray[np.int64]:
        """Returns the removed indices of the original axis."""
        return np.flatnonzero(~self._is_kept[self._classes.span(axis.id)])

    def length(self, axis: Axis) -> int | Length | None:
        """Returns the new length of an axis; None for a free one that is as long as before."""
        count = int(self._removed_count[self._classes.of[axis.id]])
        if axis.length is not None:
            return axis.length - count
        old, width = of_dim((axis.value.shape or [])[axis.position]), axis.width
        if not count or old is None or width is None:
            return None
        return quotient(old * Length.constant(width - count), Length.constant(width))

    def share(self, axis: Axis) -> float:
        """Returns the share of the indices of an axis that is kept."""
        c = self._classes.of[axis.id]
        return 1.0 - int(self._removed_count[c]) / max(int(self._classes.length[c]), 1)

    def position(self, axis: Axis, index: int) -> int:
        """Returns the position in the new axis of the first kept index that is not less than `index`."""
        span = self._classes.span(axis.id)
        return int(self._is_kept[span.start : span.start + index].sum())

    def surviving(self, value: Value, entries: Data) -> Data:
        """Returns the kept part of a value's contents, which have its original shape."""
        if not self.touches(value) or entries.ndim != value.rank:
            return entries
        for axis in value.axes():
            if self.changed(axis) and entries.shape[axis.position] == axis.length:
                entries = entries.take(self.kept(axis), axis=axis.position)
        return entries

    def shape(self, value: Value) -> Sequence[Dim] | None:
        """Returns the new shape of a value."""
        if value.shape is None or not self.touches(value):
            return value.shape
        lengths = [self.length(axis) for axis in value.axes()]
        return [
            n if isinstance(n, int) else (d if n is None else to_dim(n))
            for n, d in zip(lengths, value.shape, strict=True)
        ]


class NodeEdits:
    """Required edits: attributes of nodes, and the contents of inputs such as shapes.

    Attributes:
        attributes: (node, attribute) -> new value; None removes the attribute.
        inputs: (node, input) -> required entries; None keeps an entry as it is computed.
        shapes: (node, input) -> shape of the required entries, if it differs from the original one.
        positions: (node, input) -> what an index tensor must hold along some of its axes.
        now: Values that computed shapes have after the removal without any edit.
    """

    def __init__(self, coupling: Coupling, lengths: KeptLengths) -> None:
        self.attributes: dict[tuple[Node, str], Any] = {}
        self.inputs: dict[tuple[Node, int], Entries] = {}
        self.shapes: dict[tuple[Node, int], tuple[int, ...]] = {}
        self.positions: dict[tuple[Node, int], list[NewPositions]] = {}
        fixed = {v: lengths.surviving(v, entries) for v, entries in coupling.data.items() if _is_fixed(v)}
        self.now: dict[Value, Data] = evaluate(coupling.graph, lengths.shape, fixed)
        for node, resize in coupling.ties.resizes:
            values, counted = [v for v in [*node.inputs, *node.outputs] if v is not None], coupling.ties.counted
            if any(lengths.touches(v) or (v in counted and lengths.changed(counted[v])) for v in values):
                resize(_NodeShape(node, lengths, self))
        self._keep_numbers(coupling, lengths)

    def _keep_numbers(self, coupling: Coupling, lengths: KeptLengths) -> None:
        """Keeps the original value of a length that is used as a number and not as a shape."""
        of_lengths = _of_lengths(coupling.graph)
        for value, before in coupling.data.items():
            now = self.now.get(value)
            if value not in of_lengths or now is None:
                continue
            then = lengths.surviving(value, before)
            if same(then, now):
                continue
            for node, i in value.consumers:
                propagated = not (node.bodies or operator_of(node).shape_from_values) and any(
                    out in coupling.data and out in self.now for out in node.outputs if out is not None
                )
                if (node, i) not in self.inputs and not propagated:
                    self.inputs[node, i] = [length_of(e) if isinstance(e, Unknown) else e for e in then.flat]


def _of_lengths(graph: Graph) -> set[Value]:
    """Values that are computed of lengths; small weights, and what is computed of them alone, are known as well."""
    found: set[Value] = set()
    for node in graph.nodes:
        if operator_of(node).reads_lengths or node.bodies or any(v in found for v in node.inputs if v is not None):
            found.update(v for v in node.outputs if v is not None)
    return found


def _is_fixed(value: Value) -> bool:
    """Whether a value does not follow the new lengths: a constant, or what is as long as numbers say (`Range`)."""
    return value.tensor is not None or (value.producer is not None and operator_of(value.producer).shape_from_values)


class _NodeShape:
    """The arguments of one node's resize function (see `ties.NewShape`)."""

    def __init__(self, node: Node, lengths: KeptLengths, changes: NodeEdits) -> None:
        self._node = node
        self._changes = changes
        self.length = lengths.length
        self.kept = lengths.kept
        self.position = lengths.position
        self.changed = lengths.changed

    def set_attribute(self, name: str, value: Any) -> None:
        self._changes.attributes[self._node, name] = value

    def set_positions(self, index: int, along: int | None, column: int | None, entries: Sequence[int]) -> None:
        changes = self._changes.positions.setdefault((self._node, index), [])
        changes.append(NewPositions(along, column, np.array(entries, dtype=np.int64)))

    def set_input(self, index: int, entries: Sequence[int | Length | None] | NDArray[Any]) -> None:
        self._changes.inputs[self._node, index] = list(np.asarray(entries, dtype=object).flat)
        if isinstance(entries, np.ndarray) and entries.ndim > 1:
            self._changes.shapes[self._node, index] = entries.shape
