"""Gradients of operators that read or write at positions."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from onnxprune.graph.graph import Value
from onnxprune.ops.gradients.node_gradient import NodeGradient
from onnxprune.ops.registry import gradient

LONGEST_TABLE = 4096
"""Rows of a table that is looked up by a product with a matrix of zeros and ones."""
_ADDS_INDICES = 16
"""Opset version from which on scattered elements can be added up."""
_COUNTS_FROM_END = 11
"""Opset version from which on OneHot takes indices below 0."""


@gradient("Gather", parameters=(0,))
def gather(g: NodeGradient) -> None:
    """Slices are added up at the indices that they were taken from."""
    x, indices = g.node.input(0), g.node.input(1)
    axis = g.axis(x, int(g.attr("axis", 0)))
    length = x.axis(axis).length
    try:
        known = [int(i) for i in g.numbers(1) or []]
    except LookupError:
        known = []
    if known and length is not None and g.rank(indices) < 2:
        name = g.d() if g.rank(indices) == 1 else g.write.unsqueeze(g.d(), [axis])
        g.give(0, g.scattered(name, x, axis, [i % length for i in known], length))
    elif axis == 0 and g.write.opset >= _ADDS_INDICES:
        at = g.write.unsqueeze(g.emit("Cast", g.x(1), to=TensorProto.INT64), [g.rank(indices)])
        g.give(0, g.emit("ScatterND", g.zeros(x), at, g.d(), reduction="add"))
    elif axis == 0 and g.rank(x) == 2 and g.is_static(x):
        g.give(0, _added_rows(g, x))
    else:
        g.give(0, _added_slices(g, x, axis, signed=not known or min(known) < 0))


def _added_rows(g: NodeGradient, x: Value) -> str:
    """Adds rows of a gradient to those of a table of zeros, by indices that the run computes."""
    length, width = g.lengths(x)
    if length > LONGEST_TABLE:
        raise LookupError(f"opset {g.write.opset} cannot add up {length:,} rows for {g.node.label}")
    depth = g.write.constant(np.array(length, np.int64))
    hot = g.emit("OneHot", _flat_indices(g), depth, _zero_and_one(g, x))
    return g.emit("MatMul", g.emit("Transpose", hot, perm=[1, 0]), g.write.reshape(g.d(), [-1, width]))


def _added_slices(g: NodeGradient, x: Value, axis: int, *, signed: bool) -> str:
    """Adds slices of a gradient along any axis, by indices or to a length that the run computes."""
    length = x.axis(axis).length
    if length is not None and length > LONGEST_TABLE:
        raise LookupError(f"{g.node.label} picks from {length:,} by computed indices")
    if signed and g.write.opset < _COUNTS_FROM_END:
        raise LookupError(f"opset {g.write.opset} cannot tell which indices of {g.node.label} count from the end")
    behind = [x.axis(i).length for i in range(axis + 1, g.rank(x))]
    if g.rank(g.node.input(1)) == 1:
        d = g.d()
    elif g.rank(g.node.input(1)) == 0:
        d = g.write.unsqueeze(g.d(), [axis])
    elif None in behind:
        raise LookupError(f"the shape of '{x.name}' is only known in the run")
    else:
        d = g.write.reshape(g.d(), [*[0] * axis, -1, *(int(n or 0) for n in behind)])
    depth = g.emit("Gather", g.shape(x), g.write.constant(np.array(axis, np.int64)))
    hot = g.emit("OneHot", _flat_indices(g), depth, _zero_and_one(g, x))
    return g.product_along(d, x, axis, hot)


def _flat_indices(g: NodeGradient) -> str:
    """The indices as a vector of one type."""
    return g.emit("Cast", g.write.reshape(g.x(1), [-1]), to=TensorProto.INT64)


def _zero_and_one(g: NodeGradient, x: Value) -> str:
    return g.write.constant(np.array([0, 1], g.dtype(x)))


@gradient("GatherElements")
def gather_elements(g: NodeGradient) -> None:
    """Elements are added up at the positions that they were taken from."""
    _needs_adding(g)
    axis = int(g.attr("axis", 0))
    g.give(0, g.emit("ScatterElements", g.zeros(g.node.input(0)), g.x(1), g.d(), axis=axis, reduction="add"))


def _needs_adding(g: NodeGradient) -> None:
    """Raises LookupError where the operator set cannot add up what is scattered to one position."""
    if g.write.opset < _ADDS_INDICES:
        raise LookupError(f"opset {g.write.opset} cannot add up elements for {g.node.label}")


@gradient("GatherND")
def gather_nd(g: NodeGradient) -> None:
    """Slices are added up at the positions that they were taken from."""
    _needs_adding(g)
    batched = int(g.attr("batch_dims", 0))
    at = _with_batch(g, batched) if batched else g.x(1)
    g.give(0, g.emit("ScatterND", g.zeros(g.node.input(0)), at, g.d(), reduction="add"))


def _with_batch(g: NodeGradient, batched: int) -> str:
    """Indices with those along the first axes, in which they are in step, in front."""
    value = g.node.input(1)
    rank, lengths = g.rank(value), g.emit("Shape", g.x(1))
    zero, step = (g.write.constant(np.array(n)) for n in (0, 1))
    each = g.emit("Concat", g.write.slice(lengths, [0], [rank - 1], [0], [1]), g.write.ints([1]), axis=0)
    found = []
    for axis in range(batched):
        end = g.emit("Gather", lengths, g.write.constant(np.array(axis)), axis=0)
        count = g.emit("Range", zero, end, step)
        found.append(g.emit("Expand", g.write.reshape(count, [-1, *[1] * (rank - 1 - axis)]), each))
    return g.emit("Concat", *found, g.x(1), axis=rank - 1)


def _give_scattered(g: NodeGradient, scatter: str, gather: str, **axis: int) -> None:
    """What is written gets the gradient where it lies, the rest that of what is left of it."""
    reduction = g.attr("reduction", "none")
    if reduction not in ("none", "add"):
        raise LookupError(f"{g.node.label} writes by {reduction}")
    if g.wants(0):
        kept = reduction == "add"
        g.give(0, g.d() if kept else g.emit(scatter, g.d(), g.x(1), g.zeros(g.node.input(2)), **axis))
    if g.wants(2):
        g.give(2, g.emit(gather, g.d(), g.x(1), **axis))


@gradient("ScatterND")
def scatter_nd(g: NodeGradient) -> None:
    """The slices at the positions that are written; positions that are written twice have no order."""
    _give_scattered(g, "ScatterND", "GatherND")


@gradient("ScatterElements")
def scatter_elements(g: NodeGradient) -> None:
    """The elements at the positions that are written; positions that are written twice have no order."""
    _give_scattered(g, "ScatterElements", "GatherElements", axis=int(g.attr("axis", 0)))


@gradient("TopK")
def top_k(g: NodeGradient) -> None:
    """Each element that was taken gets its gradient back."""
    scatter = "ScatterElements" if g.write.opset >= 11 else "Scatter"
    g.give(0, g.emit(scatter, g.zeros(g.node.input(0)), g.y(1), g.d(), axis=int(g.attr("axis", -1))))


@gradient("MaxUnpool")
def max_unpool(g: NodeGradient) -> None:
    """The elements at the positions that are written."""
    if g.node.has(2):
        raise LookupError(f"{g.node.label} is given the shape of its output")
    g.give(0, g.emit("Gather", g.write.reshape(g.d(), [-1]), g.x(1), axis=0))
