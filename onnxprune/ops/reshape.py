"""Operators that regroup the same elements under other axes (`regroup`)."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from onnxprune.graph.graph import Axis, Node
from onnxprune.graph.node_shapes import need, product_of
from onnxprune.graph.operators import Copies, Origins, Shape
from onnxprune.graph.polynomials import Length
from onnxprune.ops.op import Op, arange
from onnxprune.ops.registry import origins, output_shape, rule
from onnxprune.ops.regroup import regroup
from onnxprune.ops.ties import NewShape


@rule("Reshape", copies=Copies.ALL, infers_length=True)
def reshape(op: Op) -> None:
    """Carries channels along one factor of each block; the target shape follows."""
    regroup(op, op.input(0).axes(), op.output().axes())
    x, out = op.input(0), op.output()
    given = op.entries(1) if op.opset >= 5 else None
    keep_zero_entry = not op.attr("allowzero", 0)

    def follow(new: NewShape) -> None:
        target: list[int | Length | None] = []
        for axis in out.axes():
            stated = given[axis.position] if given is not None else None
            length = new.length(axis)
            if stated == -1:
                target.append(-1)
            elif (
                stated == 0
                and keep_zero_entry
                and axis.position < len(x.shape or [])
                and (new.length(x.axis(axis.position)) == length)
            ):
                target.append(0)
            else:
                target.append(length)
        new.set_input(1, target)

    op.resize(follow)


@rule("Flatten", copies=Copies.ALL)
def flatten(op: Op) -> None:
    """Reshape to two axes."""
    regroup(op, op.input(0).axes(), op.output().axes())


@output_shape("Flatten")
def flat_shape(node: Node, shapes: list[Shape]) -> list[Shape]:
    """The products of the lengths before and after an axis."""
    x, axis = need(shapes[0]), node.attribute("axis", 1)
    return [[product_of(*x[:axis]), product_of(*x[axis:])]]


@rule("Squeeze Unsqueeze", copies=Copies.ALL)
def unit_axes(op: Op) -> None:
    """Only axes of length 1 come or go; which ones is said where others become as short."""
    x, out = op.input(0), op.output()
    longer = x if op.type == "Squeeze" else out
    axes = op.attr("axes") if op.opset < 13 else op.numbers(1)
    axes_removed = {int(a) % len(longer.shape or [1]) for a in axes or []}
    if op.type == "Squeeze" and not axes_removed:
        axes_removed = {axis.position for axis in x.axes() if axis.length == 1}
        if not axes_removed:
            op.pin_all(f"{op.node.label} would take an axis that became as short as 1")
            return
        op.resize(lambda new: _state_axes(op, new, axes_removed))
    left = [axis for axis in longer.axes() if axis.position not in axes_removed]
    right = out.axes() if longer is x else x.axes()
    if not axes_removed or len(left) != len(right):
        regroup(op, x.axes(), out.axes())
        return
    for a, b in zip(left, right, strict=True):
        op.tie(*((a, b) if longer is x else (b, a)), zero=True)


def _state_axes(op: Op, new: NewShape, axes_removed: Collection[int]) -> None:
    """States the axes that a Squeeze without any takes, where it would take more than it did."""
    if any(new.length(axis) == 1 for axis in op.input(0).axes() if axis.position not in axes_removed):
        if op.opset < 13:
            new.set_attribute("axes", sorted(axes_removed))
        else:
            new.set_input(1, sorted(axes_removed))


@origins("Reshape Squeeze Unsqueeze Flatten")
def reshaped_origins(node: Node, shape: Sequence[int], origin: Origins) -> Origins:
    """An axis is still there where as many elements precede it and it is as long."""
    out = node.outputs[0]
    new = [d for d in (out.shape if out is not None else None) or [] if isinstance(d, int)]
    old = {(math.prod(shape[:axis]), length): origin[axis] for axis, length in enumerate(shape) if length > 1}
    return tuple(old.get((math.prod(new[:axis]), length)) for axis, length in enumerate(new))


@output_shape("DepthToSpace")
def spread_shape(node: Node, shapes: list[Shape]) -> list[Shape]:
    """Space grows by the size of a block, and channels shrink by its area."""
    (n, c, *space), size = need(shapes[0]), node.attribute("blocksize")
    return [[n, c // size**2 if isinstance(c, int) else None, *(product_of(d, size) for d in space)]]


@rule("DepthToSpace", copies=Copies.ALL)
def depth_to_space(op: Op) -> None:
    """Blocks of channels become space: the channels of a block are tied."""
    _depth(op, op.input(0).axis(1), op.output().axis(1), op.attr("mode", "DCR") == "DCR")


@rule("SpaceToDepth", copies=Copies.ALL)
def space_to_depth(op: Op) -> None:
    """Space becomes blocks of channels: the channels of a block are tied."""
    _depth(op, op.output().axis(1), op.input(0).axis(1), op.attr("mode", "DCR") == "DCR")


def _depth(op: Op, deep: Axis, flat: Axis, channel_last: bool) -> None:
    x, out = op.input(0), op.output()
    for axis in x.axes()[2:] + out.axes()[2:]:
        op.pin(axis, f"{op.node.label} mixes it with channels")
    op.tie(x.axis(0), out.axis(0))
    if deep.length is None or flat.length is None:
        op.pin(deep, f"{op.node.label}: channel count unknown")
        op.pin(flat, f"{op.node.label}: channel count unknown")
        return
    area = op.attr("blocksize") ** 2
    labels = arange(deep) % flat.length if channel_last else arange(deep) // area
    op.link((deep, labels), (flat, arange(flat)))
    op.keep_zero(out.axis(1), x.axis(1))


@rule("Col2Im")
def columns_to_image(op: Op) -> None:
    """Reassembles an image from the columns of a convolution: a channel owns all positions of its kernel."""
    x, out = op.input(0), op.output()
    kernel = op.numbers(2)
    if kernel is None:
        op.pin_all(f"{op.node.label} takes its kernel from the run")
        return
    op.tie(x.axis(0), out.axis(0), zero=True)
    op.link((x.axis(1), arange(x.axis(1)) // math.prod(int(k) for k in kernel)), (out.axis(1), arange(out.axis(1))))
    op.keep_zero(out.axis(1), x.axis(1))
    for axis in [x.axis(2), *out.axes()[2:]]:
        op.pin(axis, f"{op.node.label} moves blocks along it")
