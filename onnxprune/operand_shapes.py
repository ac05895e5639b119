"""Output shapes that follow from what an operand holds, with lengths that only the run will tell."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxprune.dataflow import Data, Free
from onnxprune.graph import Dim, Node, Value


def dims(entries: Sequence[object]) -> list[Dim]:
    """Lengths for what a shape operand holds: -1 is not known, free entries have their name."""
    return [e if isinstance(e, int) and e >= 0 else (e.name if isinstance(e, Free) else None) for e in entries]


def told(node: Node, data: dict[Value, Data]) -> list[Dim] | None:
    """Output shape of a node by the contents of its shape input."""
    if node.domain or len(node.inputs) == 0:
        return None
    source = node.inputs[0]
    operand = node.inputs[1] if len(node.inputs) > 1 else None
    if source is None:
        return None
    if node.op_type == "ConstantOfShape" and source in data:
        return dims(list(data[source].flat))
    if operand is None or operand not in data:
        return None
    entries = list(data[operand].flat)
    if node.op_type == "Reshape":
        return _reshaped(source.shape, entries, bool(node.attribute("allowzero", 0)))
    if node.op_type == "Expand" and source.shape is not None:
        rank = max(len(entries), len(source.shape))
        have: list[Dim] = [*[1] * (rank - len(source.shape)), *source.shape]
        want = [*[1] * (rank - len(entries)), *entries]
        return [h if h != 1 and (h is not None) else d for h, d in zip(have, dims(want), strict=True)]
    return None


def parts(node: Node) -> list[list[Dim]]:
    """Output shapes of a Split whose sizes only the run will tell."""
    source = node.inputs[0] if node.op_type == "Split" and not node.domain and node.inputs else None
    if source is None or not source.shape:
        return []
    axis = node.attribute("axis", 0) % len(source.shape)
    return [[None if i == axis else d for i, d in enumerate(source.shape)] for _ in node.outputs]


def _reshaped(shape: list[Dim] | None, entries: Sequence[object], allow_zero: bool) -> list[Dim]:
    out: list[Dim] = []
    for i, e in enumerate(entries):
        if e == 0 and not allow_zero:
            out.append(shape[i] if shape is not None and i < len(shape) else None)
        else:
            out.append(dims([e])[0])
    if shape is not None and -1 in entries:
        hole = entries.index(-1)
        rest: list[Dim] = [d for i, d in enumerate(out) if i != hole]
        total: list[Dim] = list(shape)
        for d in list(rest):
            if d is not None and not isinstance(d, int) and d in total:
                rest.remove(d)
                total.remove(d)
        if all(isinstance(d, int) for d in rest + total):
            count = math.prod(int(d or 0) for d in total)
            size = math.prod(int(d or 0) for d in rest)
            out[hole] = count // size if size else None
        elif all(isinstance(d, int) for d in rest) and len([d for d in total if not isinstance(d, int)]) == 1:
            size, count = math.prod(int(d or 0) for d in rest), math.prod(d for d in total if isinstance(d, int))
            if size == count:
                out[hole] = next(d for d in total if not isinstance(d, int))
    return out

