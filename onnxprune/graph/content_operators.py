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

from onnxprune.graph.contents import INTEGERS, MAX_ENTRIES, Data, Unknown, known, same
from onnxprune.graph.graph import Node


def _binary(f: Callable[[Any, Any], Any], neutral: float | None = None) -> Callable[..., list[Data]]:
    def one(x: Any, y: Any) -> Any:
        if isinstance(x, Unknown):
            return x if neutral is not None and not isinstance(y, Unknown) and y == neutral else Unknown()
        return Unknown() if isinstance(y, Unknown) else f(x, y)

    table = np.frompyfunc(one, 2, 1)
    return lambda node, a, b: [np.asarray(table(a, b), dtype=object)]


def _unary(f: Callable[[Any], Any]) -> Callable[..., list[Data]]:
    table = np.frompyfunc(lambda x: Unknown() if isinstance(x, Unknown) else f(x), 1, 1)
    return lambda node, a: [np.asarray(table(a), dtype=object)]


def _divide(x: Any, y: Any) -> Any:
    if y == 0:
        return Unknown()
    if isinstance(x, float) or isinstance(y, float):
        return x / y
    return int(x / y) if (x < 0) != (y < 0) else x // y


def _mod(node: Node, a: Data, b: Data) -> list[Data]:
    def remainder(x: Any, y: Any) -> Any:
        if y == 0:
            return Unknown()
        return type(x)(math.fmod(x, y)) if node.attribute("fmod", 0) else x % y

    return _binary(remainder)(node, a, b)


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
    table = np.frompyfunc(lambda x: x if isinstance(x, Unknown) else convert(x), 1, 1)
    return [np.asarray(table(a), dtype=object)]


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


def _reduce(f: Callable[[list[Any]], Any]) -> Callable[..., list[Data]]:
    def run(node: Node, a: Data, *extra: Data | None) -> list[Data]:
        axes = _axes(node, extra)
        if not axes and node.attribute("noop_with_empty_axes", 0):
            return [a]
        axes = list(range(a.ndim)) if not axes else [x % a.ndim for x in axes]
        keep = [i for i in range(a.ndim) if i not in axes]
        rows = a.transpose(keep + axes).reshape([a.shape[i] for i in keep] + [-1])
        out = np.empty(rows.shape[:-1], dtype=object)
        for at in np.ndindex(out.shape):
            row = list(rows[at])
            out[at] = Unknown() if any(isinstance(x, Unknown) for x in row) else f(row)
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

    return _unary(one)(node, a)


OPERATORS: dict[str, Callable[..., list[Data]]] = {
    "Identity": _identity,
    "Cast": _cast,
    "Dropout": _identity,
    "Clip": _clip,
    "Relu": _unary(lambda x: max(x, 0)),
    "Add": _binary(lambda x, y: x + y, 0),
    "Sub": _binary(lambda x, y: x - y, 0),
    "Mul": _binary(lambda x, y: x * y, 1),
    "Div": _binary(_divide, 1),
    "Mod": _mod,
    "Min": _binary(min),
    "Max": _binary(max),
    "Equal": _binary(lambda x, y: x == y),
    "Greater": _binary(lambda x, y: x > y),
    "Less": _binary(lambda x, y: x < y),
    "And": _binary(lambda x, y: bool(x and y)),
    "Or": _binary(lambda x, y: bool(x or y)),
    "Not": _unary(lambda x: not x),
    "Neg": _unary(lambda x: -x),
    "Abs": _unary(abs),
    "Floor": _unary(lambda x: float(math.floor(x))),
    "Ceil": _unary(lambda x: float(math.ceil(x))),
    "Round": _unary(lambda x: float(round(x))),
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
    "ReduceProd": _reduce(math.prod),
    "ReduceSum": _reduce(sum),
    "ReduceMax": _reduce(max),
    "ReduceMin": _reduce(min),
}
"""What follows shapes; anything else uses a number as data."""
