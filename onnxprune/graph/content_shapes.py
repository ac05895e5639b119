"""Shapes of the outputs of one node by what its small operands hold: targets, sizes, bounds, amounts, repeats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from onnxprune.graph.contents import Data, length_of
from onnxprune.graph.graph import Node, Value
from onnxprune.graph.lengths import Dim, floor, floor_divide, of_dim, product, to_dim
from onnxprune.graph.node_shapes import need, product_of, sum_of
from onnxprune.graph.operators import Shape
from onnxprune.graph.polynomials import Length, quotient

_ENDLESS = 2**31 - 1
"""Bounds from here on mean the end of an axis."""
Entries = list[object]
Operand = Callable[[int], Entries | None]
"""Entries of an operand, None where it is absent or nothing is known of it."""


def from_contents(node: Node, data: Mapping[Value, Data]) -> list[Shape]:
    """Output shapes of a node by the contents of its operands; empty where they do not tell."""
    function = None if node.domain else _OPERATORS.get(node.op_type)
    if function is None or not node.inputs or node.inputs[0] is None:
        return []

    def operand(index: int) -> Entries | None:
        value = node.inputs[index] if index < len(node.inputs) else None
        return list(data[value].flat) if value is not None and value in data else None

    try:
        return function(node, node.inputs[0].shape, operand)
    except (LookupError, ValueError, ArithmeticError, TypeError):  # what does not fit together
        return []


def dims(entries: Sequence[object]) -> list[Dim]:
    """Lengths for what a shape operand holds; None for -1 and for what is not known."""
    return [to_dim(length_of(e)) for e in entries]


def _known(entries: Entries | None) -> Entries:
    if entries is None:
        raise ValueError("contents unknown")
    return entries


def _numbers(entries: Entries | None) -> list[int]:
    found = [e for e in _known(entries) if isinstance(e, int)]
    if len(found) != len(_known(entries)):
        raise ValueError("free numbers")
    return found


def _constant_of_shape(node: Node, shape: Shape, operand: Operand) -> list[Shape]:
    return [dims(_known(operand(0)))]


def _reshape(node: Node, shape: Shape, operand: Operand) -> list[Shape]:
    """What is left of the elements goes to the axis with -1, by exact division."""
    entries, out = _known(operand(1)), list[Dim]()
    for i, (entry, dim) in enumerate(zip(entries, dims(entries), strict=True)):
        copied = entry == 0 and not node.attribute("allowzero", 0)
        out.append((shape[i] if shape is not None and i < len(shape) else None) if copied else dim)
    if -1 in entries and shape is not None:
        hole = entries.index(-1)
        total, rest = product(shape), product(d for i, d in enumerate(out) if i != hole)
        out[hole] = None if total is None or rest is None else to_dim(quotient(total, rest))
        if out[hole] is None:
            out[hole] = _left_over(shape, [d for i, d in enumerate(out) if i != hole])
    return [out]


def _left_over(total: Sequence[Dim], rest: Sequence[Dim]) -> Dim:
    """The only length that others are not known of, where all others agree."""
    total = list(total)
    for d in rest:
        if d not in total or d is None:
            return None
        total.remove(d)
    return total[0] if len(total) == 1 else None


def _expand(node: Node, shape: Shape, operand: Operand) -> list[Shape]:
    entries, have = dims(_known(operand(1))), need(shape)
    rank = max(len(entries), len(have))
    have, want = [*[1] * (rank - len(have)), *have], [*[1] * (rank - len(entries)), *entries]
    return [[h if h != 1 and h is not None else d for h, d in zip(have, want, strict=True)]]


def _tile(node: Node, shape: Shape, operand: Operand) -> list[Shape]:
    times = dims(_known(operand(1)))
    return [[product_of(d, n) for d, n in zip(need(shape), times, strict=True)]]


def _pad(node: Node, shape: Shape, operand: Operand) -> list[Shape]:
    x = need(shape)
    amounts = node.attribute("pads") if node.opset < 11 else _numbers(operand(1))
    axes = [a % len(x) for a in _numbers(operand(3))] if node.has(3) else list(range(len(x)))
    out = list(x)
    for i, axis in enumerate(axes):
        out[axis] = sum_of(x[axis], amounts[i], amounts[i + len(axes)])
    return [out]


def _slice(node: Node, shape: Shape, operand: Operand) -> list[Shape]:
    x = need(shape)
    if node.opset < 10:
        starts, ends, axes = node.attribute("starts"), node.attribute("ends"), node.attribute("axes")
        steps = None
    else:
        starts, ends = _known(operand(1)), _known(operand(2))
        axes = _numbers(operand(3)) if node.has(3) else None
        steps = _numbers(operand(4)) if node.has(4) else None
    out = list(x)
    for i, axis in enumerate(axes if axes is not None else range(len(starts))):
        step = 1 if steps is None else steps[i]
        out[axis % len(x)] = window_length(x[axis % len(x)], starts[i], ends[i], step)
    return [out]


def window_length(dim: Dim, start: object, end: object, step: int) -> Dim:
    """How many indices a slice of an axis takes; None where only a run tells."""
    length, first, last = of_dim(dim), length_of(start), length_of(end)
    if length is None or first is None or last is None or step < 1:
        return None
    bounds = _within(length, first), _within(length, last)
    if bounds[0] is None or bounds[1] is None:
        return None
    span = bounds[1] - bounds[0]
    if span.minimum < 0:
        return None  # it may be empty
    return to_dim(floor_divide(span + Length.constant(step - 1), Length.constant(step)))


def _within(length: Length, bound: Length) -> Length | None:
    """A bound of a slice as a position; None where it may be below or above the axis or not."""
    number = bound.number
    if isinstance(number, int) and abs(number) >= _ENDLESS:
        return length if number > 0 else Length.constant(0)
    if (bound - length).minimum >= 0:
        return length
    if bound.minimum >= 0:
        return bound if (length - bound).minimum >= 0 else None
    if (-bound - length).minimum >= 0:
        return Length.constant(0)
    below = bound + length
    return below if below.minimum >= 0 and (-bound).minimum >= 0 else None


def _split(node: Node, shape: Shape, operand: Operand) -> list[Shape]:
    """Parts of the given sizes, or equal ones, of an axis whose length divides."""
    x = need(shape)
    axis, count = node.attribute("axis", 0) % len(x), len(node.outputs)
    stated = node.attribute("split")
    if node.has(1):
        entries = operand(1)
        sizes: list[Dim] = dims(entries) if entries is not None else [None] * count
    elif stated:
        sizes = list(stated)
    else:
        length = of_dim(x[axis])
        sizes = [to_dim(None if length is None else quotient(length, Length.constant(count)))] * count
    return [[size if i == axis else d for i, d in enumerate(x)] for size in sizes]


def _resize(node: Node, shape: Shape, operand: Operand) -> list[Shape]:
    """Sizes that are given, or lengths times factors, rounded down."""
    x, scales_at = need(shape), 2 if node.op_type == "Resize" and node.opset >= 11 else 1
    if node.attribute("axes") or node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise ValueError("resizes some axes")
    if node.op_type == "Resize" and node.has(3):
        return [dims(_known(operand(3)))]
    scales = node.attribute("scales") if node.op_type == "Upsample" and node.opset < 9 else _known(operand(scales_at))
    out: list[Dim] = []
    for dim, scale in zip(x, scales, strict=True):
        length, factor = of_dim(dim), length_of(scale)
        out.append(None if length is None or factor is None else to_dim(floor(length * factor)))
    return [out]


_OPERATORS: dict[str, Callable[[Node, Shape, Operand], list[Shape]]] = {
    "ConstantOfShape": _constant_of_shape,
    "Reshape": _reshape,
    "Expand": _expand,
    "Tile": _tile,
    "Pad": _pad,
    "Slice": _slice,
    "Split": _split,
    "Resize": _resize,
    "Upsample": _resize,
}
