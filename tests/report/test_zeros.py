"""`inspect --sparsity`: zeros are counted, patterns are seen along the reduction axis, TensorRT's rules are told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxprune.coupling.coupling import analyze
from onnxprune.graph.graph import Graph
from onnxprune.model.model import load
from onnxprune.report.sparsity_data import zeros
from tests.ops.case import build
from tests.support.commands import Cli
from tests.support.paths import MODELS


def told(proto: ModelProto) -> dict[str, dict[str, Any]]:
    """What is told of each tensor."""
    model = load(proto)
    return {t["name"]: t for t in zeros(model, analyze(Graph(model.proto)))["tensors"]}


def pattern(shape: Sequence[int], axis: int, keep: str) -> NDArray[np.float32]:
    """Ones and zeros that repeat along an axis."""
    line = np.resize([c == "1" for c in keep], shape[axis])
    places = [1] * len(shape)
    places[axis] = -1
    return np.broadcast_to(line.reshape(places), shape).astype(np.float32)


def product(kind: str, weight: NDArray[Any], **attributes: Any) -> ModelProto:
    """One product operator with a stored weight `w`."""
    space = [4] * (weight.ndim - 2)
    groups = attributes.get("group", 1)
    reads = {
        "Conv": [1, weight.shape[1] * groups, *space],
        "ConvTranspose": [1, weight.shape[0], *space],
        "MatMul": [*weight.shape[:-2], 2, weight.shape[-2]],
        "Gemm": [2, weight.shape[0]],
    }[kind]
    if attributes.get("transB"):
        reads = [2, weight.shape[1]]
    elem = helper.np_dtype_to_tensor_dtype(weight.dtype)
    node = helper.make_node(kind, ["x", "w"], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", elem, reads)],
        [helper.make_tensor_value_info("y", elem, [None] * (2 if kind == "Gemm" else len(reads)))],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize(
    ("kind", "axis", "shape", "attributes"),
    [
        ("Conv", 1, (16, 16, 1, 1), {}),
        ("Conv", 1, (16, 8, 3, 3), {"group": 2}),
        ("MatMul", 0, (16, 16), {}),
        ("Gemm", 0, (16, 16), {}),
        ("Gemm", 1, (16, 16), {"transB": 1}),
        ("ConvTranspose", 0, (16, 16, 2, 2), {}),
    ],
)
@pytest.mark.parametrize(
    ("keep", "patterns"),
    [
        ("1010", ["1:2", "2:4", "4:8"]),
        ("1100", ["2:4", "4:8"]),
        ("1000", ["1:2", "1:4", "2:4", "2:8", "4:8"]),
        ("11110000", ["4:8"]),
        ("10000001", ["1:2", "1:4", "2:4", "2:8", "4:8"]),
        ("1110", []),
        ("1", []),
    ],
)
def test_patterns(
    kind: str, axis: int, shape: tuple[int, ...], attributes: dict[str, Any], keep: str, patterns: list[str]
) -> None:
    """The patterns that hold are those of the reduction axis, whichever it is."""
    entry = told(product(kind, pattern(shape, axis, keep), **attributes))["w"]
    assert entry["reduction_axis"] == axis
    assert entry["patterns"] == patterns
    assert entry["zeros"] == keep.count("0") / len(keep)


def test_a_pattern_across_the_outputs_is_none() -> None:
    assert told(product("MatMul", pattern((16, 16), 1, "10")))["w"]["patterns"] == []


def test_blocks() -> None:
    weight = np.ones((16, 16), np.float32)
    weight[4:8, 8:12] = 0
    entry = told(product("Gemm", weight, transB=1))["w"]
    assert entry["blocks"] == ["1x4", "4x1", "4x4"]
    weight[0, 0] = 0
    assert told(product("Gemm", weight, transB=1))["w"]["blocks"] == []
    assert told(product("Gemm", np.ones((16, 16), np.float32), transB=1))["w"]["blocks"] == []


def verdict(
    kind: str = "Conv",
    shape: tuple[int, ...] = (256, 256, 1, 1),
    axis: int = 1,
    keep: str = "1010",
    dtype: Any = np.float32,
    **attributes: Any,
) -> dict[str, Any]:
    found: dict[str, Any] = told(product(kind, pattern(shape, axis, keep).astype(dtype), **attributes))["w"]["tensorrt"]
    assert found["qualifies"] == (not found["reasons"]) == (found["precision"] is not None)
    return found


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ({"kind": "ConvTranspose", "axis": 0}, "ConvTranspose is neither a convolution nor a fully connected layer"),
        ({"dtype": np.float64}, "weights of type DOUBLE, neither half precision nor INT8"),
        ({"shape": (256, 6, 1, 1), "keep": "100"}, "the number of its input channels (6) is no multiple of 4"),
        ({"shape": (256, 2, 1, 1), "group": 128}, "the number of its input channels (2) is no multiple of 4"),
        ({"keep": "1110"}, "2:4 does not hold along its input channels"),
        ({"kind": "MatMul", "shape": (2, 16, 16), "axis": 1}, "not a matrix, so no fully connected layer"),
    ],
)
def test_what_does_not_qualify(case: dict[str, Any], reason: str) -> None:
    assert verdict(**case)["reasons"] == [reason]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "hints"),
    [
        ({}, []),
        ({"kind": "MatMul", "shape": (256, 512), "axis": 0}, []),
        ({"kind": "Gemm", "shape": (256, 512), "axis": 0}, []),
        ({"shape": (512, 256, 3, 3), "group": 2}, []),
        ({"shape": (256, 260, 1, 1)}, ["the number of its input channels (260) is no multiple of 16"]),
        ({"shape": (260, 256, 1, 1)}, ["the number of its output channels (260) is no multiple of 8"]),
        ({"shape": (64, 256, 1, 1)}, ["sparse kernels tend to win from 256 input and output channels on"]),
    ],
)
def test_what_qualifies(case: dict[str, Any], hints: list[str]) -> None:
    found = verdict(**case)
    assert found["qualifies"]
    assert found["hints"] == hints
    assert found["precision"] == "FP16"


def test_half_precision() -> None:
    assert verdict(dtype=np.float16)["precision"] == "FP16"


QUANTISED = """(float[1,16] x) => (float[1,8] y) <int8[16,8] w, float[8] s, int8[8] z>
    { d = DequantizeLinear <axis = 1> (w, s, z)  y = MatMul(x, d) }"""


@pytest.mark.parametrize("point", [0, 3])
def test_zero_points_are_zeros(point: int) -> None:
    """What stands for zero counts, not what is stored as zero."""
    model = build(QUANTISED)
    stored = np.where(pattern((16, 8), 0, "1010") > 0, 7, point).astype(np.int8)
    for tensor in model.graph.initializer:
        values = {"w": stored, "s": np.full(8, 0.5, np.float32), "z": np.full(8, point, np.int8)}[tensor.name]
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    entries = told(model)
    assert set(entries) == {"w"}  # scales and zero points are no weights
    assert entries["w"]["zeros"] == 0.5
    assert entries["w"]["patterns"] == ["1:2", "2:4", "4:8"]
    assert entries["w"]["tensorrt"]["precision"] == "INT8"


def test_readers_that_disagree() -> None:
    model = build("(float[1,8] x) => (float[1,8] y) <float[8,8] w> { h = Gemm(x, w)  y = Gemm <transB = 1> (h, w) }")
    entry = told(model)["w"]
    assert entry["reduction_axis"] is None
    assert entry["patterns"] == []
    assert entry["tensorrt"]["reasons"] == ["it is read along different axes"]


def test_recurrent_layers_do_not_qualify() -> None:
    entries = told(onnx.load(MODELS / "pt_bilstm.onnx"))
    recurrent = [e["tensorrt"] for e in entries.values() if e["operator"] == "LSTM" and e["tensorrt"]]
    assert recurrent
    assert all(r["reasons"][0] == "LSTM is neither a convolution nor a fully connected layer" for r in recurrent)


def test_command_line(cli: Cli, model: Path) -> None:
    """A table for people, everything for machines; the model's own zeros are counted."""
    assert cli(model, "--pattern", "2:4", "-o", model.parent / "s.onnx", "--quiet").code == 0
    ended = cli("inspect", "--sparsity", model.parent / "s.onnx")
    assert ended.code == 0
    rows = {line.split()[0]: line.split() for line in ended.out.splitlines() if line.startswith(("w1 ", "w2 "))}
    assert rows["w2"][1:4] == ["Conv", "5x32x3x3", "FLOAT"]
    assert rows["w2"][-1] == "FP16"
    assert rows["w1"][-1] == "no"
    assert "the number of its input channels (3) is no multiple of 4" in ended.out
    data = json.loads(cli("inspect", "--sparsity", model.parent / "s.onnx", "--json").out)
    proto = onnx.load(model.parent / "s.onnx")
    arrays = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    assert {t["name"]: t["zeros"] for t in data["tensors"]} == {n: float(np.mean(a == 0)) for n, a in arrays.items()}
    whole = sum(a.size for a in arrays.values())
    assert data["zeros"] == pytest.approx(sum(int((a == 0).sum()) for a in arrays.values()) / whole)
    assert TensorProto.DataType.Value(data["tensors"][0]["type"]) == TensorProto.FLOAT
