"""Inputs that are made for a model: sizes, values, and what cannot be made."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from onnxprune.errors import InputError
from onnxprune.runtime.axis_lengths import Sizes
from onnxprune.runtime.sample_inputs import input_dims, sample_inputs
from onnxprune.runtime.session import session
from tests.support.text_models import parse


def fed(name, kind, shape):
    """A model with one input that nothing else says anything about."""
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], ["y"])],
        "g",
        [helper.make_tensor_value_info(name, kind, shape)],
        [helper.make_tensor_value_info("y", kind, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def lookup(path, rows=(11, 4)):
    """Token ids that reach an embedding through the nodes in `path`."""
    proto = parse(f"g (int64[N, T] ids) => (float[a, b, c] y) {{ {path} y = Gather (table, i) }}")
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(rows, "f"), "table"))
    return proto


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("x", ["batch", 3, "height", "width"], (1, 3, 64, 64)),
        ("x", ["N", 3, None, None], (1, 3, 64, 64)),
        ("x", [None, "d1", "d2", 3], (1, 64, 64, 3)),
        ("x", [None, None, None, None], (1, 3, 64, 64)),
        ("ids", ["batch", "sequence"], (1, 8)),
        ("past", ["batch", 4, "past_length", 16], (1, 4, 8, 16)),
        ("x", [None], (1,)),
        ("x", [7, 5], (7, 5)),
        ("x", [], ()),
    ],
)
def test_free_axes_get_sizes_by_name_and_place(name, shape, expected):
    assert input_dims(fed(name, TensorProto.FLOAT, shape))[name] == expected


def test_axes_of_one_name_agree_and_sums_are_computed():
    proto = parse("""g (float[N, past] a, float[N, now] b, float[N, T] m, float[now] d) => (float[x] y)
        { y = Identity (d) }""")
    proto.graph.input[2].type.tensor_type.shape.dim[1].dim_param = "past + now"
    assert input_dims(proto, {"b": [3, 5]}) == {"a": (3, 8), "b": (3, 5), "m": (3, 13), "d": (5,)}
    with pytest.raises(InputError, match="axis 'N' was given two sizes: 3 and 4"):
        input_dims(proto, {"a": [3, 1], "b": [4, 1]})


@pytest.mark.slow
def test_weights_say_how_wide_an_input_is():
    proto = parse("g (float[N, C, L] x) => (float[a, b, c] y) { y = Conv <group = 2> (x, w) }")
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((6, 5, 3), "f"), "w"))
    assert input_dims(proto)["x"] == (1, 10, 8)
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    assert input_dims(proto)["x"] == (1, 10, 8)
    assert session(proto).run(None, sample_inputs(proto))[0].shape == (1, 6, 6)


def test_inputs_that_are_initializers_are_not_fed():
    proto = parse("g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Add (x, w) }")
    assert list(sample_inputs(proto)) == ["x"]


@pytest.mark.parametrize(
    "path",
    [
        "i = Identity (ids)",
        "a = Cast <to = 6> (ids) i = Cast <to = 7> (a)",
        "s = Constant <value = int64[1] {-1}> () i = Reshape (ids, s)",
        "s = Constant <value = int64[1] {0}> () a = Unsqueeze (ids, s) i = Squeeze (a, s)",
        "i = Concat <axis = 0> (ids, ids)",
        "z = Constant <value = int64[1] {0}> () e = Constant <value = int64[1] {1}> () i = Slice (ids, z, e)",
    ],
)
def test_token_ids_stay_within_the_table(path):
    proto = lookup(path)
    found = [sample_inputs(proto, seed=s, input_shapes={"ids": [4, 50]})["ids"] for s in range(5)]
    assert all(ids.min() >= 0 and ids.max() <= 10 for ids in found)
    assert len(np.unique(found)) > 4  # and make use of it
    session(proto).run(None, sample_inputs(proto))


def test_the_smaller_of_two_tables_counts():
    proto = lookup("i = Identity (ids) k = Identity (ids) z = Gather (small, k)")
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((2, 4), "f"), "small"))
    assert sample_inputs(proto, input_shapes={"ids": [4, 50]})["ids"].max() == 1


def test_the_axis_that_is_indexed_counts():
    proto = parse("g (int64[K] i) => (float[a, b] y) { y = Gather <axis = 1> (table, i) }")
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((2, 40), "f"), "table"))
    assert 2 <= sample_inputs(proto, input_shapes={"i": [200]})["i"].max() <= 39


def test_a_table_in_a_branch_or_a_function_counts():
    inner = parse("""g (bool c, int64[N, T] ids) => (float[a, b, d] y) <float[5, 2] t = {1,1,1,1,1,1,1,1,1,1}> {
        y = If (c) < then_branch = u () => (float[a, b, d] p) { p = Gather (t, ids) },
                     else_branch = v () => (float[a, b, d] q) { q = Gather (t, ids) } > }""")
    called = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "f" : 1]>
        g (int64[N, T] ids) => (float[a, b, d] y) <float[5, 2] t = {1,1,1,1,1,1,1,1,1,1}> { y = f.Look (t, ids) }
        <domain: "f", opset_import: ["" : 17]> Look (u, i) => (o) { o = Gather (u, i) }""")
    for proto in (inner, called):
        ids = sample_inputs(proto, input_shapes={"ids": [4, 50]})["ids"]
        assert 1 < ids.max() <= 4


@pytest.mark.parametrize(
    ("name", "kind", "shape", "expected"),
    [
        ("attention_mask", TensorProto.INT64, [2, 3], np.ones((2, 3), np.int64)),
        ("mask", TensorProto.FLOAT, [2], np.ones(2, np.float32)),
        ("flag", TensorProto.BOOL, [2], np.array([True, True])),
        ("token_type_ids", TensorProto.INT64, [2, 3], np.zeros((2, 3), np.int64)),
        ("segment", TensorProto.INT32, [3], np.zeros(3, np.int32)),
        ("text", TensorProto.STRING, [2], np.array(["", ""], dtype=object)),
    ],
)
def test_names_and_types_settle_values(name, kind, shape, expected):
    np.testing.assert_array_equal(sample_inputs(fed(name, kind, shape))[name], expected, strict=True)


def test_other_values_are_plausible():
    floats = sample_inputs(fed("x", TensorProto.FLOAT16, [100, 100]))["x"]
    assert floats.dtype == np.float16
    assert abs(floats.astype("f").mean()) < 0.05 and abs(floats.astype("f").std() - 1) < 0.05
    assert set(np.unique(sample_inputs(fed("n", TensorProto.INT64, [99]))["n"])) == {0, 1}
    image = sample_inputs(fed("x", TensorProto.UINT8, [1, 3, 64, 64]))["x"]
    assert image.min() < 5 and image.max() > 250
    scalar = sample_inputs(fed("x", TensorProto.FLOAT, []))["x"]
    assert isinstance(scalar, np.ndarray) and scalar.shape == ()


def test_a_seed_gives_its_arrays_again():
    proto = fed("x", TensorProto.FLOAT, ["N", 4])
    one, same, other = (sample_inputs(proto, seed=s)["x"] for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert sample_inputs(proto, batch=2)["x"].shape == (2, 4)
    assert sample_inputs(proto, sizes=Sizes(batch=5))["x"].shape == (5, 4)


def test_inputs_that_cannot_be_made_are_told():
    proto = fed("x", TensorProto.FLOAT, None)
    with pytest.raises(InputError, match="'x' has no declared shape") as caught:
        sample_inputs(proto)
    assert "--input-shape x:" in caught.value.hint.command_line
    assert sample_inputs(proto, input_shapes={"x": [2, 2]})["x"].shape == (2, 2)
    proto.graph.input[0].type.CopyFrom(helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [2])))
    with pytest.raises(InputError, match="'x' is a sequence, not a tensor"):
        sample_inputs(proto)
