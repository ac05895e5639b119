"""Sequences of tensors: pinned, but for a split whose parts are taken out at known positions."""

from __future__ import annotations

import itertools

import numpy as np

from onnxprune.graph.graph import Axis, Node
from onnxprune.ops.op import Op, arange
from onnxprune.ops.registry import rule
from onnxprune.ops.ties import NewShape


@rule("SequenceConstruct SequenceEmpty SequenceInsert SequenceErase SequenceLength ConcatFromSequence", any_rank=True)
def sequence(op: Op) -> None:
    """Sequences of tensors: pinned."""
    op.pin_all(f"{op.node.label} works on sequences")


@rule("SplitToSequence", any_rank=True)
def split_to_sequence(op: Op) -> None:
    """A Split, where SequenceAt takes all parts out at known positions; otherwise pinned."""
    starts, returned = _starts(op, op.node), op.output().is_returned
    if starts is None or returned or any(_place(op, node) is None for node, _ in op.output().consumers):
        op.pin_all(f"{op.node.label} works on sequences")
        return
    along = op.input(0).axis(op.attr("axis", 0))
    op.leave(op.input(0))  # tied where the parts are taken out

    def follow(new: NewShape) -> None:
        if new.changed(along):
            kept = new.kept(along)
            new.set_input(1, [int(((kept >= a) & (kept < b)).sum()) for a, b in itertools.pairwise(starts)])

    op.resize(follow)


@rule("SequenceAt", any_rank=True)
def sequence_at(op: Op) -> None:
    """Takes one part of a split; out of any other sequence it is pinned."""
    split, place, out = op.input(0).producer, _place(op, op.node), op.output()
    starts = _starts(op, split) if split is not None and split.op_type == "SplitToSequence" else None
    x = split.inputs[0] if split is not None and split.inputs else None
    if split is None or starts is None or place is None or x is None or x.rank != out.rank:
        op.pin_all(f"{op.node.label} works on sequences")
        return
    along = x.axis(split.attribute("axis", 0))
    for axis in x.axes():
        if axis != along:
            op.tie(axis, out.axis(axis.position), zero=True)
    _take(op, along, out.axis(along.position), starts, place)


def _starts(op: Op, split: Node) -> list[int] | None:
    """Where each part starts, and where the last one ends; None where that is not known."""
    x, sizes = split.inputs[0], split.inputs[1] if len(split.inputs) > 1 else None
    data = op.ties.data.get(sizes) if sizes is not None else None
    length = x.axis(split.attribute("axis", 0)).length if x is not None and x.rank else None
    numbers = [] if data is None or length is None else [e for e in data.flat if isinstance(e, int) and e > 0]
    if data is None or length is None or not numbers or len(numbers) != data.size:
        return None
    if data.ndim == 0:
        return [*range(0, length, numbers[0]), length]
    ends = np.cumsum(numbers).tolist()
    return [0, *ends] if ends[-1] == length else None


def _place(op: Op, node: Node) -> int | None:
    """Which part a SequenceAt takes; None where that is not known, and for any other operator."""
    index = node.inputs[1] if node.op_type == "SequenceAt" and len(node.inputs) > 1 else None
    data = op.ties.data.get(index) if index is not None else None
    place = data.reshape(-1)[0] if data is not None and data.size == 1 else None
    return place if isinstance(place, int) else None


def _take(op: Op, whole: Axis, part: Axis, starts: list[int], place: int) -> None:
    """The part owns a run of the whole's indices."""
    place %= len(starts) - 1
    start, end = starts[place], starts[place + 1]
    if part.length != end - start:
        for axis in (whole, part):
            op.pin(axis, f"{op.node.label}: length of a part unknown")
        return
    labels = np.full(whole.length or 0, -1)
    labels[start:end] = np.arange(end - start)
    op.link((part, arange(part)), (whole, labels))
    op.keep_zero(part, whole)
