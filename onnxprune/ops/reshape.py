"""Operators that regroup the same elements under other axes.

A reshape is cut into blocks of input and output axes that hold the same elements; within a block the lengths are
factored. Channels can be carried along one factor of a block, everything else in the block is then pinned.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from onnxprune.graph.graph import Axis, Dim, Node
from onnxprune.graph.operators import Copies, Origins
from onnxprune.ops.op import Op, arange
from onnxprune.ops.registry import origins, rule
from onnxprune.ops.ties import Alternative, Labels, NewShape

Block = tuple[list[int], list[int]]


@rule("Reshape", copies=Copies.ALL, infers_length=True)
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

    Lengths that are not numbers are equal when they have the same name, or when they are the only one on either side
    and the numbers agree. Runs of numbers at the end agree whatever stands before them.
    """
    left, right = _named(a, "a"), _named(b, "b")
    loose = (
        [x for x in left if isinstance(x, str) and x not in right],
        [x for x in right if isinstance(x, str) and x not in left],
    )
    if len(loose[0]) == len(loose[1]) == 1 and _product(left)[0] == _product(right)[0]:
        right = [loose[0][0] if x == loose[1][0] else x for x in right]
    cuts = _cuts(left, right)
    found = []
    for (i0, j0), (i, j) in zip([(0, 0), *cuts], [*cuts, (len(left), len(right))], strict=True):
        block = _long(left, i0, i), _long(right, j0, j)
        if block != ([], []):
            found.append(block)
    return found


def _cuts(a: list[int | str], b: list[int | str]) -> list[tuple[int, int]]:
    """Positions where both lists can be cut so that both sides hold the same elements, in order."""
    ends: dict[tuple[int, frozenset[tuple[str, int]]], int] = {}
    for j in range(len(b), 0, -1):  # the shortest run with a product
        ends[_product(b[:j])] = j
    cuts: list[tuple[int, int]] = []
    for i in range(1, len(a) + 1):
        end = ends.get(_product(a[:i]))
        if a[i - 1] != 1 and end is not None and end > (cuts[-1][1] if cuts else 0):
            cuts.append((i, end))
    tails: dict[tuple[int, frozenset[tuple[str, int]]], int] = {}
    for j in range(len(b)):  # the shortest run again, from the end
        tails[_product(b[j:])] = j
    last = cuts[-1] if cuts else (0, 0)
    from_end: list[tuple[int, int]] = []
    for i in range(len(a) - 1, last[0], -1):
        start = tails.get(_product(a[i:]))
        if a[i] != 1 and start is not None and last[1] < start < (from_end[-1][1] if from_end else len(b)):
            from_end.append((i, start))
    return cuts + from_end[::-1]


def _named(dims: Sequence[Dim], side: str) -> list[int | str]:
    return [f"?{side}{i}" if d is None else d for i, d in enumerate(dims)]


def _product(dims: Sequence[int | str]) -> tuple[int, frozenset[tuple[str, int]]]:
    number, names = 1, Counter[str]()
    for d in dims:
        if isinstance(d, int):
            number *= d
        else:
            names[d] += 1
    return number, frozenset(names.items())


def _long(dims: Sequence[int | str], start: int, stop: int) -> list[int]:
    return [i for i in range(start, stop) if dims[i] != 1]


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
