"""Operators that look up by index: constant indices are renumbered, otherwise the axis that is indexed is pinned."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph.contents import known
from onnxprune.graph.graph import Axis
from onnxprune.graph.operators import Copies
from onnxprune.ops.op import Op
from onnxprune.ops.registry import facts_of, rule
from onnxprune.ops.ties import NewShape


@rule("Gather", copies=Copies.SOME, lookups=((0, 1),), reads_parts=True)
def gather(op: Op) -> None:
    """Constant indices are renumbered; others pin the axis that they look up."""
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


@rule("GatherElements ScatterElements Scatter")
def by_elements(op: Op) -> None:
    """Reads or writes element by element at positions that data give along one axis, in step along the others.

    The counted axis is pinned, and so is one whose end is not read or written.
    """
    values = op.inputs + op.outputs
    along = op.attr("axis", 0) % len(op.input(0).shape or [1])
    lengths = [set(map(str, at)) for at in zip(*(v.shape or [] for v in values), strict=True)]
    for value in values:
        for axis in value.axes():
            if axis.position == along or len(lengths[axis.position]) > 1:
                op.pin(axis, f"{op.node.label} addresses it by position")
            elif value is not op.output():
                op.tie(axis, op.output().axis(axis.position))


@rule("Compress Unique", shape_from_values=True)
@rule("OneHot")
def by_position(op: Op) -> None:
    """What data choose is pinned."""
    op.pin_all(f"{op.node.label} addresses by position")


@rule("GatherND", reads_parts=True)
def gather_nd(op: Op) -> None:
    """Looks slices up by their first axes, which are pinned; what is inside the slices passes."""
    x, out = op.input(0), op.output()
    depth = _depth(op) + op.attr("batch_dims", 0)
    slices = x.axes()[depth:]
    for axis, target in zip(reversed(slices), reversed(out.axes()), strict=False):
        op.tie(axis, target, zero=True)
    _pin_places(op, [*x.axes()[:depth], *out.axes()[: len(out.axes()) - len(slices)], *op.input(1).axes()])


@rule("ScatterND")
def scatter_nd(op: Op) -> None:
    """Writes slices at positions given by their first axes; axes inside the slices are tied.

    A position on the first axis that is known before the run is tied to the slice that is written there.
    """
    x, updates, out = op.input(0), op.input(2), op.output()
    depth = _depth(op)
    inside = len(x.axes()) - depth
    for axis in x.axes():
        op.tie(axis, out.axis(axis.position))
        if axis.position >= depth:
            written = updates.axis(axis.position - len(x.axes()))
            op.tie(written, axis)
            op.keep_zero(out.axis(axis.position), axis, written)
    positions, first = op.ties.data.get(op.input(1)), x.axis(0)
    if depth == 1 and positions is not None and positions.ndim == 2 and known(positions) and first.length:
        _written(op, out.axis(0), updates.axis(0), np.array([int(p) % first.length for p in positions.flat], np.int64))
        op.keep_zero(out.axis(0), first, updates.axis(0))
        op.leave(op.input(1))
        return
    _pin_places(op, [*x.axes()[:depth], *updates.axes()[: len(updates.axes()) - inside], *op.input(1).axes()])


def _depth(op: Op) -> int:
    """How many axes the positions count along; raises ValueError where that is not known."""
    shape = op.input(1).shape or [None]
    if not isinstance(shape[-1], int):
        raise ValueError("depth of the positions unknown")
    return shape[-1]


def _pin_places(op: Op, axes: list[Axis]) -> None:
    for axis in axes:
        op.pin(axis, f"{op.node.label} addresses it by position")


def _written(op: Op, place: Axis, written: Axis, taken: NDArray[np.int64]) -> None:
    """Ties slice i to position ``taken[i]``, where it is written."""
    labels = np.full(place.length or 0, -1)
    labels[taken] = taken
    op.link((place, labels), (written, taken))

    def renumber(new: NewShape) -> None:
        if new.changed(place):
            kept_indices = taken[np.isin(taken, new.kept(place))]
            new.set_input(1, np.array([[new.position(place, int(i))] for i in kept_indices]).reshape(-1, 1))

    op.resize(renumber)


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
