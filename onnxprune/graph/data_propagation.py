"""Follows the contents of small tensors: shapes, indices and bounds that a graph computes from other shapes.

`evaluate` follows constants and the results of Shape through the few operators that compute shapes. Given other axis
lengths the same function says what the graph will compute after pruning, so the caller sees which shape inputs adjust
by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from onnxprune.graph.content_operators import OPERATORS
from onnxprune.graph.contents import MAX_ENTRIES, Data, Unknown, constant_data, entry_of, known
from onnxprune.graph.graph import Graph, Node, Scope, Value
from onnxprune.graph.lengths import Dim, named, product

Lengths = Callable[[Value], Sequence[Dim] | None]
"""Axis lengths of a value."""


def _to_single(entry: Any) -> Any:
    """What the run will hold: it computes in single precision, and 10 * 0.7 is then 7; integers end at 64 bits."""
    if isinstance(entry, int) and not -(2**63) <= entry < 2**63:
        return Unknown()
    if not isinstance(entry, float):
        return entry
    with np.errstate(over="ignore"):
        return float(np.float32(entry))


_single = np.frompyfunc(_to_single, 1, 1)


def taken(node: Node, data: Mapping[Value, Data]) -> Scope | None:
    """The branch of an If that every run takes; None where only the run tells."""
    condition = data.get(node.inputs[0]) if node.inputs and node.inputs[0] is not None else None
    if condition is None or condition.size != 1 or not known(condition):
        return None
    return node.bodies.get("then_branch" if condition.flat[0] else "else_branch")


def evaluate(
    graph: Graph,
    lengths: Lengths | None = None,
    before: dict[Value, Data] | None = None,
    visit: Callable[[Node, dict[Value, Data]], None] | None = None,
) -> dict[Value, Data]:
    """Contents of every small tensor that is known without running the model.

    Args:
        graph: The graph, its shapes filled in as far as they are known.
        lengths: Axis lengths of a value; `Value.shape` where not given.
        before: Contents of values that are not followed; by default what constants hold.
        visit: Called for each node before it is followed, with the contents so far.

    Returns:
        An object array for each value that could be followed; unknown entries are `Unknown`.
    """
    shape_of = lengths or (lambda v: v.shape)
    data: dict[Value, Data] = dict(before) if before is not None else _constants(graph)
    for node in graph.nodes:
        if visit is not None:
            visit(node, data)
        if node.domain or not node.outputs or node.outputs[0] is None or node.outputs[0] in data:
            continue
        for out, result in zip(node.outputs, _results(node, data, shape_of), strict=False):
            if out is not None and result is not None and result.size <= MAX_ENTRIES:
                data[out] = result
    return data


def _constants(graph: Graph) -> dict[Value, Data]:
    found = {v: constant_data(v) for v in graph.constants()}
    return {value: entries for value, entries in found.items() if entries is not None}


def _results(node: Node, data: dict[Value, Data], shape_of: Lengths) -> Sequence[Data | None]:
    """Contents of the outputs of a node; none where they cannot be followed."""
    if node.op_type in _SOURCES:
        return _SOURCES[node.op_type](node, data, shape_of)
    function = OPERATORS.get(node.op_type)
    if function is None or not all(v is None or v in data for v in node.inputs):
        return []
    try:
        found = function(node, *(None if v is None else data[v] for v in node.inputs))
    except Exception:  # what cannot be followed is data, and data is left alone
        return []
    results = []
    for out, result in zip(node.outputs, found, strict=False):
        entries = np.asarray(result, dtype=object)  # numpy unwraps a scalar
        double = out is not None and out.elem_type == TensorProto.DOUBLE
        results.append(entries if double else np.asarray(_single(entries), dtype=object))
    return results


def _constant(node: Node, data: Mapping[Value, Data], shape_of: Lengths) -> list[Data | None]:
    """Plain numbers in an attribute; a tensor is a constant value, whose contents are there already."""
    for a in node.proto.attribute:
        if a.name in ("value_int", "value_ints", "value_float", "value_floats") and node.output() not in data:
            return [np.array(onnx.helper.get_attribute_value(a), dtype=object)]
    return []


def _shape(node: Node, data: Mapping[Value, Data], shape_of: Lengths) -> list[Data | None]:
    """The lengths of the input, or those from ``start`` to ``end``."""
    source = node.input(0)
    lengths = shape_of(source)
    if lengths is None:
        return []
    entries = [
        n if isinstance(n, int) else Unknown(n or str(named(f"{source.key}[{i}]"))) for i, n in enumerate(lengths)
    ]
    out = np.empty(len(entries), dtype=object)
    out[:] = entries
    return [out[slice(node.attribute("start", 0), node.attribute("end"))]]


def _size(node: Node, data: Mapping[Value, Data], shape_of: Lengths) -> list[Data | None]:
    """The product of all lengths."""
    lengths = shape_of(node.input(0))
    return [] if lengths is None else [np.array(entry_of(product(lengths)), dtype=object)]


def _if(node: Node, data: Mapping[Value, Data], shape_of: Lengths) -> list[Data | None]:
    """What the branch that every run takes gives out."""
    branch = taken(node, data)
    return [data.get(end) if end is not None else None for end in branch.outputs] if branch is not None else []


_SOURCES: dict[str, Callable[[Node, dict[Value, Data], Lengths], Sequence[Data | None]]] = {
    "Constant": _constant,
    "Shape": _shape,
    "Size": _size,
    "If": _if,
}
"""Operators whose results do not follow from the contents of their inputs alone."""
