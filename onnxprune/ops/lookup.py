"""Operators that look indices up: with constant indices they are renumbered, otherwise what they count along stays."""

from __future__ import annotations

import numpy as np

from onnxprune.dataflow import known
from onnxprune.graph import Axis
from onnxprune.ops.registry import rule
from onnxprune.ties import NewShape, Op


@rule("Gather")
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
            stay = taken[np.isin(taken, new.kept(looked))]
            new.set_input(1, [new.position(looked, int(i)) for i in stay])

    op.resize(renumber)


@rule("GatherElements", "GatherND", "ScatterElements", "Scatter", "Compress", "OneHot", "Unique")
def by_position(op: Op) -> None:
    """Reads or writes at positions that data give: what they count along is pinned."""
    if op.type in ("GatherElements", "ScatterElements", "Scatter"):
        along = op.attr("axis", 0) % len(op.input(0).shape or [1])
        shapes = {tuple(map(str, v.shape or [])) for v in op.inputs + op.outputs}
        for value in op.inputs + op.outputs:
            for axis in value.axes():
                if axis.position == along or len(shapes) > 1:
                    op.pin(axis, f"{op.node.label} addresses it by position")
                elif value is not op.output():
                    op.tie(axis, op.output().axis(axis.position))
        return
    op.pin_all(f"{op.node.label} addresses by position")


@rule("ScatterND")
def scatter_nd(op: Op) -> None:
    """Rows written at known places: a place lives and dies with the row that is written there; otherwise pinned."""
    x, updates, out = op.input(0), op.input(2), op.output()
    places = op.ties.data.get(op.input(1))
    rows = x.axis(0).length
    if places is None or places.ndim != 2 or places.shape[1] != 1 or not known(places) or not rows:
        op.pin_all(f"{op.node.label} addresses by position")
        return
    taken = np.array([int(p) % rows for p in places.flat], dtype=np.int64)
    for axis in x.axes():
        op.tie(axis, out.axis(axis.position))
        if axis.position:
            op.tie(updates.axis(axis.position), axis)
        op.keep_zero(out.axis(axis.position), axis, updates.axis(axis.position))
    labels = np.full(rows, -1)
    labels[taken] = taken
    op.link((out.axis(0), labels), (updates.axis(0), taken))
    op.leave(op.input(1))

    def renumber(new: NewShape) -> None:
        if new.changed(out.axis(0)):
            stay = taken[np.isin(taken, new.kept(out.axis(0)))]
            new.set_input(1, np.array([[new.position(out.axis(0), int(i))] for i in stay]).reshape(-1, 1))

    op.resize(renumber)
