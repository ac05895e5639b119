"""Operators that regroup the same elements under other axes.

A reshape is cut into blocks of input and output axes that hold the same elements; within a block the lengths are
factored. Channels can be carried along one factor of a block, everything else in the block is then pinned.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from onnxprune.graph.graph import Axis, Node
from onnxprune.graph.lengths import Dim, named, of_dim
from onnxprune.graph.node_shapes import need, product_of
from onnxprune.graph.operators import Copies, Origins, Shape
from onnxprune.graph.polynomials import Length
from onnxprune.ops.op import Op, arange
from onnxprune.ops.registry import origins, output_shape, rule
from onnxprune.ops.ties import Alternative, Labels, NewShape

_ONE = Length.constant(1)
Block = tuple[list[int], list[int]]


@rule("Reshape", copies=Copies.ALL)
def reshape(op: Op) -> None:
    """Carries channels along one factor of each block; the target shape follows."""
    regroup(op, op.input(0).axes(), op.output().axes())
    x, out = op.input(0), op.output()
    given = op.entries(1) if op.opset >= 5 else None
    keep_zero_entry = not op.attr("allowzero", 0)

    def follow(new: NewShape) -> None:
        target: list[int | None] = []
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


def regroup(op: Op, before: list[Axis], after: list[Axis]) -> None:
    """Ties of a reshape between two lists of axes with the same elements in the same order."""
    a: list[Dim] = [(axis.value.shape or [])[axis.position] for axis in before]
    b: list[Dim] = [(axis.value.shape or [])[axis.position] for axis in after]
    for left, right in blocks(a, b):
        _block(op, [before[i] for i in left], [after[i] for i in right])


def blocks(a: Sequence[Dim], b: Sequence[Dim]) -> list[Block]:
    """Smallest runs of axes of `a` and `b` that hold the same elements, axes of length 1 left out.

    Free lengths are compared as expressions. One that is not known is equal to the only one on the other side that is
    not found here, where all others agree. Runs of numbers at the end agree whatever stands before them.
    """
    left, right = _lengths(a, "a"), _lengths(b, "b")
    loose = [x for x in left if x.number is None and x not in right], [x for x in right if x not in left]
    loose = loose[0], [x for x in loose[1] if x.number is None]
    if len(loose[0]) == len(loose[1]) == 1:
        others = [[x for x in side if x not in ends] for side, ends in ((left, loose[0]), (right, loose[1]))]
        if _products(others[0])[-1] == _products(others[1])[-1]:
            right = [loose[0][0] if x == loose[1][0] else x for x in right]
    cuts = _cuts(left, right)
    found = []
    for (i0, j0), (i, j) in zip([(0, 0), *cuts], [*cuts, (len(left), len(right))], strict=True):
        block = _long(left, i0, i), _long(right, j0, j)
        if block != ([], []):
            found.append(block)
    return found


def _cuts(a: list[Length], b: list[Length]) -> list[tuple[int, int]]:
    """Positions where both lists can be cut so that both sides hold the same elements, in order."""
    ends = {size: j for j, size in reversed(list(enumerate(_products(b))))}  # the shortest run with a product
    cuts: list[tuple[int, int]] = []
    for i, size in enumerate(_products(a)):
        end = ends.get(size)
        if i and a[i - 1] != _ONE and end and end > (cuts[-1][1] if cuts else 0):
            cuts.append((i, end))
    tails = {size: len(b) - n for n, size in reversed(list(enumerate(_products(b[::-1]))))}  # again, from the end
    sizes = _products(a[::-1])[::-1]
    last = cuts[-1] if cuts else (0, 0)
    from_end: list[tuple[int, int]] = []
    for i in range(len(a) - 1, last[0], -1):
        start = tails.get(sizes[i])
        if a[i] != _ONE and start is not None and last[1] < start < (from_end[-1][1] if from_end else len(b)):
            from_end.append((i, start))
    return cuts + from_end[::-1]


def _lengths(dims: Sequence[Dim], side: str) -> list[Length]:
    return [of_dim(d) or named(f"?{side}{i}") for i, d in enumerate(dims)]


def _products(lengths: Sequence[Length]) -> list[Length]:
    """Products of the first 0, 1, 2, ... lengths."""
    return list(itertools.accumulate(lengths, operator.mul, initial=_ONE))


def _long(lengths: Sequence[Length], start: int, stop: int) -> list[int]:
    return [i for i in range(start, stop) if lengths[i] != _ONE]


@dataclass
class _Factor:
    """A factor that one input axis and one output axis share; strides count indices of the axis."""

    size: int
    before: Axis
    before_stride: int
    after: Axis
    after_stride: int


def _block(op: Op, before: list[Axis], after: list[Axis]) -> None:
    if len(before) == 1 and len(after) == 1:
        op.tie(before[0], after[0], zero=True)
        return
    alternatives = []
    for f in _factors(before, after):
        if f.size == 1:
            continue
        labels = [
            (f.before, digits(f.before, f.before_stride, f.size)),
            (f.after, digits(f.after, f.after_stride, f.size)),
        ]
        others = [axis for axis in before + after if axis not in (f.before, f.after)]
        alternatives.append(Alternative(f"along {f.size}", [labels], others, [(f.after, f.before)]))
    if alternatives:
        op.choose(*alternatives)
        return
    for axis in before + after:
        op.pin(axis, f"{op.node.label} regroups it")


def digits(axis: Axis, stride: int, size: int) -> Labels:
    """Digit of every index at a factor: ``index // stride % size``."""
    return arange(axis) // stride % size


def _factors(before: list[Axis], after: list[Axis]) -> list[_Factor]:
    """Common factors of two lists of axes, matched from both ends as far as the lengths are numbers and divide."""
    left, _ = _match(before, after)
    right, complete = _match(before[::-1], after[::-1])
    found = []
    for size, x, done_x, y, done_y in left:  # from the left: what is to the right of it makes the stride
        found.append(_Factor(size, x, (x.length or 0) // done_x, y, (y.length or 0) // done_y))
    if not complete:
        for size, x, done_x, y, done_y in right:
            factor = _Factor(size, x, done_x // size, y, done_y // size)
            if factor not in found:
                found.append(factor)
    return found


def _match(a: list[Axis], b: list[Axis]) -> tuple[list[tuple[int, Axis, int, Axis, int]], bool]:
    """Walks both lists; each step gives (factor, axis of a, its product so far, axis of b, its product so far)."""
    steps: list[tuple[int, Axis, int, Axis, int]] = []
    i, j, done_a, done_b = 0, 0, 1, 1
    while i < len(a) and j < len(b):
        na, nb = a[i].length, b[j].length
        if na is None or nb is None:
            return steps, False
        rest_a, rest_b = na // done_a, nb // done_b
        small, large = min(rest_a, rest_b), max(rest_a, rest_b)
        if small == 0 or large % small:
            return steps, False
        done_a, done_b = done_a * small, done_b * small
        steps.append((small, a[i], done_a, b[j], done_b))
        if done_a == na:
            i, done_a = i + 1, 1
        if done_b == nb:
            j, done_b = j + 1, 1
    return steps, True


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
