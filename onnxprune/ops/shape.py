"""Operators that move, join, cut and repeat indices, and those that only talk about shapes."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.graph.graph import Node
from onnxprune.graph.operators import Copies, Origins
from onnxprune.graph.polynomials import Length
from onnxprune.ops.elementwise import broadcast
from onnxprune.ops.op import Op, arange
from onnxprune.ops.registry import origins, rule
from onnxprune.ops.ties import NewShape


@rule("Transpose", copies=Copies.ALL)
def transpose(op: Op) -> None:
    """Output axis i is input axis perm[i]."""
    x, out = op.input(0), op.output()
    perm = op.attr("perm") or list(range(len(x.shape or [])))[::-1]
    for i, source in enumerate(perm):
        op.tie(x.axis(source), out.axis(i), zero=True)


@origins("Transpose")
def transposed_origins(node: Node, shape: Sequence[int], origin: Origins) -> Origins:
    """The axes are permuted."""
    perm = node.attribute("perm") or range(len(origin))[::-1]
    return tuple(origin[i] for i in perm)


@rule("Shape Size", any_rank=True, reads_lengths=True)
@rule("NonZero", any_rank=True, shape_from_values=True, lists_nonzero=True)
def reads_shape(op: Op) -> None:
    """Reads lengths; where a length is used as a number it is kept, elsewhere it follows."""
    if op.type == "NonZero":
        op.pin_all("returns positions")
    for value in op.inputs:
        op.leave(value)


@rule("Constant", any_rank=True)
def constant(op: Op) -> None:
    """Holds a tensor: a weight like any other."""
    for value in op.outputs:
        if value.tensor is None:
            for axis in value.axes():
                op.pin(axis, "held as an attribute")


@rule("Expand", copies=Copies.SOME)
def expand(op: Op) -> None:
    """Broadcast to a shape; an axis made from length 1 is free, and its length follows."""
    x, out = op.input(0), op.output()
    for position, axes in enumerate(broadcast(op, [x], out)):
        if axes:
            op.keep_zero(out.axis(position), *axes)
    given = op.entries(1)
    rank, width = len(out.shape or []), len(given) if given is not None else None
    if width is None:
        shape = op.input(1).shape
        width = shape[0] if shape and isinstance(shape[0], int) else rank

    def follow(new: NewShape) -> None:
        target: list[int | Length | None] = []
        for i in range(width):
            stated = given[i] if given is not None else None
            target.append(1 if stated == 1 else new.length(out.axis(i + rank - width)))
        new.set_input(1, target)

    op.resize(follow)


@rule("Tile", copies=Copies.SOME)
def tile(op: Op) -> None:
    """Repeats each axis: an index is tied to all its copies."""
    x, out = op.input(0), op.output()
    repeats = op.entries(1)
    if repeats is None or op.opset < 6:
        op.pin_all(f"{op.node.label} takes its repeats from the run")
        return
    grown = []
    for axis in x.axes():
        target, times = out.axis(axis.position), repeats[axis.position]
        if times == 1:
            op.tie(axis, target, zero=True)
        elif axis.length == 1:
            grown.append(target)
        elif axis.length is None or target.length is None:
            op.pin(axis, f"{op.node.label} repeats a free length")
            op.pin(target, f"{op.node.label} repeats a free length")
        else:
            op.link((axis, arange(axis)), (target, arange(target) % axis.length))
            op.keep_zero(target, axis)

    def follow(new: NewShape) -> None:
        entries: list[int | Length | None] = [None] * len(x.shape or [])
        for target in grown:
            entries[target.position] = new.length(target)
        new.set_input(1, entries)

    if grown:
        op.resize(follow)


@rule("ConstantOfShape", fills=True)
def constant_of_shape(op: Op) -> None:
    """Every axis is free; the shape follows."""
    out = op.output()
    fill = op.attr("value")
    zero = fill is None or not any(b"" if fill is None else _fill_bytes(fill))
    for axis in out.axes():
        if zero:
            op.keep_zero(axis)
    op.resize(lambda new: new.set_input(0, [new.length(axis) for axis in out.axes()]))


def _fill_bytes(tensor: object) -> bytes:
    import onnx

    return bytes(onnx.numpy_helper.to_array(tensor).tobytes())  # type: ignore[arg-type]


@rule("EyeLike")
@rule("Range", shape_from_values=True)
@rule("RandomNormal RandomUniform RandomNormalLike RandomUniformLike Bernoulli Multinomial", random=True)
def made_here(op: Op) -> None:
    """Makes values whose meaning is their position: pinned."""
    for axis in op.output().axes():
        op.pin(axis, f"{op.node.label} makes it")
    for value in op.inputs:
        for axis in value.axes():
            op.pin(axis, f"{op.node.label} reads it")


@rule("Trilu")
def trilu(op: Op) -> None:
    """Keeps a triangle of the last two axes: they are pinned."""
    for axis in op.input(0).axes():
        op.tie(axis, op.output().axis(axis.position), zero=True)
        if axis.position >= len(op.input(0).shape or []) - 2:
            op.pin(axis, "a triangle is taken")


@rule("ReverseSequence")
def reverse_sequence(op: Op) -> None:
    """Reverses along time: batch and time are pinned, features pass."""
    x, out = op.input(0), op.output()
    special = {op.attr("batch_axis", 1), op.attr("time_axis", 0)}
    for axis in x.axes():
        if axis.position in special:
            op.pin(axis, f"{op.node.label} reverses along it")
        op.tie(axis, out.axis(axis.position), zero=True)
