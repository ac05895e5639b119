"""Tables and matrices of numbers of few bits in blocks: what shares a byte or a scale goes together."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import testing
from tests.ops.case import assert_groups, coupling_of
from tests.support.oracle import OLD_RUNTIME

MS = "com.microsoft"
WORDS, WIDTH, BLOCK = 12, 128, 16
RNG = np.random.default_rng(0)
IDS = RNG.integers(0, WORDS, (2, 5))


def graph(nodes: list[onnx.NodeProto], made: dict[str, Any], x: onnx.ValueInfoProto, last: int) -> onnx.ModelProto:
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [*(2, 5)[: 2 if last else 0], last])
    tensors = [a if isinstance(a, TensorProto) else numpy_helper.from_array(a, name) for name, a in made.items()]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MS, 1)]
    model = helper.make_graph(nodes, "blocks", [x], [y], tensors)
    return helper.make_model(model, opset_imports=opsets, ir_version=10)


def table(bits: int = 4, *, points: bool = False, native: bool = False, **attributes: Any) -> onnx.ModelProto:
    """Rows of a table, then a product.

    Args:
        bits: Of its numbers.
        points: Whether blocks have zero points.
        native: Whether its elements are of a type of 4 bits, and not bytes.
        attributes: Other attributes of the node.
    """
    rng, blocks = np.random.default_rng(1), WIDTH // BLOCK
    made: dict[str, Any] = {
        "s": (0.1 + rng.random((WORDS, blocks))).astype(np.float32),
        "o": rng.standard_normal((WIDTH, 3)).astype(np.float32),
    }
    if native:
        made["t"] = numpy_helper.from_array(rng.integers(-8, 8, (WORDS, WIDTH)).astype(ml_dtypes.int4), "t")
    else:
        made["t"] = rng.integers(0, 256, (WORDS, WIDTH * bits // 8)).astype(np.uint8)
    if points:
        made["z"] = rng.integers(0, 256, (WORDS, -(-blocks * bits // 8))).astype(np.uint8)
    found = {"block_size": BLOCK, "bits": bits, "quantize_axis": 1, "gather_axis": 0} | attributes
    names = ["t", "ids", "s", *(["z"] if points else [])]
    nodes = [
        helper.make_node("GatherBlockQuantized", names, ["h"], domain=MS, **found),
        helper.make_node("MatMul", ["h", "o"], ["y"]),
    ]
    return graph(nodes, made, helper.make_tensor_value_info("ids", TensorProto.INT64, [2, 5]), 3)


@pytest.mark.skipif(OLD_RUNTIME, reason="this onnxruntime has no kernel of theirs")
@pytest.mark.parametrize(
    ("options", "units"),
    [({}, 8), ({"points": True}, 4), ({"bits": 8, "points": True}, 8), ({"native": True}, 8)],
    ids=["bytes", "zero points", "8 bits", "int4"],
)
def test_widths_of_tables_go_by_blocks(options: dict[str, Any], units: int) -> None:
    """Blocks whose zero points share a byte go together."""
    made = table(**options)
    assert_groups(coupling_of(made), {"s:1": f"{units} exact"})
    result = onnxprune.prune(made, 0.5, repair="none", time=False)
    testing.assert_equivalent(made, result, feeds={"ids": IDS})
    dims = {t.name: list(t.dims) for t in result.proto.graph.initializer}
    assert dims["s"] == [WORDS, WIDTH // BLOCK // 2] and dims["o"] == [WIDTH // 2, 3]


@pytest.mark.parametrize("points", [False, True])
def test_words_of_a_table_in_blocks_go(points: bool) -> None:
    """Rows of numbers, scales and zero points, by the map of ids."""
    made = table(points=points)
    small = onnxprune.cut_vocabulary(made, np.array([1, 3, 4, 8]), unknown=1)
    dims = {t.name: list(t.dims) for t in small.model.graph.initializer}
    assert dims["t"][0] == dims["s"][0] == 4


def matrix(kind: int, *, rows: int = 64) -> onnx.ModelProto:
    """Two products of 4-bit floats with a function between them."""
    rng, inner = np.random.default_rng(2), 32
    made: dict[str, Any] = {}
    for name, deep, wide in (("a", rows, inner), ("b", inner, rows), ("c", rows, 3)):
        made[f"w{name}"] = rng.integers(0, 256, deep * wide // 2).astype(np.uint8)
        made[f"s{name}"] = (0.1 + rng.random(deep * wide // BLOCK)).astype(np.float32)
    sizes = {"a": (rows, inner), "b": (inner, rows), "c": (rows, 3)}
    nodes, last = [], "x"
    for name, (deep, wide) in sizes.items():
        out = "y" if name == "c" else f"h{name}"
        fixed = {"block_size": BLOCK, "K": deep, "N": wide, "quant_type": kind}
        nodes.append(helper.make_node("MatMulBnb4", [last, f"w{name}", f"s{name}"], [out], domain=MS, **fixed))
        last = out
        if name != "c":
            nodes.append(helper.make_node("Relu", [out], [last := f"r{name}"]))
    return graph(nodes, made, helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 5, rows]), 3)


@pytest.mark.parametrize("kind", [0, 1], ids=["FP4", "NF4"])
def test_matrices_of_4_bit_floats_lose_what_their_readers_lose(kind: int) -> None:
    """Of a chain each matrix goes by columns, or by blocks of its inputs, as the one row that holds it allows."""
    made = matrix(kind)
    result = onnxprune.prune(made, 0.5, repair="none", time=False)
    assert result.report.params.after < result.report.params.before
    testing.assert_equivalent(made, result, feeds={"x": RNG.standard_normal((2, 5, 64)).astype(np.float32)})


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (table(quantize_axis=0), "stored in another way than in blocks of rows"),
        (matrix(0, rows=40), "blocks run over several columns"),
    ],
)
def test_what_is_stored_in_another_way_stays(made: onnx.ModelProto, reason: str) -> None:
    groups = onnxprune.analyze(made).groups
    assert any(reason in text for group in groups for text in group.reasons), [g.reasons for g in groups]
