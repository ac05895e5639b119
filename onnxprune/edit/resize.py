"""New lengths after removal, and what must change for nodes to agree with them.

`KeptLengths` is the arithmetic; `NodeEdits` collects what the resize functions of the rules ask for. Nothing is
patched here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.coupling.coupling import Coupling
from onnxprune.graph.contents import Data, Unknown, same
from onnxprune.graph.data_propagation import evaluate
from onnxprune.graph.graph import Axis, Dim, Node, Value

Entries = list[int | None]


class KeptLengths:
    """Axis lengths once some channels are gone.

    Args:
        coupling: The analysed graph.
        gone: Boolean per channel id, True for what is removed; shape (elements,).
    """

    def __init__(self, coupling: Coupling, gone: NDArray[np.bool_]) -> None:
        self._classes = coupling.classes
        self.stay = ~gone[coupling.channel]
        removed = np.flatnonzero(~self.stay)
        # of classes that share an offset only the last has elements
        owners = np.searchsorted(self._classes.offset, removed, side="right") - 1
        sizes = np.maximum(self._classes.length, 0)
        self.lost = np.bincount(owners, minlength=len(sizes)) if len(sizes) else sizes

    def changed(self, axis: Axis) -> bool:
        """Whether the axis lost an index."""
        return bool(self.lost[self._classes.of[axis.id]])

    def touches(self, value: Value) -> bool:
        """Whether any axis of the value lost an index."""
        n = len(value.shape or [])
        return bool(n) and bool(self.lost[self._classes.of[value.first_axis : value.first_axis + n]].any())

    def kept(self, axis: Axis) -> NDArray[np.int64]:
        """Indices of the original axis that stay."""
        return np.flatnonzero(self.stay[self._classes.span(axis.id)])

    def removed(self, axis: Axis) -> NDArray[np.int64]:
        """Indices of the original axis that go."""
        return np.flatnonzero(~self.stay[self._classes.span(axis.id)])

    def length(self, axis: Axis) -> int | None:
        """New static length, None where the axis is free."""
        c = self._classes.of[axis.id]
        return None if axis.length is None else axis.length - int(self.lost[c])

    def position(self, axis: Axis, index: int) -> int:
        """Where the first surviving index at or after `index` stands in the new axis."""
        span = self._classes.span(axis.id)
        return int(self.stay[span.start : span.start + index].sum())

    def surviving(self, value: Value, entries: Data) -> Data:
        """What is left of a value's contents, which were told for its original shape."""
        if not self.touches(value) or entries.ndim != value.rank:
            return entries
        for axis in value.axes():
            if self.changed(axis) and entries.shape[axis.position] == axis.length:
                entries = entries.take(self.kept(axis), axis=axis.position)
        return entries

    def shape(self, value: Value) -> Sequence[Dim] | None:
        """The new shape of a value."""
        if value.shape is None or not self.touches(value):
            return value.shape
        return [
            d if (n := self.length(axis)) is None or not isinstance(d, int) else n
            for d, axis in zip(value.shape, value.axes(), strict=True)
        ]


class NodeEdits:
    """What must change: attributes of nodes, and the contents of shape-like inputs.

    Attributes:
        attributes: (node, attribute) -> new value; None removes it.
        inputs: (node, input) -> entries it must hold; None leaves an entry as it is computed.
        shapes: (node, input) -> shape of what it must hold, where that is not the shape that it had.
        now: What computed shapes hold after removal if nothing is done.
    """

    def __init__(self, coupling: Coupling, lengths: KeptLengths) -> None:
        self.attributes: dict[tuple[Node, str], Any] = {}
        self.inputs: dict[tuple[Node, int], Entries] = {}
        self.shapes: dict[tuple[Node, int], tuple[int, ...]] = {}
        stored = {v: lengths.surviving(v, entries) for v, entries in coupling.data.items() if v.tensor is not None}
        self.now: dict[Value, Data] = evaluate(coupling.graph, lengths.shape, stored)
        for node, ask in coupling.ties.resizes:
            if any(v is not None and lengths.touches(v) for v in [*node.inputs, *node.outputs]):
                ask(_NodeShape(node, lengths, self))
        self._keep_numbers(coupling, lengths)

    def _keep_numbers(self, coupling: Coupling, lengths: KeptLengths) -> None:
        """A length that is used as a number, not as a shape, keeps the value that it had."""
        for value, before in coupling.data.items():
            now = self.now.get(value)
            if value.tensor is not None or now is None:
                continue
            then = lengths.surviving(value, before)
            if same(then, now):
                continue
            for node, i in value.consumers:
                carried = node.op_type != "If" and any(out in coupling.data for out in node.outputs if out is not None)
                if (node, i) not in self.inputs and not carried:
                    self.inputs[node, i] = [None if isinstance(e, Unknown) else e for e in then.flat]


class _NodeShape:
    """The view of one node's resize function (see `ties.NewShape`)."""

    def __init__(self, node: Node, lengths: KeptLengths, changes: NodeEdits) -> None:
        self._node = node
        self._changes = changes
        self.length = lengths.length
        self.kept = lengths.kept
        self.position = lengths.position
        self.changed = lengths.changed

    def set_attribute(self, name: str, value: Any) -> None:
        self._changes.attributes[self._node, name] = value

    def set_input(self, index: int, entries: Sequence[int | None] | NDArray[Any]) -> None:
        self._changes.inputs[self._node, index] = list(np.asarray(entries).flat)
        if isinstance(entries, np.ndarray) and entries.ndim > 1:
            self._changes.shapes[self._node, index] = entries.shape
