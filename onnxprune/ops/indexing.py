"""Operators that look up by index, along an axis that loses indices.

Constant indices are renumbered. Those that a search finds (`graph.counted`) are right as they are where what they look
up and what was searched lose the same. Otherwise the axis is pinned.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph.graph import Axis, Value
from onnxprune.graph.operators import Copies
from onnxprune.graph.positions import columns, positions
from onnxprune.ops.op import Op, arange
from onnxprune.ops.registry import facts_of, rule
from onnxprune.ops.ties import NewShape


@rule("Gather", copies=Copies.SOME, lookups=((0, 1),), reads_parts=True)
def gather(op: Op) -> None:
    """Constant indices are renumbered; those of a search follow it; others pin the axis that they look up."""
    x, index, out = op.input(0), op.input(1), op.output()
    along = op.attr("axis", 0) % len(x.shape or [1])
    width = len(index.shape or [])
    for axis in x.axes():
        if axis.position != along:
            target = axis.position if axis.position < along else axis.position + width - 1
            op.tie(axis, out.axis(target), zero=True)
    listed = _listed(op)
    for axis in index.axes():
        if listed is None or axis.position != listed[1].position:
            op.tie(axis, out.axis(along + axis.position))
    if listed is None and index.key in op.ties.renumbered:
        op.leave(x)
        return
    if listed is None and (searched := op.counted(1)) is not None:
        op.tie(x.axis(along), searched)
        return
    if listed is None and not index.rank and _takes_one(op, x.axis(along)):
        return
    if listed is None:
        op.pin(x.axis(along), f"{op.node.label} looks indices up along it")
        return
    _renumbered(op, x.axis(along), out.axis(along + listed[1].position), *listed)


def _listed(op: Op) -> tuple[list[int], Axis] | None:
    """The indices and the axis they lie on, where they are a constant with at most one axis longer than 1."""
    index, looked = op.input(1), op.input(0).axis(op.attr("axis", 0)).length
    long = [axis for axis in index.axes() if axis.length != 1] or index.axes()[:1]
    entries = op.numbers(1) if index.tensor is not None and len(long) == 1 else None
    return None if entries is None or not looked else ([int(e) % looked for e in entries], long[0])


def _takes_one(op: Op, looked: Axis) -> bool:
    """Takes what is at one index that a constant holds; whether the node does."""
    entries = op.numbers(1) if op.input(1).tensor is not None else None
    if not entries or not looked.length:
        return False
    one = int(entries[0]) % looked.length
    op.part(looked, one, looked)

    def renumber(new: NewShape) -> None:
        if one in new.kept(looked):
            new.set_input(1, [new.position(looked, one)])

    op.resize(renumber)
    return True


def _renumbered(op: Op, looked: Axis, target: Axis, entries: list[int], listed: Axis) -> None:
    taken = np.array(entries, dtype=np.int64)
    labels = np.full(looked.length or 0, -1)
    labels[taken] = taken
    # a vector of indices may have other readers, which lose others: it is rewritten, not sliced
    own = [] if listed.value.rank == 1 else [(listed, taken)]
    op.link((looked, labels), (target, taken), *own)
    op.keep_zero(target, looked)

    def renumber(new: NewShape) -> None:
        if new.changed(looked):
            kept_indices = taken[np.isin(taken, new.kept(looked))]
            new.set_input(1, [new.position(looked, int(i)) for i in kept_indices])

    op.resize(renumber)


facts_of("GatherElements", lookups=((0, 1),), reads_parts=True)


facts_of("ScatterElements Scatter ScatterND", writes=2)


@rule("GatherElements ScatterElements Scatter")
def by_elements(op: Op) -> None:
    """Reads or writes element by element at positions along one axis, in step along the others from their start.

    Positions that are known before the run and are the same all along the other axes relate the indices of the axis
    they count along, as those of Gather do, and those that a search finds follow it; otherwise that axis is pinned.
    """
    x, index, out = op.input(0), op.input(1), op.output()
    along = op.attr("axis", 0) % len(x.shape or [1])
    reads = op.type == "GatherElements"
    short, long = ([index, out], [x]) if reads else ([index, op.input(2)], [x, out])
    for axis in x.axes():
        if axis.position != along:
            _in_step(op, [v.axis(axis.position) for v in long], [v.axis(axis.position) for v in short])
    if not reads:
        op.tie(x.axis(along), out.axis(along))
    if (searched := op.counted(1)) is not None:
        op.tie(x.axis(along), searched)
        _in_step(op, [index.axis(along)], [v.axis(along) for v in short if v is not index])
        if not reads:
            op.keep_zero(out.axis(along), x.axis(along))  # nothing is written to what is lost
        return
    taken = _taken_along(op, index, along, x.axis(along))
    parts = [v.axis(along) for v in short if v is not index]
    if taken is None:
        _pin_places(op, [v.axis(along) for v in [x, index, out]] + parts)
        return
    op.leave(index)
    Addressed(op, x.axis(along), parts[0], along, None, taken).link()
    _keep_zero_at(op, out, along, x.axis(along), None if reads else parts[0])


def _in_step(op: Op, long: list[Axis], short: list[Axis]) -> None:
    """Ties axes whose indices belong together; shorter ones have the first of them."""
    lengths = {str((axis.value.shape or [])[axis.position]) for axis in [*long, *short]}
    if len(lengths) == 1:
        for axis in [*long[1:], *short]:
            op.tie(long[0], axis)
    elif any(axis.length is None for axis in [*long, *short]):
        _pin_places(op, [*long, *short])
    else:
        op.link(*((axis, arange(axis)) for axis in [*long, *short]))


def _taken_along(op: Op, index: Value, along: int, looked: Axis) -> NDArray[np.int64] | None:
    """The positions along an axis, where they do not depend on others and are known before the run."""
    found, count = positions(index, op.ties.data), index.axis(along).length
    if found.entries is None or not found.axes <= {along} or not looked.length or not count:
        return None
    return np.broadcast_to(found.entries % looked.length, count)


POSITIONS = 1
"""The input that holds the positions, of all operators with an address for every element or slice."""


@dataclass(frozen=True)
class Addressed:
    """An axis whose indices are addressed by known positions.

    Attributes:
        op: The operator.
        looked: The axis that is addressed.
        part: The axis that holds what is read or written there; None where all of it is at one position.
        along: The axis of the index tensor that the positions lie along, None for one position.
        column: Index on the last axis of the index tensor; None where that is no axis of columns.
        taken: The positions; shape (length of the part,).
    """

    op: Op
    looked: Axis
    part: Axis | None
    along: int | None
    column: int | None
    taken: NDArray[np.int64]

    def link(self) -> None:
        """Ties what is at each position to what is read or written there; positions follow what is removed."""
        if self.part is None:
            self.op.pin(self.looked, f"{self.op.node.label} addresses it by position", np.unique(self.taken).tolist())
        else:
            labels = np.full(self.looked.length or 0, -1)
            labels[self.taken] = self.taken
            self.op.link((self.looked, labels), (self.part, self.taken))
        self.op.resize(self._renumber)

    def _renumber(self, new: NewShape) -> None:
        if new.changed(self.looked):
            kept_indices = self.taken[np.isin(self.taken, new.kept(self.looked))]
            entries = [new.position(self.looked, int(i)) for i in kept_indices]
            new.set_positions(POSITIONS, self.along, self.column, entries)


@rule("Compress Unique", shape_from_values=True)
def by_position(op: Op) -> None:
    """What data choose is pinned."""
    op.pin_all(f"{op.node.label} addresses by position")


@rule("OneHot")
def one_hot(op: Op) -> None:
    """Its new axis follows the search whose positions it reads; otherwise it is pinned."""
    index, out, depth = op.input(0), op.output(), op.numbers(1)
    new_axis = op.attr("axis", -1) % len(out.shape or [1])
    for axis in index.axes():
        op.tie(axis, out.axis(axis.position + (axis.position >= new_axis)))
    made, searched = out.axis(new_axis), op.counted(0)
    if searched is None or depth is None or not depth or int(depth[0]) != searched.length:
        for axis in [made] if searched is None else [made, searched]:
            op.pin(axis, f"{op.node.label} addresses by position")
        return
    op.tie(searched, made)
    if (op.numbers(2) or [None])[0] == 0:
        op.keep_zero(made)  # what is lost is never found
    op.resize(lambda new: new.set_input(1, [new.length(made)]))


@rule("GatherND", reads_parts=True)
def gather_nd(op: Op) -> None:
    """Looks slices up by their first axes; what is inside the slices passes.

    An axis that a column of known positions addresses is related to what is read there, one that a search finds follows
    it; other addressed axes are pinned.
    """
    x, index, out, batches = op.input(0), op.input(1), op.output(), op.attr("batch_dims", 0)
    depth = _depth(op) + batches
    for axis, target in zip(reversed(x.axes()[depth:]), reversed(out.axes()), strict=False):
        op.tie(axis, target, zero=True)
    if batches:
        _pin_places(op, [*x.axes()[:depth], *out.axes()[: (index.rank or 1) - 1], *index.axes()])
        return
    if depth == 1 and (searched := op.counted(1)) is not None:
        op.tie(x.axis(0), searched)
        for axis in index.axes()[:-1]:
            op.tie(axis, out.axis(axis.position))
        return
    for axis, part in _by_columns(op, out):
        if part is not None:
            op.keep_zero(part, axis)


@rule("ScatterND")
def scatter_nd(op: Op) -> None:
    """Writes slices at positions given by their first axes; axes inside the slices are tied.

    An axis that a column of known positions addresses is tied to what is written there; other addressed axes are
    pinned.
    """
    x, updates, out = op.input(0), op.input(2), op.output()
    depth = _depth(op)
    for axis in x.axes():
        op.tie(axis, out.axis(axis.position))
    for axis in x.axes()[depth:]:
        written = updates.axis(axis.position - len(x.axes()))
        op.tie(written, axis)
        op.keep_zero(out.axis(axis.position), axis, written)
    for axis, part in _by_columns(op, updates):
        _keep_zero_at(op, out, axis.position, axis, part)


def _keep_zero_at(op: Op, out: Value, position: int, axis: Axis, part: Axis | None) -> None:
    """The output is zero where what it starts from is, and what is written there."""
    op.keep_zero(out.axis(position), axis, *([] if part is None else [part]))


def _by_columns(op: Op, parts: Value) -> list[tuple[Axis, Axis | None]]:
    """Relates the first axes of input 0 to those of what is read or written, column by column of the positions.

    Returns:
        The axes that are not pinned, with the axis of `parts` for each; None where it is at one position.
    """
    x, index = op.input(0), op.input(1)
    found = columns(index, op.ties.data)
    used = Counter(a for column in found for a in column.axes)
    places = dict(enumerate(parts.axes()[: (index.rank or 1) - 1]))
    _pin_places(op, [axis for a, axis in places.items() if not used[a] and axis.length != 1])
    op.leave(index)
    related: list[tuple[Axis, Axis | None]] = []
    for i, (axis, column) in enumerate(zip(x.axes(), found, strict=False)):
        mine = [places[a] for a in column.axes]
        if column.entries is None or not axis.length or any(used[a] > 1 for a in column.axes):
            _pin_places(op, [axis, *mine])
            continue
        along = next(iter(column.axes), None)
        part = mine[0] if mine else None
        Addressed(op, axis, part, along, i, column.entries % axis.length).link()
        related.append((axis, part))
    return related


def _depth(op: Op) -> int:
    """How many axes the positions count along; raises ValueError where that is not known."""
    shape = op.input(1).shape or [None]
    if not isinstance(shape[-1], int):
        raise ValueError("depth of the positions unknown")
    return shape[-1]


def _pin_places(op: Op, axes: list[Axis]) -> None:
    for axis in axes:
        op.pin(axis, f"{op.node.label} addresses it by position")


@rule("TensorScatter")
def tensor_scatter(op: Op) -> None:
    """Writes into a cache at positions that data give: batch and that axis are pinned, the others pass."""
    cache, update, out = op.input(0), op.input(1), op.output()
    along = op.attr("axis", -2) % len(cache.shape or [1])
    for value in (cache, update, out):
        for position in (0, along):
            op.pin(value.axis(position), f"{op.node.label} addresses it by position")
    for axis in cache.axes():
        if axis.position not in (0, along):
            op.tie(axis, update.axis(axis.position))
            op.tie(axis, out.axis(axis.position))
            op.keep_zero(out.axis(axis.position), axis, update.axis(axis.position))
