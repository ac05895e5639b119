"""What small tensors hold: shapes, indices and bounds that a graph computes from other shapes.

`evaluate` follows constants and the results of Shape through the few operators that compute shapes. An entry is a
number or `Unknown`, a length that only the run will tell. Given other axis lengths the same function says what the
graph will compute after pruning, so the caller sees which shape inputs adjust by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from onnxprune.graph.graph import Dim, Graph, Node, Scope, Value

MAX_ENTRIES = 1024
"""Tensors with more entries than this are weights or masks, not shapes."""
MAX_FLOATS = 32

Data = np.ndarray
"""Object array of int, float, bool and Free entries."""

_INTEGERS = {
    TensorProto.INT64,
    TensorProto.INT32,
    TensorProto.BOOL,
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.INT16,
    TensorProto.UINT16,
    TensorProto.UINT32,
    TensorProto.UINT64,
}


class Unknown:
    """A number that only the run will tell; `name` tells free lengths apart, None for an unknown result."""

    __slots__ = ("name",)

    def __init__(self, name: str | None = None) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unknown) and self.name is not None and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)


def known(entries: Data) -> bool:
    """Whether no entry is free."""
    return not any(isinstance(e, Unknown) for e in entries.flat)


def same(a: Data, b: Data) -> bool:
    """Whether both hold the same numbers and the same named free lengths."""
    return a.shape == b.shape and all(
        x is y or (type(x) is not Unknown and type(y) is not Unknown and x == y) or (isinstance(x, Unknown) and x == y)
        for x, y in zip(a.flat, b.flat, strict=True)
    )


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
    if to in _INTEGERS and to != TensorProto.BOOL:
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
    places = np.array(_integers(index), dtype=np.int64).reshape(index.shape)
    return [np.take(a, places, axis=node.attribute("axis", 0))]


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


def _to_single(entry: Any) -> Any:
    """What the run will hold: it computes in single precision, and 10 * 0.7 is then 7; integers end at 64 bits."""
    if isinstance(entry, int) and not -(2**63) <= entry < 2**63:
        return Unknown()
    if not isinstance(entry, float):
        return entry
    with np.errstate(over="ignore"):
        return float(np.float32(entry))


_single = np.frompyfunc(_to_single, 1, 1)


def _shape_entries(node: Node, dims: Sequence[Dim] | None, lengths: Sequence[Dim] | None) -> Data | None:
    if lengths is None:
        return None
    source = node.inputs[0]
    key = source.key if source is not None else ""
    if node.op_type == "Size":
        numbers = [n for n in lengths if isinstance(n, int)]
        return np.array(math.prod(numbers) if len(numbers) == len(lengths) else Unknown(), dtype=object)
    entries = [n if isinstance(n, int) else Unknown(n or f"{key}[{i}]") for i, n in enumerate(lengths)]
    start, end = node.attribute("start", 0), node.attribute("end")
    out = np.empty(len(entries), dtype=object)
    out[:] = entries
    return out[slice(start, end)]


def constant_data(value: Value) -> Data | None:
    """Entries of a small constant, None for weights."""
    t = value.tensor
    if t is None or t.data_location == TensorProto.EXTERNAL:
        return None
    size = math.prod(t.dims)
    if size > (MAX_ENTRIES if t.data_type in _INTEGERS else MAX_FLOATS) or t.data_type == TensorProto.STRING:
        return None
    try:
        array = onnx.numpy_helper.to_array(t)
    except Exception:  # a tensor of a type that cannot be read holds no shape
        return None
    return array.astype(object)


def _short_constant(node: Node) -> Data | None:
    """A Constant node that holds plain numbers in an attribute."""
    for a in node.proto.attribute:
        if a.name in ("value_int", "value_ints", "value_float", "value_floats"):
            return np.array(onnx.helper.get_attribute_value(a), dtype=object)
    return None


def taken(node: Node, data: Mapping[Value, Data]) -> Scope | None:
    """The branch of an If that every run takes; None where only the run tells."""
    condition = data.get(node.inputs[0]) if node.inputs and node.inputs[0] is not None else None
    if condition is None or condition.size != 1 or not known(condition):
        return None
    return node.bodies.get("then_branch" if condition.flat[0] else "else_branch")


def evaluate(
    graph: Graph,
    lengths: Callable[[Value], Sequence[Dim] | None] | None = None,
    before: dict[Value, Data] | None = None,
) -> dict[Value, Data]:
    """Contents of every small tensor that can be told without running the model.

    Args:
        graph: The graph, its shapes filled in as far as they are known.
        lengths: Axis lengths of a value; `Value.shape` where not given.
        before: An earlier result for the same graph whose constants are taken over.

    Returns:
        An object array for each value that could be followed; free entries are `Unknown`.
    """
    shape_of = lengths or (lambda v: v.shape)
    data: dict[Value, Data] = {}
    for value in graph.values:
        if value.tensor is not None:
            entries = before.get(value) if before is not None else constant_data(value)
            if entries is not None:
                data[value] = entries
    for node in graph.nodes:
        if node.domain or not node.outputs or node.outputs[0] is None:
            continue
        if node.op_type == "Constant":
            if node.outputs[0] not in data and (entries := _short_constant(node)) is not None:
                data[node.outputs[0]] = entries
            continue
        if node.op_type in ("Shape", "Size"):
            source = node.inputs[0]
            if source is not None and (entries := _shape_entries(node, source.shape, shape_of(source))) is not None:
                data[node.outputs[0]] = entries
            continue
        if node.op_type == "If":
            branch = taken(node, data)
            for out, end in zip(node.outputs, branch.outputs if branch is not None else (), strict=False):
                if out is not None and end is not None and end in data:
                    data[out] = data[end]
            continue
        rule = OPERATORS.get(node.op_type)
        if rule is None or not all(v is None or v in data for v in node.inputs):
            continue
        try:
            results = rule(node, *(None if v is None else data[v] for v in node.inputs))
        except Exception:  # what cannot be followed is data, and data is left alone
            continue
        for out, result in zip(node.outputs, results, strict=False):
            entries = np.asarray(result, dtype=object)  # numpy unwraps a scalar
            if out is not None and out.elem_type != TensorProto.DOUBLE:
                entries = np.asarray(_single(entries), dtype=object)
            if out is not None and entries.size <= MAX_ENTRIES:
                data[out] = entries
    return data
