"""Operators with bodies: inputs and outputs are tied to those of the bodies.

Values that a body captures are the outer values themselves, so nothing is said about them here.
"""

from __future__ import annotations

from onnxprune.graph.data_propagation import taken
from onnxprune.graph.graph import Axis, Scope, Value
from onnxprune.ops.op import Op
from onnxprune.ops.registry import rule


@rule("If", any_rank=True)
def if_(op: Op) -> None:
    """Outputs of both branches are one value; where every run takes the same branch, the other has its own."""
    both = [op.body("then_branch"), op.body("else_branch")]
    always = taken(op.node, op.ties.data)
    branches = both if always is None else [always]
    for end in [end for branch in both if branch not in branches for end in branch.outputs if end is not None]:
        op.leave(end)
    for i, out in enumerate(op.node.outputs):
        ends = [_end(branch, i) for branch in branches]
        _same(op, out, *ends)
        for axis in _axes(out) if all(e is not None and e.rank == _rank(out) for e in ends) else []:
            op.keep_zero(axis, *(e.axis(axis.position) for e in ends if e is not None))


@rule("Loop", any_rank=True, shape_from_values=True)
def loop(op: Op) -> None:
    """Carried states tie round; scan outputs get an axis in front that is pinned."""
    body = op.body("body")
    carried = len(op.node.inputs) - 2
    for value in [*op.node.inputs[:2], *body.inputs[:2]]:
        _pin(op, value, "iteration count and condition")
    _pin(op, _end(body, 0), "iteration count and condition")
    for i in range(carried):
        _state(op, op.node.inputs[i + 2], body.inputs[i + 2], _end(body, i + 1), op.node.outputs[i])
    for i in range(carried, len(op.node.outputs)):
        _stacked(op, op.node.outputs[i], _end(body, i + 1), 0)


@rule("Scan", since=8, any_rank=True)
def scan_of_batches(op: Op) -> None:
    """Before opset 9 every value has a batch axis and lengths are an input: pinned."""
    op.pin_all(f"{op.node.label} scans as operators did before opset 9")


@rule("Scan", since=9, any_rank=True)
def scan(op: Op) -> None:
    """States tie round; scanned axes are pinned, what is left of the scanned values ties to the body's."""
    body = op.body("body")
    scanned = op.attr("num_scan_inputs")
    states = len(op.node.inputs) - scanned
    for i in range(states):
        _state(op, op.node.inputs[i], body.inputs[i], _end(body, i), op.node.outputs[i])
    along = op.attr("scan_input_axes") or [0] * scanned
    for i in range(scanned):
        _stacked(op, op.node.inputs[states + i], body.inputs[states + i], along[i], into_body=True)
    along = op.attr("scan_output_axes") or [0] * (len(op.node.outputs) - states)
    for i, out in enumerate(op.node.outputs[states:]):
        _stacked(op, out, _end(body, states + i), along[i])


@rule("SequenceMap", any_rank=True)
def sequence_map(op: Op) -> None:
    """Works on sequences: inputs and outputs of its body are pinned."""
    op.pin_all(f"{op.node.label} works on sequences")


def _state(op: Op, initial: Value | None, start: Value | None, end: Value | None, out: Value | None) -> None:
    """A carried value: zero in every round where it starts as zero and the body keeps it so."""
    _same(op, initial, start, end, out)
    ranks = {_rank(initial), _rank(start), _rank(end)}
    if len(ranks) > 1 or initial is None or start is None or end is None:
        return
    for axis in start.axes():
        before, after = initial.axis(axis.position), end.axis(axis.position)
        op.keep_zero(axis, before, after)
        if _rank(out) in ranks and out is not None:
            op.keep_zero(out.axis(axis.position), before, after)


def _stacked(op: Op, whole: Value | None, part: Value | None, along: int, into_body: bool = False) -> None:
    """`part` is one step of `whole`, which has one axis more."""
    rank = _rank(whole)
    if whole is None or part is None or rank is None or part.rank != rank - 1:
        _pin(op, whole, f"{op.node.label}: rank unknown")
        _pin(op, part, f"{op.node.label}: rank unknown")
        return
    along %= rank
    op.pin(whole.axis(along), f"{op.node.label} runs along it")
    for axis in part.axes():
        outer = whole.axis(axis.position + (axis.position >= along))
        _tie(op, outer, axis)
        op.keep_zero(*((axis, outer) if into_body else (outer, axis)))


def _same(op: Op, *values: Value | None) -> None:
    """Ties values that replace each other, axis by axis; pins them where their ranks are not known to agree."""
    there = [v for v in values if v is not None and (v not in op.node.outputs or v in op.outputs)]
    if len({v.rank for v in there}) > 1 or any(v.rank is None for v in there):
        for value in there:
            _pin(op, value, f"{op.node.label}: ranks differ or are unknown")
        return
    for value in there[1:]:
        for axis in value.axes():
            _tie(op, there[0].axis(axis.position), axis)


def _tie(op: Op, a: Axis, b: Axis) -> None:
    """Like `Op.tie`, but a free length is not taken to equal a number: it may change from iteration to iteration."""
    if (a.length is None) != (b.length is None):
        op.pin(a, f"length unknown at {op.node.label}")
        op.pin(b, f"length unknown at {op.node.label}")
        return
    op.tie(a, b)


def _pin(op: Op, value: Value | None, reason: str) -> None:
    for axis in _axes(value):
        op.pin(axis, reason)


def _axes(value: Value | None) -> list[Axis]:
    return [] if value is None else value.axes()


def _rank(value: Value | None) -> int | None:
    return None if value is None else value.rank


def _end(body: Scope, index: int) -> Value | None:
    return body.outputs[index] if index < len(body.outputs) else None
