"""Costs of whole models: parameters, bytes, and MACs where shapes are free, computed or unknown."""

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from onnxprune.cost.macs import macs_from_shapes
from onnxprune.cost.measure import Cost, mainly_convolutions, measure, parameters
from onnxprune.errors import InputError
from onnxprune.model.model import load
from onnxprune.model.save import save
from tests.ops.case import build
from tests.support.one_node import one_node, w, x


def test_parameters_are_weights_with_more_than_one_element():
    counted = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT8", "UINT8", "INT4", "FLOAT8E4M3FN")
    kinds = {**dict.fromkeys(counted, 6), **dict.fromkeys(("INT32", "INT64", "BOOL"), 0)}
    for name, expected in kinds.items():
        proto = one_node("Relu", [x(4)], [4]).proto
        kind = TensorProto.DataType.Value(name)
        proto.graph.initializer.append(helper.make_tensor("t", kind, [2, 3], [1] * 6))
        proto.graph.initializer.append(helper.make_tensor("s", kind, [], [1]))
        assert parameters(proto) == expected, name


NESTED = """
<ir_version: 8, opset_import: ["" : 17]>
g (bool c, float[1, 2] x) => (float[1, 2] y) <float[2, 2] w = {1, 2, 3, 4}> {
    k = Constant <value = float[2] {3, 4}> ()
    h = MatMul (x, w)
    y = If (c) <
        then_branch = t () => (float[1, 2] a) <float[2, 2] v = {5, 6, 7, 8}> { a = MatMul (h, v) },
        else_branch = f () => (float[1, 2] b) { b = Add (h, k) }
    >
}
"""


def test_parameters_of_branches_count_and_their_macs_do_not():
    cost = measure(load(parser.parse_model(NESTED)))
    assert cost.params == 4 + 2 + 4
    assert cost.macs == 4


def test_calls_of_local_functions_count():
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        g (float[5, 2] x) => (float[5, 2] y) <float[2, 2] w = {1, 2, 3, 4}> {
            h = local.Twice (x, w)
            y = local.Twice (h, w)
        }
        <domain: "local", opset_import: ["" : 17]>
        Twice (a, b) => (c) { d = MatMul (a, b) c = MatMul (d, b) }
    """)
    assert measure(load(model)).macs == 4 * 5 * 2 * 2


@pytest.mark.parametrize("external", [False, True])
def test_bytes_are_what_the_saved_files_take(tmp_path, external):
    model = one_node("MatMul", [x(1, 64), w(64, 64)], [1, 64])
    if external:
        onnx.save(model.proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.onnx.data")
    else:
        save(model, tmp_path / "m.onnx")
    total = sum(p.stat().st_size for p in tmp_path.iterdir())
    assert measure(load(tmp_path / "m.onnx")) == Cost(params=64 * 64, macs=64 * 64, bytes=total)


def free(batch="batch"):
    return one_node("Conv", [("x", (batch, 3, "height", "width"), False), w(8, 3, 1, 1)], [batch, 8, "h", "w"])


def test_a_free_batch_counts_once_and_sizes_can_be_given():
    assert measure(free()).macs == 64 * 64 * 24
    assert measure(free(), {"x": [2, 3, 10, 20]}).macs == 2 * 10 * 20 * 24


def test_stale_declared_shapes_do_not_count():
    model = free()
    model.proto.graph.node.append(helper.make_node("Conv", ["y", "v"], ["z"]))
    model.proto.graph.initializer.append(numpy_helper.from_array(np.ones((2, 8, 1, 1), "f"), "v"))
    model.proto.graph.value_info.append(helper.make_tensor_value_info("y", 1, [7, 8, 9, 9]))
    model.proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("z", 1, None))
    assert measure(model).macs == 64 * 64 * (24 + 16)


def test_given_shapes_that_do_not_fit_are_told():
    with pytest.raises(InputError, match="declared batchx3xheightxwidth, but 1x4x8x8 was given"):
        measure(free(), {"x": [1, 4, 8, 8]})
    with pytest.raises(InputError, match="no input is called 'X'") as caught:
        measure(free(), {"X": [1, 3, 8, 8]})
    assert "'x'" in caught.value.hint


def unknown_operator():
    """A product behind an operator whose output shape only a run can tell."""
    return load(
        parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "my" : 1]>
        g (float[5, 3] x) => (float[a, b] y) <float[2, 2] w = {1, 2, 3, 4}> {
            h = my.Op (x)
            y = MatMul (h, w)
        }
    """)
    )


def test_unknown_shapes_give_no_number_but_can_be_given():
    model = unknown_operator()
    assert measure(model).macs is None
    assert measure(model, shapes={"h": (9, 2), "y": (9, 2)}).macs == 9 * 2 * 2
    assert macs_from_shapes(model.proto, {"h": (9, 2), "y": (9, 2)}) == 9 * 2 * 2
    assert macs_from_shapes(model.proto, {"h": (9, 2)}) is None


def test_shapes_that_the_graph_computes_are_followed():
    """Halving an axis by arithmetic on its length, as exporters write a split."""
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 8, 5] x) => (float[N, a, b] y)
        <float[5, 3] w = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15},
         int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}> {
            shape = Shape (x)
            length = Gather (shape, one)
            half = Div (length, two)
            end = Mul (half, one)
            top = Slice (x, zero, end, one)
            y = MatMul (top, w)
        }
    """)
    assert measure(load(model)).macs == 4 * 5 * 3
    assert measure(load(model), {"x": [2, 8, 5]}).macs == 2 * 4 * 5 * 3


def test_declared_shapes_help_where_inference_cannot():
    model = unknown_operator()
    model.proto.graph.value_info.append(helper.make_tensor_value_info("h", 1, [4, 2]))
    assert measure(model).macs == 4 * 2 * 2


def test_an_input_of_unknown_rank_leaves_macs_open():
    model = one_node("Relu", [("x", None, False)], None)
    model.proto.graph.node.append(helper.make_node("MatMul", ["y", "y"], ["z"]))
    assert measure(model).macs is None


def test_counting_does_not_change_the_model():
    model = free()
    before = model.proto.SerializeToString()
    measure(model, {"x": [2, 3, 10, 20]})
    assert model.proto.SerializeToString() == before


def test_weights_are_not_read(tmp_path):
    onnx.save(one_node("MatMul", [x(1, 64), w(64, 64)], [1, 64]).proto, tmp_path / "m.onnx",
              save_as_external_data=True, location="d")  # fmt: skip
    model = load(tmp_path / "m.onnx")
    model.array = model.raw = None  # reading would fail
    assert measure(model).macs == math.prod((64, 64))


FEW_CONVOLUTIONS = """(float[N,3,{size},{size}] x) => (float[N,4] y)
    <float[8,3,3,3] a, float[8,16] b, float[16,16] c, float[16,4] d>
    {{ e = Conv(x, a)  f = Relu(e)  g = GlobalAveragePool(f)  h = Flatten(g)  i = MatMul(h, b)  j = MatMul(i, c)
       y = MatMul(j, d) }}"""


@pytest.mark.parametrize(("size", "mainly"), [("16", True), ("3", False), ("H", True)])
def test_what_a_model_mainly_consists_of_is_what_it_computes(size, mainly):
    """One convolution beside three products: 14 * 14 * 216 of 256 + 128 + 64 more, or 216."""
    model = load(build(FEW_CONVOLUTIONS.format(size=size)))
    assert mainly_convolutions(model) is mainly
    if size == "H":
        assert mainly_convolutions(model, {"x": (1, 3, 3, 3)}) is False


def test_products_of_activations_count_too():
    text = """(float[N,4,8,8] x) => (float[N,4,64] y) <float[4,4,1,1] a, int64[3] flat>
        { b = Conv(x, a)  c = Reshape(b, flat)  d = Transpose <perm = [0, 2, 1]> (c)  e = MatMul(d, c)
          y = MatMul(c, e) }"""
    assert mainly_convolutions(load(build(text, constants={"flat": [0, 4, 64]}))) is False


def test_where_macs_cannot_be_counted_layers_are():
    """An operator that nobody knows makes what the products read."""
    text = """(float[N,3,8,8] x) => (float[N,4] y) <float[8,3,3,3] a, float[8,8,3,3] b, float[16,4] d>
        { e = Conv(x, a)  f = Conv(e, b)  g = my.Own(f)  y = MatMul(g, d) }"""
    assert mainly_convolutions(load(build(text, domains=["my"]))) is True
