"""Measures how long the analysis of large graphs takes: decoders of a hidden width of 4,096, layer upon layer.

    python -m tools.benchmarks analysis [--nodes 1000 2500 5000 10000 20000] [--limit 3.0]

Each layer has rotary grouped-query attention and a gated feed-forward network written out in plain operators, some 56
nodes; weights are declared, not stored, as the analysis does not look at them. Prints the curve, in processor seconds:
what an idle core takes. Exit status 1 where the graph of 5,000 nodes takes longer than the limit, or the time for a
node grows by more than half along the curve.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxprune.coupling.coupling import analyze
from onnxprune.coupling.groups import Grade
from onnxprune.graph.graph import Graph

LAYER = 56
GROWTH = 1.5


class Decoder:
    """Builds the graph."""

    def __init__(self, hidden: int = 4096, heads: int = 32, pairs: int = 8, inner: int = 11008, time: int = 64) -> None:
        self.hidden, self.heads, self.pairs, self.inner, self.time = hidden, heads, pairs, inner, time
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []

    def weight(self, *dims: int) -> str:
        name = f"w{len(self.initializers)}"
        self.initializers.append(TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims))
        return name

    def constant(self, entries: Any, dtype: Any = np.int64) -> str:
        name = f"k{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.array(entries, dtype=dtype), name))
        return name

    def node(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        out = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [out], name=out, **attributes))
        return out

    def norm(self, x: str) -> str:
        square = self.node("Pow", x, self.constant(2.0, np.float32))
        mean = self.node("ReduceMean", square, axes=[-1])
        root = self.node("Sqrt", self.node("Add", mean, self.constant(1e-5, np.float32)))
        return self.node("Mul", self.node("Div", x, root), self.weight(self.hidden))

    def projection(self, x: str, heads: int) -> str:
        size = self.hidden // self.heads
        flat = self.node("MatMul", x, self.weight(self.hidden, heads * size))
        return self.node("Transpose", self.node("Reshape", flat, self.constant([0, 0, heads, size])), perm=[0, 2, 1, 3])

    def rotated(self, x: str) -> str:
        size = self.hidden // self.heads
        axis, middle = self.constant([3]), self.constant([size // 2])
        left = self.node("Slice", x, self.constant([0]), middle, axis)
        right = self.node("Slice", x, middle, self.constant([size]), axis)
        turned = self.node("Concat", self.node("Neg", right), left, axis=-1)
        kept = self.node("Mul", x, self.weight(self.time, size))
        return self.node("Add", kept, self.node("Mul", turned, self.weight(self.time, size)))

    def repeated(self, x: str) -> str:
        wide = self.node("Unsqueeze", x, self.constant([2]))
        wide = self.node("Expand", wide, self.constant([1, 1, self.heads // self.pairs, 1, 1]))
        return self.node("Reshape", wide, self.constant([0, self.heads, self.time, self.hidden // self.heads]))

    def layer(self, x: str) -> str:
        y = self.norm(x)
        q = self.rotated(self.projection(y, self.heads))
        k = self.repeated(self.rotated(self.projection(y, self.pairs)))
        v = self.repeated(self.projection(y, self.pairs))
        scores = self.node("Softmax", self.node("MatMul", q, self.node("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
        mixed = self.node("Transpose", self.node("MatMul", scores, v), perm=[0, 2, 1, 3])
        flat = self.node("Reshape", mixed, self.constant([0, 0, self.hidden]))
        x = self.node("Add", x, self.node("MatMul", flat, self.weight(self.hidden, self.hidden)))
        y = self.norm(x)
        gate = self.node("MatMul", y, self.weight(self.hidden, self.inner))
        gate = self.node("Mul", gate, self.node("Sigmoid", gate))
        wide = self.node("Mul", gate, self.node("MatMul", y, self.weight(self.hidden, self.inner)))
        return self.node("Add", x, self.node("MatMul", wide, self.weight(self.inner, self.hidden)))

    def model(self, layers: int) -> onnx.ModelProto:
        x = "x"
        for _ in range(layers):
            x = self.layer(x)
        out = self.node("MatMul", self.norm(x), self.weight(self.hidden, 32000))
        graph = helper.make_graph(
            self.nodes,
            "decoder",
            [helper.make_tensor_value_info("x", 1, ["batch", self.time, self.hidden])],
            [helper.make_tensor_value_info(out, 1, ["batch", self.time, 32000])],
            self.initializers,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def seconds(model: onnx.ModelProto, rounds: int) -> tuple[float, float, int]:
    """Processor seconds of the analysis and of its groups alone, the best of some rounds; how many groups are exact."""
    best, groups_only, count = float("inf"), 0.0, 0
    for _ in range(rounds):
        start = time.process_time()
        coupling = analyze(Graph(model))
        middle = time.process_time()
        count = sum(g.grade == Grade.EXACT for g in coupling.groups)
        end = time.process_time()
        if end - start < best:
            best, groups_only = end - start, end - middle
    return best, groups_only, count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("--nodes", type=int, nargs="+", default=[1000, 2500, 5000, 10000, 20000])
    parser.add_argument("--limit", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row a size of graph."""
    for wanted in args.nodes:
        model = Decoder().model(max(round(wanted / LAYER), 1))
        nodes = len(model.graph.node)
        total, groups, count = seconds(model, args.rounds)
        yield {"nodes": nodes, "cpu_s": total, "groups_s": groups, "us_a_node": 1e6 * total / nodes, "exact": count}


def verdict(done: list[dict[str, Any]], args: argparse.Namespace) -> tuple[list[str], int]:
    """Whether it is fast enough, and grows no faster than the graph."""
    slow = [row["nodes"] for row in done if row["nodes"] <= 5200 and row["cpu_s"] > args.limit]
    growth = done[-1]["us_a_node"] / min(row["us_a_node"] for row in done)
    lines = [f"over {args.limit} s: {slow} nodes"] if slow else []
    lines.append(f"time for a node: {growth:.2f} times the least at the end of the curve")
    return lines, int(bool(slow) or growth > GROWTH)
