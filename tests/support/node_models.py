"""The node models of `onnx.backend.test`, wrapped so that there are channels to prune.

A node model feeds everything from graph inputs and returns everything, so all of it is interface. Wrapped, the same
node reads weights (through a product with a graph input, so that they count as activations) and its results are summed
up, so that every axis that its rule lets pass can lose indices.
"""

from __future__ import annotations

import functools
import math
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}
MAX_ENTRIES = 200_000

ROLES = {
    "activations": "floats are activations, the rest is constant",
    "weights": "the first float is an activation, the rest is constant",
    "run": "floats are activations, the rest comes from the run",
}
ENDS = ("weighted", "plain", "axis")
"""What is summed: the results times a constant, the results as they are, or times a constant along one axis only."""


@dataclass(frozen=True)
class NodeCase:
    """One of onnx's test cases: a model, and what goes in and comes out."""

    name: str
    model: onnx.ModelProto
    inputs: Sequence[Any]
    outputs: Sequence[Any]


@functools.cache
def node_cases() -> dict[str, NodeCase]:
    """Every node test of the installed onnx, by name."""
    from onnx.backend.test.loader import load_model_tests

    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # overflows that the cases are about
        for case in load_model_tests(kind="node"):
            if case.model is not None and case.data_sets:
                inputs, outputs = case.data_sets[0]
                found[case.name] = NodeCase(case.name, case.model, inputs, outputs)
    return found


def wrap(case: NodeCase, roles: str, end: str) -> tuple[onnx.ModelProto, dict[str, Any]] | None:
    """The model with weights before it and sums behind it, and what to feed; None where nothing can be made of it.

    Args:
        case: The test case.
        roles: One of `ROLES`.
        end: One of `ENDS`.
    """
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    graph = model.graph
    given = list(graph.input)
    del graph.input[:]
    feeds: dict[str, Any] = {}
    before: list[onnx.NodeProto] = []
    gated = 0
    for info, data in zip(given, case.inputs, strict=False):
        kind = info.type.tensor_type.elem_type if info.type.HasField("tensor_type") else 0
        array = isinstance(data, np.ndarray)
        if array and kind in FLOATS and data.ndim and data.size and not (roles == "weights" and gated):
            gated += 1
            name, gate = f"{info.name}__weight", f"{info.name}__gate"
            graph.initializer.append(numpy_helper.from_array(data, name))
            graph.input.append(helper.make_tensor_value_info(gate, kind, [1] * data.ndim))
            before.append(helper.make_node("Mul", [name, gate], [info.name], name=f"{info.name}__mul"))
            feeds[gate] = np.ones([1] * data.ndim, data.dtype)
        elif array and kind and kind != TensorProto.STRING and (kind in FLOATS or roles != "run"):
            graph.initializer.append(numpy_helper.from_array(data, info.name))
        else:
            graph.input.append(info)
            feeds[info.name] = data
    behind = list(_ends(case, model, end))
    if not gated or not behind:
        return None
    nodes = [*before, *graph.node, *behind]
    del graph.node[:]
    graph.node.extend(nodes)
    model.ir_version = max(model.ir_version, 8)
    return model, feeds


def _ends(case: NodeCase, model: onnx.ModelProto, end: str) -> Iterator[onnx.NodeProto]:
    """Nodes that sum the results up; the sums take the results' place among the graph's outputs."""
    graph = model.graph
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    versions = {o.domain: o.version for o in model.opset_import}
    opset = versions.get("", versions.get("ai.onnx", 0))
    if not opset:
        opset = 18
        model.opset_import.append(helper.make_opsetid("", opset))
    results = list(graph.output)
    del graph.output[:]
    for info, data in zip(results, case.outputs, strict=False):
        kind = info.type.tensor_type.elem_type if info.type.HasField("tensor_type") else 0
        rank = data.ndim if isinstance(data, np.ndarray) else 0
        if (
            not kind
            or kind == TensorProto.STRING
            or not rank
            or not data.size
            or data.size > MAX_ENTRIES
            or (end == "plain" and kind not in FLOATS)
        ):  # whole numbers are no weights: nobody sets them to zero
            graph.output.append(info)
            continue
        graph.value_info.append(info)
        value = info.name
        if kind != TensorProto.FLOAT:
            yield helper.make_node("Cast", [value], [f"{value}__float"], to=TensorProto.FLOAT, name=f"{value}__cast")
            value = f"{value}__float"
        if end != "plain":
            factor = (rng.random(data.shape) + 0.5).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(factor, f"{value}__factor"))
            yield helper.make_node("Mul", [value, f"{value}__factor"], [f"{value}__times"], name=f"{value}__times")
            value = f"{value}__times"
        over = [int(rng.integers(rank))] if end == "axis" else list(range(rank))
        if opset >= 13:
            graph.initializer.append(numpy_helper.from_array(np.array(over, dtype=np.int64), f"{value}__axes"))
            yield helper.make_node("ReduceSum", [value, f"{value}__axes"], [f"{value}__sum"], keepdims=0)
        else:
            yield helper.make_node("ReduceSum", [value], [f"{value}__sum"], keepdims=0, axes=over)
        left = [n for i, n in enumerate(data.shape) if i not in over]
        graph.output.append(helper.make_tensor_value_info(f"{value}__sum", TensorProto.FLOAT, left))


def size(case: NodeCase) -> float:
    """Mean magnitude of the finite results, weighed by how many are summed: what errors are measured by."""
    total = 1e-6
    for data in case.outputs:
        if isinstance(data, np.ndarray) and data.dtype.kind == "f" and data.size:
            finite = np.abs(data[np.isfinite(data)].astype(np.float64))
            total = max(total, float(finite.mean()) * math.sqrt(data.size) if finite.size else 0.0)
    return total
