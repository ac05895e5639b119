"""The operators that compute shapes from shapes, on the contents of small tensors.

Each function gets its node and the contents of its inputs (None for an absent one) and gives those of its outputs; it
raises whatever it likes where it cannot follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from onnxprune.graph.content_arithmetic import ARITHMETIC, combined, plus, times, unary
from onnxprune.graph.contents import FLOATS, INTEGERS, MAX_ENTRIES, Data, Unknown, entry_of, known, length_of, same
from onnxprune.graph.graph import Node
from onnxprune.graph.lengths import floor


def _flatten(node: Node, a: Data) -> list[Data]:
    axis = node.attribute("axis", 1)
    rows = math.prod(a.shape[: axis + a.ndim if axis < 0 else axis])
    return [a.reshape(rows, a.size // rows if rows else 0)]


def _integers(a: Data) -> list[int]:
    if not known(a):
        raise ValueError("free entries where numbers are needed")
    return [int(x) for x in a.flat]


def _cast(node: Node, a: Data) -> list[Data]:
    to = node.attribute("to")
    if to in INTEGERS and to != TensorProto.BOOL:
        convert: Callable[[Any], Any] = int
    elif to == TensorProto.BOOL:
        convert = bool
    else:
        convert = float

    def one(x: Any) -> Any:
        return _cast_free(x, to) if isinstance(x, Unknown) else convert(x)

    return [np.asarray(np.frompyfunc(one, 1, 1)(a), dtype=object)]


def _cast_free(entry: Unknown, to: int) -> object:
    """A free length as another type: integers round towards zero; what is true of a length is not known."""
    length = length_of(entry)
    if to in FLOATS or length is None or (to != TensorProto.BOOL and length.whole):
        return entry
    return entry_of(floor(length)) if to != TensorProto.BOOL and length.minimum >= 0 else Unknown()


def _axes(node: Node, extra: tuple[Data | None, ...]) -> list[int] | None:
    if extra and extra[0] is not None:
        return _integers(extra[0])
    axes = node.attribute("axes")
    return None if axes is None else list(axes)


def _unsqueeze(node: Node, a: Data, *extra: Data | None) -> list[Data]:
    axes = _axes(node, extra) or []
    rank = a.ndim + len(axes)
    for axis in sorted(x % rank for x in axes):
        a = np.expand_dims(a, axis)
    return [a]


def _squeeze(node: Node, a: Data, *extra: Data | None) -> list[Data]:
    axes = _axes(node, extra)
    return [np.squeeze(a, tuple(axes) if axes is not None else None)]


def _slice(node: Node, a: Data, *extra: Data | None) -> list[Data]:
    if node.opset < 10:
        starts, ends = node.attribute("starts"), node.attribute("ends")
        axes, steps = node.attribute("axes"), None
    else:
        parts = [None if e is None else _integers(e) for e in extra] + [None, None]
        starts, ends, axes, steps = parts[:4]
    axes = axes if axes is not None else list(range(len(starts)))
    window = [slice(None)] * a.ndim
    for i, axis in enumerate(axes):
        step = steps[i] if steps else 1
        end: int | None = ends[i]
        if step < 0 and ends[i] < -(2**31) + 2:
            end = None
        window[axis] = slice(starts[i], end, step)
    return [a[tuple(window)]]


def _reduce(f: Callable[[list[Any], bool], Any]) -> Callable[..., list[Data]]:
    def run(node: Node, a: Data, *extra: Data | None) -> list[Data]:
        axes = _axes(node, extra)
        if not axes and node.attribute("noop_with_empty_axes", 0):
            return [a]
        axes = list(range(a.ndim)) if not axes else [x % a.ndim for x in axes]
        keep = [i for i in range(a.ndim) if i not in axes]
        made = node.outputs[0]
        floating = made is not None and made.elem_type in FLOATS
        rows = a.transpose(keep + axes).reshape([a.shape[i] for i in keep] + [-1])
        out = np.empty(rows.shape[:-1], dtype=object)
        for at in np.ndindex(out.shape):
            out[at] = f(list(rows[at]), floating)
        if node.attribute("keepdims", 1):
            out = out.reshape([1 if i in axes else n for i, n in enumerate(a.shape)])
        return [out]

    return run


def _where(node: Node, c: Data, a: Data, b: Data) -> list[Data]:
    table = np.frompyfunc(
        lambda c, x, y: (
            (x if same(np.array(x, object), np.array(y, object)) else Unknown())
            if isinstance(c, Unknown)
            else (x if c else y)
        ),
        3,
        1,
    )
    return [np.asarray(table(c, a, b), dtype=object)]


def _constant_of_shape(node: Node, a: Data) -> list[Data]:
    shape = _integers(a)
    if math.prod(shape) > MAX_ENTRIES:
        raise ValueError("too large")
    fill = node.attribute("value")
    value = onnx.numpy_helper.to_array(fill).reshape(-1)[0].item() if fill is not None else 0.0
    return [np.full(shape, value, dtype=object)]


def _range(node: Node, start: Data, stop: Data, step: Data) -> list[Data]:
    a, b, c = (x.reshape(-1)[0] for x in (start, stop, step))
    if any(isinstance(x, Unknown) for x in (a, b, c)) or abs((b - a) / c) > MAX_ENTRIES:
        raise ValueError("not known")
    return [np.array(list(np.arange(a, b, c).tolist()), dtype=object)]


def _concat(node: Node, *parts: Data) -> list[Data]:
    return [np.concatenate(parts, axis=node.attribute("axis", 0))]


def _gather(node: Node, a: Data, index: Data) -> list[Data]:
    positions = np.array(_integers(index), dtype=np.int64).reshape(index.shape)
    return [np.take(a, positions, axis=node.attribute("axis", 0))]


def _reshape(node: Node, a: Data, shape: Data) -> list[Data]:
    target = [a.shape[i] if n == 0 else n for i, n in enumerate(_integers(shape))]
    return [a.reshape(target)]


def _expand(node: Node, a: Data, shape: Data) -> list[Data]:
    target = np.broadcast_shapes(a.shape, tuple(_integers(shape)))
    if math.prod(target) > MAX_ENTRIES:
        raise ValueError("too large")
    return [np.broadcast_to(a, target)]


def _split(node: Node, a: Data, *extra: Data | None) -> list[Data]:
    axis, count = node.attribute("axis", 0), len(node.outputs)
    sizes = _integers(extra[0]) if extra and extra[0] is not None else node.attribute("split")
    if sizes is None:
        chunk = -(-a.shape[axis] // count)  # the last part is smaller where it does not come out even
        return np.split(a, [chunk * i for i in range(1, count)], axis)
    return np.split(a, np.cumsum(sizes)[:-1].tolist(), axis)


def _identity(node: Node, a: Data, *_: Data | None) -> list[Data]:
    return [a]


def _clip(node: Node, a: Data, low: Data | None = None, high: Data | None = None) -> list[Data]:
    bounds = (
        [node.attribute("min"), node.attribute("max")]
        if node.opset < 11
        else [None if x is None else x.reshape(-1)[0] for x in (low, high)]
    )
    if any(isinstance(x, Unknown) for x in bounds):
        raise ValueError("free bounds")

    def one(x: Any) -> Any:
        x = x if bounds[0] is None else max(x, bounds[0])
        return x if bounds[1] is None else min(x, bounds[1])

    return unary(one)(node, a)


OPERATORS: dict[str, Callable[..., list[Data]]] = {
    "Identity": _identity,
    "Cast": _cast,
    "Dropout": _identity,
    "Clip": _clip,
    **ARITHMETIC,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Slice": _slice,
    "Concat": _concat,
    "Gather": _gather,
    "Reshape": _reshape,
    "Expand": _expand,
    "Where": _where,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Split": _split,
    "Flatten": _flatten,
    "Transpose": lambda node, a: [a.transpose(node.attribute("perm"))],
    "ReduceProd": _reduce(combined(math.prod, times)),
    "ReduceSum": _reduce(combined(sum, plus)),
    "ReduceMax": _reduce(combined(max)),
    "ReduceMin": _reduce(combined(min)),
}
"""What follows shapes; anything else uses a number as data."""
