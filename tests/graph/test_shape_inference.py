"""Shapes of every value, also where only a shape computation tells them, and also without the weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.graph.contents import Unknown
from onnxprune.graph.graph import Dim, Graph
from onnxprune.graph.shape_inference import infer, skeleton
from tests.ops.case import build, random_feeds
from tests.support.graph_builder import Seeded
from tests.support.oracle import session
from tests.support.random_graphs import random_model


def inferred(model: onnx.ModelProto) -> dict[str, list[Dim] | None]:
    graph = Graph(model)
    infer(graph)
    return {v.key: v.shape for v in graph.values}


@pytest.mark.parametrize(
    ("text", "constants", "value", "expected"),
    [
        (
            "(float[N,3,8,8] x) => (float[N,5,8,8] y) <float[5,3,3,3] w> { y = Conv <pads = [1, 1, 1, 1]> (x, w) }",
            {},
            "y",
            ["N", 5, 8, 8],
        ),
        ("(float[N,S,12] x) => (y) <int64[4] s> { y = Reshape(x, s) }", {"s": [0, 0, 3, 4]}, "y", ["N", "S", 3, 4]),
        ("(float[2,5,12] x) => (y) <int64[3] s> { y = Reshape(x, s) }", {"s": [0, -1, 6]}, "y", [2, 10, 6]),
        (
            """(float[N,S,12] x) => (y) <int64[1] nil, int64[1] a, int64[2] t>
        { h = Shape(x)  b = Slice(h, nil, a)  s = Concat <axis = 0> (b, t)  y = Reshape(x, s) }""",
            {"nil": 0, "a": 2, "t": [3, 4]},
            "y",
            ["N", "S", 3, 4],
        ),
        ("(float[N,3] x) => (y) { s = Shape(x)  y = ConstantOfShape(s) }", {}, "y", ["N", 3]),
        ("(float[N,1] x, float[N,4] z) => (y) { s = Shape(z)  y = Expand(x, s) }", {}, "y", ["N", 4]),
        ("(float[N,3] x) => (y) <int64[2] s> { y = Expand(x, s) }", {"s": [1, 1]}, "y", ["N", 3]),
    ],
)
def test_shapes(text: str, constants: dict[str, object], value: str, expected: list[Dim]) -> None:
    model = build(text, constants=constants)
    for info in model.graph.output:
        info.CopyFrom(onnx.ValueInfoProto(name=info.name))
    assert inferred(model)[value] == expected


@pytest.mark.slow
def test_shapes_agree_with_a_run() -> None:
    """Every length that is told is the one that the run has."""
    told = 0
    for seed in range(20):
        model = random_model(Seeded(seed), 10)
        known = {k: s for k, s in inferred(model).items() if s is not None}
        names = [o for n in model.graph.node for o in n.output if o in known]
        wide = onnx.ModelProto()
        wide.CopyFrom(model)
        del wide.graph.output[:]
        wide.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
        wide = onnx.shape_inference.infer_shapes(wide)
        for name, array in zip(names, session(wide).run(None, random_feeds(model, free=1)), strict=True):
            assert len(known[name]) == array.ndim
            for mine, true in zip(known[name], array.shape, strict=True):
                assert not isinstance(mine, int) or mine == true
                told += isinstance(mine, int)
    assert told > 500


def test_values_of_bodies_have_shapes() -> None:
    model = build("""(float[N,3] x, bool flag) => (float[N,6] y) <float[3,6] w, float[6,6] p>
        { h = MatMul(x, w)
          y = If (flag) <then_branch = yes () => (float[N,6] t) { s = MatMul(h, p)  t = Relu(s) },
                         else_branch = no () => (float[N,6] e) { e = Tanh(h) }> }""")
    assert inferred(model)["y/then_branch|s"] == ["N", 6]


def test_weights_are_not_needed() -> None:
    """Inference runs on a skeleton: no element of a weight is looked at."""
    model = build("(float[N,64] x) => (float[N,64] y) <float[64,64] w> { y = MatMul(x, w) }")
    bare = skeleton(model)
    assert bare.graph.initializer[0].ByteSize() < 64
    assert list(bare.graph.initializer[0].dims) == [64, 64]
    assert model.graph.initializer[0].ByteSize() > 4 * 64 * 64  # the model keeps them


def test_the_model_is_not_changed() -> None:
    model = build("(float[N,S,12] x) => (y) <int64[4] s> { y = Reshape(x, s) }", constants={"s": [0, 0, 3, 4]})
    before = model.SerializeToString()
    inferred(model)
    assert model.SerializeToString() == before


def test_an_unknown_operator_keeps_what_the_model_states() -> None:
    model = build("(float[N,3] x) => (float[N,6] y) <float[N,6] h> { h = own.Op(x)  y = Relu(h) }", domains=["own"])
    assert inferred(model)["h"] == ["N", 6]


def test_stated_shapes_of_standard_operators_are_not_believed() -> None:
    """A tool that changed the graph may have left stale annotations."""
    model = build(
        "(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[6,2] v> { h = MatMul(x, w)  y = MatMul(h, v) }"
    )
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("h", 1, ["N", 9]))
    assert inferred(model)["h"] == ["N", 6]


def test_what_small_tensors_hold_comes_along() -> None:
    graph = Graph(build("(float[N,3] x) => (int64[2] y) { y = Shape(x) }"))
    data = infer(graph)
    held = data[graph.main.names["y"]]
    assert held[1] == 3 and held[0] == Unknown("N")


def test_nothing_is_told_of_what_nothing_is_known() -> None:
    model = build("(float[N,3] x) => (float[N,3] y) { h = own.Op(x)  y = Relu(x) }", domains=["own"])
    assert inferred(model)["h"] is None
    assert np.array_equal(list(inferred(model)["y"] or []), ["N", 3])


def shape_of(text: str, name: str, stated: dict[str, list[int | str]] | None = None, **constants: object) -> list[Dim]:
    """The inferred shape of a value of a model whose file states shapes of some values."""
    model = build(text, constants=constants)
    for key, dims in (stated or {}).items():
        model.graph.value_info.append(onnx.helper.make_tensor_value_info(key, onnx.TensorProto.FLOAT, dims))
    graph = Graph(model)
    infer(graph)
    shape = graph.main.names[name].shape
    assert shape is not None
    return shape


def test_stated_lengths_are_read_where_inference_has_none() -> None:
    text = "(float[N,16,8] x, int64[3] t) => (float[P,Q,R] y) { r = Reshape(x, t)  y = Relu(r) }"
    assert shape_of(text, "r", {"r": ["N*4", "other", 7]})[0] == "4*N"
    assert shape_of(text, "y", {"r": ["N*4", "other", 7]})[0] == "4*N"
    second, third = shape_of(text, "r", {"r": ["N*4", "other", 7]})[1:]
    assert second != "other" and third != 7, "a name of nothing, and a number that may be from before"


def test_what_inference_knows_is_not_overwritten_by_what_is_stated() -> None:
    text = "(float[N,4,H] x) => (float[N,4,P] y) <float[4,4,3] w> { c = Conv <strides = [2]> (x, w)  y = Relu(c) }"
    assert shape_of(text, "c", {"c": ["H", 4, "N"]}) == ["N", 4, "((H + 1)//2) - 1"]


@pytest.mark.parametrize(
    ("line", "declared", "constants", "expected"),
    [
        ("y = MaxPool <kernel_shape = [2], strides = [2]> (x)", "", {}, ["N", 4, "(H//2)"]),
        ("y = AveragePool <kernel_shape = [3], pads = [1, 1]> (x)", "", {}, ["N", 4, "H"]),
        ("y = ConvTranspose <strides = [2]> (x, w)", "float[4,6,2] w", {}, ["N", 6, "2*H"]),
        ('y = Conv <auto_pad = "SAME_UPPER", strides = [2]> (x, w)', "float[6,4,3] w", {}, ["N", 6, "((H + 1)//2)"]),
        ("y = Concat <axis = 2> (x, x)", "", {}, ["N", 4, "2*H"]),
        ("y = Pad(x, p)", "int64[6] p", {"p": [0, 0, 1, 0, 0, 2]}, ["N", 4, "H + 3"]),
        ("y = Tile(x, p)", "int64[3] p", {"p": [1, 2, 3]}, ["N", 8, "3*H"]),
        ("y = Flatten(x)", "", {}, ["N", "4*H"]),
        ("y = Slice(x, a, b, c)", "int64[1] a, int64[1] b, int64[1] c", {"a": 0, "b": 2**62, "c": 2}, ["N", 4, "H"]),
        ("s = Shape(x)  y = Slice(x, z, s)", "int64[3] z", {"z": [0, 1, 0]}, ["N", 3, "H"]),
        ("y = Reshape(x, t)", "int64[2] t", {"t": [0, -1]}, ["N", "4*H"]),
        ("y = Reshape(x, t)", "int64[3] t", {"t": [-1, 2, 2]}, ["H*N", 2, 2]),
        ("y = Resize(x, , f)", "float[3] f", {"f": [1.0, 1.0, 2.0]}, ["N", 4, "2*H"]),
        ("y = Resize(x, , f)", "float[3] f", {"f": [1.0, 1.0, 0.5]}, ["N", 4, "(H//2)"]),
        ("d = Concat <axis = 2> (x, x)  y, z = Split <axis = 2, num_outputs = 2> (d)", "", {}, ["N", 4, "H"]),
        ("s = Shape(x)  y = ConstantOfShape(s)", "", {}, ["N", 4, "H"]),
        ("t = Transpose <perm = [0, 2, 1]> (x)  y = MatMul(x, t)", "", {}, ["N", 4, 4]),
        (
            "a = Concat <axis = 2> (x, x)  b = Tile(x, p)  y = Add(a, b)",
            "int64[3] p",
            {"p": [1, 1, 2]},
            ["N", 4, "2*H"],
        ),
    ],
)
def test_free_lengths_of_operators(
    line: str, declared: str, constants: dict[str, object], expected: list[int | str]
) -> None:
    declared = f"<{declared}>" if declared else ""
    assert shape_of(f"(float[N,4,H] x) => (y) {declared} {{ {line} }}", "y", **constants) == expected


def test_a_reshape_that_works_says_which_lengths_are_equal() -> None:
    text = """(float[N,6,8] x) => (float[P,Q] y) <int64[3] t, int64[1] z, int64[1] six>
        { s = Shape(x)  n = Gather(s, z)  r = Reshape(x, t)  f = Flatten(r)  whole = Concat <axis = 0> (n, six)
          y = Reshape(f, whole) }"""
    shapes = [shape_of(text, name, t=[-1, 12, 8], z=0, six=48) for name in ("x", "r", "y")]
    half = shapes[1][0]  # the batch is even, or the first reshape fails
    assert isinstance(half, str)
    assert shapes == [[f"2*{half}", 6, 8], [half, 12, 8], [f"2*{half}", 48]]


def test_a_length_of_unknown_sign_ends_no_analysis() -> None:
    """Dividing by s - 1 is no polynomial."""
    model = build(
        """(float[h,4] x, float[w] y, float[s] z) => (float[A,4] o, float[B] r)
        <float[4,4] v, int64[1] none, int64[1] one, int64[1] less>
        { sx = Shape(x)  a = Slice(sx, none, one)  b = Shape(y)  q = Div(a, b)  e = ConstantOfShape(q)
          c = Shape(z)  t = Sub(c, less)  r = Reshape(y, t)  o = MatMul(x, v) }""",
        constants={"none": [0], "one": [1], "less": [1]},
    )
    assert {g.name for g in onnxprune.analyze(model).groups} == {"v:0", "v:1"}


def test_a_name_that_is_a_number_is_a_name() -> None:
    """Exporters write -1 for a free length: two of these have no product that is known."""
    model = build("""(float[M,K,4] x) => (float[A,4] y) { y = Flatten <axis = 2> (x) }""")
    for dim in list(model.graph.input[0].type.tensor_type.shape.dim)[:2]:
        dim.dim_param = "-1"
    graph = Graph(model)
    infer(graph)
    assert graph.main.outputs[0].axis(0).length is None
