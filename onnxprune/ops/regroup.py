"""How the elements of some axes are regrouped under others: the ties of a reshape.

A reshape is cut into blocks of input and output axes that hold the same elements; within a block the lengths are
factored. Channels can be carried along one factor of a block, everything else in the block is then pinned.

Free axes take part. Where a batch ``b`` and ``h`` heads are merged, the index of the new axis is ``i*h + j``: its digit
of size ``h`` carries heads, whatever the batch is (`Value.factors`).
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.graph.graph import Axis
from onnxprune.graph.lengths import Dim, named, of_dim, to_dim
from onnxprune.graph.polynomials import Length, quotient
from onnxprune.ops.op import Op
from onnxprune.ops.ties import Alternative, Labels

_ONE = Length.constant(1)
Block = tuple[list[int], list[int]]


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


@dataclass(frozen=True)
class _Factor:
    """A factor that one input axis and one output axis share; strides count the indices that are told apart."""

    size: int
    before: Axis
    before_stride: int
    after: Axis
    after_stride: int


@dataclass(frozen=True)
class _Step:
    """A factor that two axes share, and the product of the fixed factors of each up to and including it.

    It is `fixed` where it is a number and no part of what an axis is known to have as a free digit.
    """

    size: Length
    fixed: int | None
    a: Axis
    done_a: int
    b: Axis
    done_b: int

    def of(self, axis: Axis) -> bool:
        """Whether it is a factor of an axis."""
        return axis in (self.a, self.b)


def _block(op: Op, before: list[Axis], after: list[Axis]) -> None:
    if len(before) == 1 and len(after) == 1:
        op.tie(before[0], after[0], zero=True)
        return
    alternatives = []
    for f in _factors(before, after):
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
    return np.arange(axis.width or 0, dtype=np.int64) // stride % size


def _factors(before: list[Axis], after: list[Axis]) -> list[_Factor]:
    """Common factors of two lists of axes, matched from both ends as far as one length divides the other."""
    left, complete = _match(before, after)
    if complete:
        _learn_digits(left, before + after)
    right = [] if complete else _match(before[::-1], after[::-1])[0]
    found = []
    for step in left:  # from the left: what is to the right of it makes the stride
        size, x, y = step.fixed, step.a.width, step.b.width
        if size is not None and size != 1 and x and y:
            found.append(_Factor(size, step.a, x // step.done_a, step.b, y // step.done_b))
    for step in right:
        size = step.fixed
        if size is not None and size != 1 and step.a.width and step.b.width:
            factor = _Factor(size, step.a, step.done_a // size, step.b, step.done_b // size)
            if factor not in found:
                found.append(factor)
    return found


def _learn_digits(steps: Sequence[_Step], axes: Sequence[Axis]) -> None:
    """Gives free axes that are wholly matched the digits that they are matched in."""
    for axis in axes:
        if axis.length is None and not axis.factors:
            factors = merged([step.size for step in steps if step.of(axis)])
            if len(factors) > 1 and any(isinstance(n, int) for n in factors):
                axis.value.factors[axis.position] = factors


def merged(sizes: Sequence[Length]) -> tuple[Dim, ...]:
    """Digits with neighbours of one kind, fixed or free, as one."""
    runs = itertools.groupby((s for s in sizes if s != _ONE), key=lambda s: s.number is None)
    return tuple(to_dim(_products(list(run))[-1]) for _, run in runs)


def _match(a: list[Axis], b: list[Axis]) -> tuple[list[_Step], bool]:
    """Walks both lists, each axis by its digits where these are known; whether it came to the end of both."""
    left, right = _sizes(a), _sizes(b)
    steps: list[_Step] = []
    done: dict[Axis, int] = dict.fromkeys([*a, *b], 1)
    while left and right:
        (x, rest_x, told_x), (y, rest_y, told_y) = left.pop(), right.pop()
        if not rest_x.terms or not rest_y.terms:
            return steps, False  # an empty axis
        size = rest_x if quotient(rest_y, rest_x) is not None else rest_y
        more_x, more_y = quotient(rest_x, size), quotient(rest_y, size)
        if more_x is None or more_y is None:
            return steps, False
        number = size.number if isinstance(size.number, int) else None
        for axis, told in ((x, told_x), (y, told_y)):
            done[axis] *= number if number is not None and told else 1
        steps.append(_Step(size, number if told_x and told_y else None, x, done[x], y, done[y]))
        left += [(x, more_x, told_x)] if more_x != _ONE else []
        right += [(y, more_y, told_y)] if more_y != _ONE else []
    return steps, not left and not right


def _sizes(axes: Sequence[Axis]) -> list[tuple[Axis, Length, bool]]:
    """The digits of axes, the first one last, and whether parts of them are told apart.

    An axis of unknown length has a name of its own, which ends the walk.
    """
    sizes: list[tuple[Axis, Length, bool]] = []
    for axis in axes:
        for dim in axis.factors or [(axis.value.shape or [])[axis.position]]:
            told = isinstance(dim, int) or not axis.factors
            sizes.append((axis, of_dim(dim) or named(f"?{axis}"), told))
    return sizes[::-1]
