"""Reductions and searches along axes."""

from __future__ import annotations

from onnxprune.graph.operators import Postprocessing
from onnxprune.model.tensors import FLOATS
from onnxprune.ops.op import Op
from onnxprune.ops.registry import rule

_AXES_INPUT_SINCE = {"ReduceSum": 13}
_SUMS = {"ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum"}
_ZERO_AT_ZERO = _SUMS - {"ReduceLogSum"} | {"ReduceMean", "ReduceMax", "ReduceMin"}


@rule(
    "ReduceSum ReduceL1 ReduceL2 ReduceSumSquare ReduceMean ReduceMax ReduceMin ReduceProd ReduceLogSum ReduceLogSumExp"
)
def reduce(op: Op) -> None:
    """Exact over channels that are zero once masked, or computed of these one by one; given zeros, if not a sum."""
    x, out = op.input(0), op.output()
    over = _axes(op, len(x.shape or []))
    if over is None:
        op.pin_all(f"{op.node.label} takes its axes from the run")
        return
    divisible = (
        x.elem_type in FLOATS and op.opset >= 7
    )  # by a Mul of the output, which does not broadcast before opset 7
    keep = op.attr("keepdims", 1)
    position = 0
    for axis in x.axes():
        if axis.position in over:
            if op.type in _SUMS:
                op.sum_over(axis, reduces=True)
            elif op.type == "ReduceMean" and divisible:
                op.mean_over(axis, reduces=True)
            else:
                op.refill(axis)
            position += keep
            continue
        op.tie(axis, out.axis(position), zero=op.type in _ZERO_AT_ZERO)
        position += 1


def _axes(op: Op, rank: int) -> set[int] | None:
    """Axes that are reduced; None where they depend on the run."""
    if op.opset < _AXES_INPUT_SINCE.get(op.type, 18):
        axes = op.attr("axes")
    elif op.has(1):
        axes = op.numbers(1)
        if axes is None:
            return None
    else:
        axes = None
    if not axes:
        return set() if op.attr("noop_with_empty_axes", 0) else set(range(rank))
    return {int(a) % rank for a in axes}


@rule("ArgMax", postprocessing=Postprocessing.CLASS, positions=(0, 0))
@rule("ArgMin", postprocessing=Postprocessing.CHOICE, positions=(0, 0))
def arg_extreme(op: Op) -> None:
    """Without an index another one is returned: it mixes, where all that reads the positions follows."""
    x, out = op.input(0), op.output()
    searched = op.attr("axis", 0) % len(x.shape or [1])
    keep, position = op.attr("keepdims", 1), 0
    for axis in x.axes():
        if axis.position == searched:
            op.search(axis, 1)
            position += keep
            continue
        op.tie(axis, out.axis(position))
        position += 1


@rule("TopK", shape_from_values=True, postprocessing=Postprocessing.CHOICE, positions=(1, -1))
def top_k(op: Op) -> None:
    """Without an index others are returned: it mixes, where all that reads the positions follows."""
    x, count = op.input(0), _count(op)
    searched = op.attr("axis", -1) % len(x.shape or [1])
    for axis in x.axes():
        for out in op.outputs:
            if axis.position == searched:
                op.pin(out.axis(searched), f"{op.node.label} returns as many")
            else:
                op.tie(axis, out.axis(axis.position))
    if count is None:
        op.pin(x.axis(searched), f"{op.node.label} takes from the run how many it returns")
    else:
        op.search(x.axis(searched), count)


def _count(op: Op) -> int | None:
    """How many a TopK returns; None where only the run tells."""
    numbers = [op.attr("k")] if op.opset < 10 else op.numbers(1)
    return int(numbers[0]) if numbers else None


def _scanned_axis(op: Op) -> int | None:
    """The axis of a running sum or product; None, and everything pinned, where it depends on the run."""
    along = op.numbers(1)
    if along is None:
        op.pin_all(f"{op.node.label} takes its axis from the run")
        return None
    return int(along[0]) % len(op.input(0).shape or [1])


@rule("CumSum")
def cumulative_sum(op: Op) -> None:
    """A running sum does not see channels that are zero once masked."""
    x, out = op.input(0), op.output()
    summed = _scanned_axis(op)
    if summed is None:
        return
    for axis in x.axes():
        op.tie(axis, out.axis(axis.position), zero=axis.position != summed)
    op.sum_over(x.axis(summed))
    op.ordered(x.axis(summed))


@rule("CumProd")
def cumulative_product(op: Op) -> None:
    """A running product mixes its axis; an exclusive one begins with 1, whatever follows."""
    x, out = op.input(0), op.output()
    multiplied = _scanned_axis(op)
    if multiplied is None:
        return
    for axis in x.axes():
        op.tie(axis, out.axis(axis.position), zero=axis.position != multiplied and not op.attr("exclusive", 0))
        if axis.position == multiplied:
            op.mix(axis)
            op.ordered(axis)
