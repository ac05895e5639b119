"""What shape computations hold: the same as in onnxruntime where everything is known, free where it is not."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest

from onnxprune.graph.contents import Data, Unknown, same
from onnxprune.graph.data_propagation import OPERATORS, evaluate
from onnxprune.graph.graph import Graph
from onnxprune.graph.shape_inference import infer
from tests.ops.case import build
from tests.support.oracle import run_original

# operator on small constants: text, declared constants, what they hold, opset
I4, I23, F4, B4 = "int64[4] a", "int64[2,3] a", "float[4] a", "bool[4] a"
A4 = {"a": [3, -7, 0, 5]}
TABLE: list[tuple[str, str, dict[str, Any], int]] = [
    ("y = Identity(a)", I4, A4, 13),
    ("y = Cast <to = 7> (a)", F4, {"a": [1.5, -1.5, 2.0, 7.99]}, 13),
    ("y = Cast <to = 1> (a)", I4, A4, 13),
    ("y = Cast <to = 9> (a)", I4, A4, 13),
    ("y = Cast <to = 6> (a)", B4, {"a": [1, 0, 0, 1]}, 13),
    ("y = Dropout(a)", F4, {"a": [1.0, 2, 3, 4]}, 13),
    *(
        (f"y = {op}(a, b)", I4 + ", int64[4] b", {**A4, "b": [2, 3, -4, 5]}, 13)
        for op in ("Add", "Sub", "Mul", "Div", "Min", "Max")
    ),
    *((f"y = {op}(a, b)", I23 + ", int64[3] b", {"b": [2, -1, 9]}, 13) for op in ("Add", "Mul", "Div")),
    *(
        (f"y = {op}(a, b)", F4 + ", float b", {"a": [3, -7, 0.5, 10], "b": 0.7}, 13)
        for op in ("Add", "Sub", "Mul", "Div")
    ),
    *(
        (f"y = Mod{attribute}(a, b)", I4 + ", int64[4] b", {"a": [7, -7, 7, -7], "b": [3, 3, -3, -3]}, 13)
        for attribute in ("", " <fmod = 1> ")
    ),
    *(
        (f"y = {op}(a, b)", I4 + ", int64[4] b", {**A4, "b": [3, 2, -1, 9]}, 13)
        for op in ("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual")
    ),
    *((f"y = {op}(a, b)", B4 + ", bool[4] b", {"a": [1, 1, 0, 0], "b": [1, 0, 1, 0]}, 13) for op in ("And", "Or")),
    ("y = Not(a)", B4, {"a": [1, 0, 0, 1]}, 13),
    *((f"y = {op}(a)", I4, A4, 13) for op in ("Neg", "Abs")),
    *((f"y = {op}(a)", F4, {"a": [1.5, -1.5, 2.5, 0.3]}, 13) for op in ("Floor", "Ceil", "Round", "Relu")),
    ("y = Unsqueeze(a, b)", I4 + ", int64[2] b", {**A4, "b": [0, -1]}, 13),
    ("y = Unsqueeze <axes = [1, 0]> (a)", I4, A4, 11),
    ("y = Squeeze(a)", "int64[1,4,1] a", {}, 13),
    ("y = Squeeze(a, b)", "int64[1,4,1] a, int64[1] b", {"b": -1}, 13),
    ("y = Squeeze <axes = [0]> (a)", "int64[1,4,1] a", {}, 11),
    ("y = Slice <starts = [1], ends = [-1]> (a)", I4, A4, 9),
    ("y = Slice <axes = [1], starts = [1], ends = [3]> (a)", I23, {}, 9),
    ("y = Slice(a, s, e)", I23 + ", int64[2] s, int64[2] e", {"s": [0, 1], "e": [2, 9]}, 13),
    ("y = Slice(a, s, e, x)", I23 + ", int64[1] s, int64[1] e, int64[1] x", {"s": 1, "e": 2**62, "x": -1}, 13),
    (
        "y = Slice(a, s, e, x, t)",
        I4 + ", int64[1] s, int64[1] e, int64[1] x, int64[1] t",
        {**A4, "s": -1, "e": -(2**62), "x": 0, "t": -2},
        13,
    ),
    (
        "y = Slice(a, s, e, x, t)",
        I4 + ", int64[1] s, int64[1] e, int64[1] x, int64[1] t",
        {**A4, "s": 3, "e": -5, "x": 0, "t": -1},
        13,
    ),
    ("y = Slice(a, s, e, , t)", I4 + ", int64[1] s, int64[1] e, int64[1] t", {**A4, "s": 0, "e": 4, "t": 2}, 13),
    ("y = Concat <axis = 0> (a, b, a)", I4 + ", int64[2] b", A4, 13),
    ("y = Concat <axis = -1> (a, a)", I23, {}, 13),
    ("y = Gather(a, i)", I4 + ", int64[3] i", {**A4, "i": [-1, 0, 2]}, 13),
    ("y = Gather(a, i)", I4 + ", int64 i", {**A4, "i": -2}, 13),
    ("y = Gather <axis = 1> (a, i)", I23 + ", int64[2,2] i", {"i": [0, 2, 1, -1]}, 13),
    ("y = Reshape(a, s)", I23 + ", int64[2] s", {"s": [3, -1]}, 13),
    ("y = Reshape(a, s)", I23 + ", int64[3] s", {"s": [0, 1, -1]}, 13),
    ("y = Expand(a, s)", "int64[2,1] a, int64[3] s", {"s": [2, 1, 3]}, 13),
    ("y = Where(c, a, b)", I4 + ", int64[4] b, bool[4] c", {**A4, "b": [9, 8, 7, 6], "c": [1, 0, 1, 0]}, 13),
    ("y = ConstantOfShape(a)", "int64[2] a", {"a": [2, 3]}, 13),
    ("y = ConstantOfShape <value = int64[1] {-1}> (a)", "int64[1] a", {"a": 3}, 13),
    ("y = Range(a, b, c)", "int64 a, int64 b, int64 c", {"a": 7, "b": 0, "c": -2}, 13),
    ("y, z = Split(a)", I4, A4, 13),
    ("y, z = Split(a, b)", I4 + ", int64[2] b", {**A4, "b": [1, 3]}, 13),
    ("y, z = Split <split = [3, 1]> (a)", I4, A4, 11),
    ("y, z = Split <axis = 1> (a)", "int64[2,4] a", {}, 13),
    ("y, z, u = Split <num_outputs = 3> (a)", "int64[7] a", {}, 18),
    ("y, z, u, v = Split <num_outputs = 4> (a)", "int64[10] a", {}, 18),
    *((f"y = Flatten <axis = {axis}> (a)", "int64[2,3,4] a", {}, 13) for axis in (0, 1, 2, 3, -1)),
    ("y = Flatten(a)", I23, {}, 13),
    ("y = Transpose <perm = [1, 0]> (a)", I23, {}, 13),
    ("y = Transpose(a)", "int64[2,3,2] a", {}, 13),
    *(
        (f"y = {op} <axes = [1], keepdims = 0> (a)", I23, {}, 11)
        for op in ("ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin")
    ),
    *(
        (f"y = {op} <keepdims = {k}> (a)", I23, {}, 11)
        for op in ("ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin")
        for k in (0, 1)
    ),
    ("y = ReduceSum <keepdims = 0> (a, b)", I23 + ", int64[1] b", {"b": -2}, 13),
    ("y = ReduceMax(a, b)", I23 + ", int64[1] b", {"b": 1}, 18),
    ("y = ReduceSum <noop_with_empty_axes = 1> (a)", I23, {}, 13),
    ("y = ReduceProd <keepdims = 0> (a)", "int64[0] a", {}, 13),
    ("y = Clip(a, b, c)", I4 + ", int64 b, int64 c", {**A4, "b": -1, "c": 4}, 13),
    ("y = Clip(a, , c)", I4 + ", int64 c", {**A4, "c": 4}, 13),
    ("y = Shape(a)", I23, {}, 13),
    ("y = Shape <start = 1> (a)", I23, {}, 15),
    ("y = Shape <start = -3, end = -1> (a)", "int64[2,3,4] a", {}, 15),
    ("y = Size(a)", I23, {}, 13),
    (
        "b = Shape(a)  c = Cast <to = 1> (b)  d = Mul(c, s)  e = Floor(d)  y = Cast <to = 7> (e)",
        "float[10,3] a, float s",
        {"s": 0.7},
        13,
    ),
    (
        "b = Shape(a)  c = Cast <to = 1> (b)  d = Div(c, s)  e = Floor(d)  y = Cast <to = 7> (e)",
        "float[7,3] a, float s",
        {"s": 0.1},
        13,
    ),
]


def evaluated(model: onnx.ModelProto) -> dict[str, Data]:
    graph = Graph(model)
    data = infer(graph)
    return {v.key: d for v, d in data.items()}


@pytest.mark.parametrize(
    ("line", "declared", "constants", "opset"), TABLE, ids=[f"{t[0]} {i}" for i, t in enumerate(TABLE)]
)
def test_as_in_onnxruntime(line: str, declared: str, constants: dict[str, Any], opset: int) -> None:
    names = re.match(r"[\w, ]+(?= = [A-Z])", line.rsplit("  ", 1)[-1])
    assert names is not None
    outputs = names[0].split(", ")
    model = build(f"() => ({', '.join(outputs)}) <{declared}> {{ {line} }}", opset, constants=constants)
    data = evaluated(model)
    for info in model.graph.output:  # without types, as nothing here checks the model
        info.ClearField("type")
    typed = onnx.shape_inference.infer_shapes(model)
    for name, value in zip(outputs, run_original(typed, {}), strict=True):
        assert name in data, "not followed"
        mine = data[name]
        assert mine.shape == value.shape
        assert not any(isinstance(e, Unknown) for e in mine.flat)
        np.testing.assert_array_equal(mine.astype(value.dtype), value)


def test_every_operator_is_compared() -> None:
    compared = {name for line, *_ in TABLE for name in re.findall(r"([A-Z]\w+)[ (]", line)}
    assert set(OPERATORS) <= compared


# --- free lengths

FREE = "(float[N,3,H,W] x) => (float[N,3,H,W] z)"


def entries(lines: str, declared: str = "", **constants: Any) -> list[Any]:
    """What ``y`` holds, free lengths by their name, unknown ones as ``?``."""
    model = build(f"{FREE} {f'<{declared}>' if declared else ''} {{ z = Identity(x)  {lines} }}", constants=constants)
    return [(e.name or "?") if isinstance(e, Unknown) else e for e in evaluated(model)["y"].flat]


@pytest.mark.parametrize(
    ("lines", "declared", "constants", "expected"),
    [
        ("y = Shape(x)", "", {}, ["N", 3, "H", "W"]),
        ("y = Size(x)", "", {}, ["3*H*N*W"]),
        ("s = Shape(x)  y = Gather(s, i)", "int64[2] i", {"i": [1, 0]}, [3, "N"]),
        ("s = Shape(x)  y = Add(s, b)", "int64[4] b", {"b": [0, 1, 2, 0]}, ["N", 4, "H + 2", "W"]),
        ("s = Shape(x)  y = Mul(s, b)", "int64[4] b", {"b": [1, 2, 2, 1]}, ["N", 6, "2*H", "W"]),
        ("s = Shape(x)  y = Div(s, b)", "int64[4] b", {"b": [1, 3, 2, 1]}, ["N", 1, "(H//2)", "W"]),
        ("s = Shape(x)  y = Sub(b, s)", "int64[4] b", {"b": [9, 9, 9, 9]}, ["-N + 9", 6, "-H + 9", "-W + 9"]),
        ("s = Shape(x)  y = Concat <axis = 0> (s, b)", "int64[1] b", {"b": 7}, ["N", 3, "H", "W", 7]),
        ("s = Shape(x)  y = Slice(s, a, b)", "int64[1] a, int64[1] b", {"a": 2, "b": 4}, ["H", "W"]),
        ("s = Shape(x)  y = Cast <to = 1> (s)", "", {}, ["N", 3.0, "H", "W"]),
        ("s = Shape(x)  y = ReduceProd <keepdims = 0> (s)", "", {}, ["3*H*N*W"]),
        ("s = Shape(x)  e = Equal(s, b)  y = Where(e, b, s)", "int64[4] b", {"b": [-1, 3, -1, 3]}, ["N", 3, "H", "?"]),
        ("s = Shape(x)  y = Div(b, s)", "int64[4] b", {"b": [6, 9, 8, 7]}, ["(6//N)", 3, "(8//H)", "(7//W)"]),
        ("s = Shape(x)  y = Mod(s, b)", "int64[4] b", {"b": [2, 2, 1, 3]}, ["-2*(N//2) + N", 1, 0, "-3*(W//3) + W"]),
        (
            "s = Shape(x)  d = Sub(s, b)  y = Div(d, c)",
            "int64[4] b, int64[4] c",
            {"b": [1] * 4, "c": [2] * 4},
            ["((N + 1)//2) - 1", 1, "((H + 1)//2) - 1", "((W + 1)//2) - 1"],
        ),
        ("s = Shape(x)  d = Sub(b, s)  y = Div(d, b)", "int64[4] b", {"b": [2] * 4}, ["?", 0, "?", "?"]),
        ("s = Shape(x)  y = Max(s, b)", "int64[4] b", {"b": [0, 1, -1, 2]}, ["N", 3, "H", "?"]),
        ("s = Shape(x)  y = Greater(s, b)", "int64[4] b", {"b": [0, 1, -1, 2]}, ["?", True, True, "?"]),
        ("s = Shape(x)  f = Cast <to = 1> (s)  y = Div(f, b)", "float b", {"b": 2.0}, ["1/2*N", 1.5, "1/2*H", "1/2*W"]),
        (
            "s = Shape(x)  f = Cast <to = 1> (s)  y = Mul(f, b)",
            "float b",
            {"b": 0.7},
            ["?", 2.0999999046325684, "?", "?"],
        ),
        (
            "s = Shape(x)  f = Cast <to = 1> (s)  d = Div(f, b)  e = Floor(d)  y = Cast <to = 7> (e)",
            "float b",
            {"b": 2.0},
            ["(N//2)", 1, "(H//2)", "(W//2)"],
        ),
        (
            "s = Shape(x)  f = Cast <to = 1> (s)  d = Div(f, b)  e = Ceil(d)  y = Cast <to = 7> (e)",
            "float b",
            {"b": 2.0},
            ["((N + 1)//2)", 2, "((H + 1)//2)", "((W + 1)//2)"],
        ),
    ],
)
def test_free_lengths(lines: str, declared: str, constants: dict[str, Any], expected: list[Any]) -> None:
    assert entries(lines, declared, **constants) == expected


def test_free_lengths_are_equal_by_expression_only() -> None:
    assert Unknown("N") == Unknown("N") and Unknown("N") != Unknown("M")
    assert Unknown() != Unknown()
    assert hash(Unknown("N")) == hash(Unknown("N"))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2], [1, 2], True),
        ([1, 2], [1, 3], False),
        ([1], [1, 1], False),
        ([Unknown("N")], [Unknown("N")], True),
        ([Unknown("N")], [Unknown("M")], False),
        ([Unknown()], [Unknown()], False),
        ([Unknown("N")], [1], False),
        ([1], [Unknown("N")], False),
    ],
)
def test_same(a: list[Any], b: list[Any], expected: bool) -> None:
    x, y = (np.array([*v, None], dtype=object)[:-1] for v in (a, b))
    assert same(x, y) is expected


def test_an_unknown_entry_is_the_same_as_itself() -> None:
    x = np.array([Unknown(), None], dtype=object)[:1]
    assert same(x, x)


def test_weights_are_not_followed() -> None:
    model = build(
        "(float[N,3] x) => (float[N,6] y) <float[3,6] w, int64[1024] i, int64[1025] j, float[32] f, float[33] g> "
        "{ y = MatMul(x, w)  p = Neg(i)  q = Neg(j)  r = Neg(f)  s = Neg(g) }"
    )
    assert {"i", "f", "p", "r"} == evaluated(model).keys() & set("ijfgpqrs")


def test_other_lengths_tell_what_will_be_computed() -> None:
    """What the caller asks after removal: the same computation at other lengths."""
    model = build(
        "(float[N,3,H,W] x) => (int64[5] y) <int64[1] b> { h = Relu(x)  s = Shape(h)  y = Concat <axis = 0> (s, b) }",
        constants={"b": -1},
    )
    graph = Graph(model)
    constants = {value: entries for value, entries in infer(graph).items() if value.tensor is not None}
    h, y = graph.main.names["h"], graph.main.names["y"]
    now = evaluate(graph, lambda v: ["N", 2, "H", "W"] if v is h else v.shape, constants)
    assert [e.name if isinstance(e, Unknown) else e for e in now[y]] == ["N", 2, "H", "W", -1]
