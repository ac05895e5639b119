"""Operators that take, join or pad parts of an axis: Concat, Split, Slice, Pad."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.graph.content_shapes import window_length
from onnxprune.graph.graph import Axis, Node
from onnxprune.graph.lengths import Dim
from onnxprune.graph.node_shapes import need, sum_of
from onnxprune.graph.operators import Copies, Origins, Shape
from onnxprune.ops.op import Op, arange
from onnxprune.ops.registry import origins, output_shape, rule
from onnxprune.ops.ties import NewShape


@rule("CenterCropPad")
def center_crop_pad(op: Op) -> None:
    """Crops or pads around the middle: those axes are pinned, the others pass."""
    x, out = op.input(0), op.output()
    rank = len(x.shape or [])
    cut = {a % rank for a in op.attr("axes") or range(rank)}
    op.carry(x, out, cut, f"{op.node.label} cuts it around its middle")


@rule("Concat", copies=Copies.JOINED)
def concat(op: Op) -> None:
    """Joins its inputs along one axis."""
    out = op.output()
    along = op.attr("axis", 1) % len(out.shape or [1])
    for value in op.inputs:
        for axis in value.axes():
            if axis.position != along:
                op.tie(axis, out.axis(axis.position))
    parts = [v.axis(along) for v in op.inputs]
    for position in range(len(out.shape or [])):
        joined = [part for part in parts if part.length != 1] if position == along else None  # one alone never goes
        op.keep_zero(out.axis(position), *(joined or [v.axis(position) for v in op.inputs]))
    if len(parts) == 1:
        op.tie(parts[0], out.axis(along))
        return
    join(op, parts, out.axis(along))


@output_shape("Concat")
def joined_shape(node: Node, shapes: list[Shape]) -> list[Shape]:
    """Lengths add up along one axis and agree along the others."""
    parts = [need(shape) for shape in shapes]
    along = node.attribute("axis", 1) % len(parts[0])
    out: list[Dim] = []
    for position, column in enumerate(zip(*parts, strict=True)):
        numbers = [d for d in column if isinstance(d, int)]
        if position != along and len(set(numbers)) > 1:
            raise ValueError("lengths differ")
        out.append(sum_of(*column) if position == along else (numbers or column)[0])
    return [out]


def join(op: Op, parts: list[Axis], whole: Axis) -> None:
    """Ties consecutive parts to the axis that they are joined to."""
    if whole.length is None or any(p.length is None for p in parts):
        for axis in [*parts, whole]:
            op.pin(axis, f"{op.node.label} joins a free length")
        return
    start = 0
    for part in parts:
        n = part.length or 0
        labels = np.full(whole.length, -1)
        labels[start : start + n] = np.arange(n)
        op.link((part, arange(part)), (whole, labels))
        start += n


@rule("Split", copies=Copies.SOME, reads_parts=True)
def split(op: Op) -> None:
    """Outputs are consecutive parts of one axis; their sizes follow."""
    x, outs = op.input(0), op.outputs
    along = op.attr("axis", 0) % len(x.shape or [1])
    for out in outs:
        for axis in x.axes():
            if axis.position != along:
                op.tie(axis, out.axis(axis.position), zero=True)
        op.keep_zero(out.axis(along), x.axis(along))
    parts = [out.axis(along) for out in outs]
    join(op, parts, x.axis(along))

    def follow(new: NewShape) -> None:
        if not any(new.changed(p) for p in parts):
            return
        sizes = [new.length(p) for p in parts]
        if op.opset < 13:
            new.set_attribute("split", sizes)
        else:
            new.set_attribute("num_outputs", None)
            new.set_input(1, sizes)

    if len(outs) == len(op.node.proto.output):
        op.resize(follow)
    else:
        for axis in [*parts, x.axis(along)]:
            op.pin(axis, f"{op.node.label} leaves a part unused")


@rule("Slice", copies=Copies.SOME, reads_parts=True)
def slice_(op: Op) -> None:
    """Takes a window of some axes; bounds follow, a step ties the indices that it passes over."""
    x, out = op.input(0), op.output()
    rank = len(x.shape or [])
    axes: list[int] | None
    steps: list[int] | None
    if op.opset < 10:
        starts, ends = op.attr("starts"), op.attr("ends")
        axes = op.attr("axes") or list(range(len(starts)))
        steps = [1] * len(starts)
    else:
        starts, ends = op.entries(1), op.entries(2)
        axes = op.numbers(3) if op.has(3) else list(range(len(starts or [])))
        steps = op.numbers(4) if op.has(4) else [1] * len(axes or [])
    if axes is None or steps is None or starts is None or ends is None:
        maybe = set(range(rank)) if axes is None else {int(a) % rank for a in axes}
        open_ends = [i for i in maybe if x.axis(i).length is None or x.axis(i).length != out.axis(i).length]
        op.carry(x, out, open_ends, f"{op.node.label} takes its bounds from the run")
        return
    cut = {int(a) % rank: i for i, a in enumerate(axes)}
    windows: dict[int, tuple[range, Axis]] = {}
    for axis in x.axes():
        i, target = cut.get(axis.position), out.axis(axis.position)
        if i is None:
            op.tie(axis, target, zero=True)
            continue
        if _is_whole(axis, starts[i], ends[i], steps[i]):
            op.tie(axis, target, zero=True)
            continue
        window = _window(axis, starts[i], ends[i], steps[i])
        if window is None or target.length != len(window):
            op.pin(axis, f"{op.node.label} cuts it at bounds that only the run knows")
            op.pin(target, f"{op.node.label} cuts it at bounds that only the run knows")
            continue
        if len(window) == axis.length and steps[i] == 1:
            op.tie(axis, target, zero=True)
        elif len(window) == 1:
            op.part(axis, window[0], axis, others=True)
        else:
            _tie_window(op, axis, target, window)
        windows[i] = (window, axis)
    _follow_bounds(
        op, [int(s) if not _free(s) else 0 for s in starts], [int(e) if not _free(e) else 0 for e in ends], windows
    )


def _free(entry: object) -> bool:
    return not isinstance(entry, (int, float))


def _is_whole(axis: Axis, start: object, end: object, step: int) -> bool:
    """Whether a slice takes all of a free axis, whatever its length is."""
    dim = (axis.value.shape or [])[axis.position]
    return isinstance(dim, str) and step == 1 and window_length(dim, start, end, step) == dim


def _window(axis: Axis, start: object, end: object, step: int) -> range | None:
    """Indices that a slice takes; None where they are not known before the run."""
    if axis.length is None or _free(start) or _free(end):
        return None
    stop: int | None = int(end)  # type: ignore[call-overload]
    if step < 0 and stop is not None and stop < -axis.length:
        stop = None
    return range(axis.length)[slice(int(start), stop, int(step))]  # type: ignore[call-overload]


def _tie_window(op: Op, axis: Axis, target: Axis, window: range) -> None:
    step = abs(window.step)
    labels = np.full(axis.length or 0, -1)
    if step == 1:
        labels[list(window)] = np.arange(len(window))
        op.link((axis, labels), (target, arange(target)))
    else:
        # what is kept must be evenly spaced: every run of `step` indices is tied, the same for slices side by side
        labels = np.arange(axis.length or 0) // step
        taken = labels[list(window)]
        op.link((axis, labels), (target, taken))
    op.keep_zero(target, axis)


def _follow_bounds(op: Op, starts: list[int], ends: list[int], windows: dict[int, tuple[range, Axis]]) -> None:
    def follow(new: NewShape) -> None:
        if not any(new.changed(axis) for _, axis in windows.values()):
            return
        first: list[int | None] = list(starts)
        last: list[int | None] = list(ends)
        for i, (window, axis) in windows.items():
            if not new.changed(axis):
                continue
            first[i], last[i] = _new_bounds(new, window, axis)
        if op.opset < 10:
            new.set_attribute("starts", first)
            new.set_attribute("ends", last)
        else:
            known_start = [f if i in windows else None for i, f in enumerate(first)]
            known_end = [e if i in windows else None for i, e in enumerate(last)]
            new.set_input(1, known_start)
            new.set_input(2, known_end)

    op.resize(follow)


def _new_bounds(new: NewShape, window: range, axis: Axis) -> tuple[int, int]:
    kept = set(new.kept(axis).tolist())
    kept_positions = [new.position(axis, i) for i in window if i in kept]  # evenly spaced, as the ties see to
    if not kept_positions:
        return 0, 0
    if window.step > 0:
        return kept_positions[0], kept_positions[-1] + 1
    return kept_positions[0], kept_positions[-1] - 1 if kept_positions[-1] else -(2**31)


@origins("Pad")
def padded_origins(node: Node, shape: Sequence[int], origin: Origins) -> Origins:
    """Every axis is longer or shorter, none becomes another one."""
    return origin


@rule("Pad", copies=Copies.MIXED)
def pad(op: Op) -> None:
    """Padding with a constant surrounds the channels; the amounts follow. Negative amounts crop.

    A channel that is masked is zero all around, unless what surrounds it is another number.
    """
    x, out = op.input(0), op.output()
    rank = len(x.shape or [])
    amounts = op.attr("pads") if op.opset < 11 else op.entries(1)
    axes = list(range(rank))
    if op.has(3):
        listed = op.numbers(3)
        axes = [int(a) % rank for a in listed] if listed is not None else []
    if amounts is None or (op.has(3) and not axes):
        op.pin_all(f"{op.node.label} takes its amounts from the run")
        return
    n = len(axes)
    constant = op.attr("mode", "constant") == "constant"
    zero = constant and (
        op.attr("value", 0.0) == 0 if op.opset < 11 else not op.has(2) or op.numbers(2) in ([0], [0.0], [False])
    )
    surrounded = constant and not zero and any(_free(n) or n > 0 for n in amounts)
    around: dict[int, tuple[Axis, Axis, int]] = {}
    for axis in x.axes():
        target = out.axis(axis.position)
        i = axes.index(axis.position) if axis.position in axes else None
        before, after = (0, 0) if i is None else (amounts[i], amounts[i + n])
        if before == 0 and after == 0:
            op.tie(axis, target, zero=not surrounded)
            continue
        if _free(before) or _free(after) or axis.length is None or target.length is None or not constant:
            op.pin(axis, f"{op.node.label} pads it")
            op.pin(target, f"{op.node.label} pads it")
            continue
        before = int(before)
        labels = np.arange(target.length) - before
        labels[(labels < 0) | (labels >= axis.length)] = -1
        inside = arange(axis)
        inside[~np.isin(inside, labels)] = -1
        op.link((target, labels), (axis, inside))
        if zero:
            op.keep_zero(target, axis)
        around[i or 0] = (axis, target, before)

    def follow(new: NewShape) -> None:
        fresh: list[int | None] = [None if _free(a) else int(a) for a in amounts]
        for i, (axis, target, before) in around.items():
            if not (new.changed(axis) or new.changed(target)):
                continue
            length, end = axis.length or 0, (target.length or 0) - before
            if before >= 0:
                fresh[i] = new.position(target, before)
            else:
                fresh[i] = -new.position(axis, -before)
            kept_inside = new.position(target, min(before + length, target.length or 0))
            if end >= length:
                fresh[i + n] = len(new.kept(target)) - kept_inside
            else:
                fresh[i + n] = new.position(axis, end) - len(new.kept(axis))
        if any(new.changed(a) or new.changed(t) for a, t, _ in around.values()):
            if op.opset < 11:
                new.set_attribute("pads", fresh)
            else:
                new.set_input(1, fresh)

    op.resize(follow)
