"""Costs, held against what can be counted by hand."""

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from onnxprune.cost.macs import macs_from_shapes
from onnxprune.cost.measure import Cost, mainly_convolutions, measure, parameters
from onnxprune.errors import InputError
from onnxprune.graph.operators import known_operators
from onnxprune.model.model import load, save
from tests.ops.case import build


def one_node(op, inputs, output, *, domain="", opset=17, outputs=1, **attributes):
    """A model of one node; inputs are (name, shape, is a weight) and all float."""
    node = helper.make_node(
        op, [n for n, _, _ in inputs], ["y", *(f"y{i}" for i in range(1, outputs))], domain=domain, **attributes
    )
    weights = [numpy_helper.from_array(np.ones(s, "f"), n) for n, s, is_weight in inputs if is_weight and n]
    fed = [helper.make_tensor_value_info(n, 1, s) for n, s, is_weight in inputs if not is_weight]
    graph = helper.make_graph([node], "g", fed, [helper.make_tensor_value_info("y", 1, output)], weights)
    sets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return load(helper.make_model(graph, opset_imports=sets, ir_version=8))


MS = "com.microsoft"


def quantised(op, inputs, output, **attributes):
    """A node whose operands each have a scale and a zero point after them."""
    (name, shape, _), (weight, dims, _) = inputs
    rest = [(f"{n}_{k}", (1,), True) for n in (name, weight) for k in ("scale", "zero")]
    operands = [(name, shape, False), *rest[:2], (weight, dims, True), *rest[2:]]
    return one_node(op, operands, output, **attributes)


def x(*shape):
    return ("x", shape, False)


def w(*shape, name="w"):
    return (name, shape, True)


HAND_COUNTED = {
    # every output element: input channels per group times window
    "Conv": (one_node("Conv", [x(1, 8, 10, 12), w(16, 8, 3, 3)], [1, 16, 8, 10]), 16 * 8 * 10 * (8 * 9)),
    "grouped": (one_node("Conv", [x(1, 8, 5, 5), w(16, 2, 1, 1)], [1, 16, 5, 5], group=4), 16 * 25 * 2),
    # every input element: output channels times window
    "ConvTranspose": (
        one_node("ConvTranspose", [x(1, 8, 5, 5), w(8, 4, 2, 2)], [1, 4, 10, 10], strides=[2, 2]),
        8 * 25 * 4 * 4,
    ),
    "Gemm": (one_node("Gemm", [x(5, 7), w(3, 7)], [5, 3], transB=1), 5 * 7 * 3),
    "Gemm transA": (one_node("Gemm", [x(7, 5), w(7, 3)], [5, 3], transA=1), 5 * 7 * 3),
    "MatMul": (one_node("MatMul", [x(2, 4, 5, 7), w(7, 3)], [2, 4, 5, 3]), 2 * 4 * 5 * 7 * 3),
    "batched MatMul": (one_node("MatMul", [x(2, 4, 5, 7), ("z", (2, 4, 7, 6), False)], [2, 4, 5, 6]), 8 * 5 * 7 * 6),
    "MatMul of a vector": (one_node("MatMul", [x(7), w(7, 3)], [3]), 7 * 3),
    "Einsum": (one_node("Einsum", [x(2, 5, 7), w(7, 3, 4)], [2, 5, 3, 4], equation="bsd, dhk -> bshk"), 2 * 5 * 7 * 12),
    "Einsum dots": (
        one_node("Einsum", [x(2, 6, 5, 7), w(7, 3)], [2, 6, 5, 3], equation="...ij,jk->...ik"),
        12 * 35 * 3,
    ),
    # 4 gates, 2 directions: input and recurrent weights once a step and sequence
    "LSTM": (
        one_node(
            "LSTM",
            [x(9, 2, 5), w(2, 24, 5), w(2, 24, 6, name="r")],
            [9, 2, 2, 6],
            hidden_size=6,
            direction="bidirectional",
        ),
        9 * 2 * 2 * 24 * (5 + 6),
    ),
    "GRU": (
        one_node("GRU", [x(9, 2, 5), w(1, 18, 5), w(1, 18, 6, name="r")], [9, 1, 2, 6], hidden_size=6),
        18 * 18 * 11,
    ),
    "none": (one_node("Relu", [x(4, 4)], [4, 4]), 0),
    "FusedMatMul": (one_node("FusedMatMul", [x(7, 5), w(7, 3)], [5, 3], domain="com.microsoft", transA=1), 5 * 7 * 3),
    # width 12 in 3 heads: projection to 36, then scores and values of 12 for each pair of 5 positions
    "Attention": (
        one_node("Attention", [x(2, 5, 12), w(12, 36)], [2, 5, 12], domain="com.microsoft", num_heads=3),
        2 * 5 * 12 * 36 + 2 * 5 * 5 * (12 + 12),
    ),
    "MultiHeadAttention": (
        one_node(
            "MultiHeadAttention",
            [x(2, 5, 12), ("k", (2, 8, 12), False), ("v", (2, 8, 6), False)],
            [2, 5, 6],
            domain="com.microsoft",
            num_heads=3,
        ),
        2 * 5 * 8 * (12 + 6),
    ),
    "Attention of onnx": (
        one_node(
            "Attention", [x(2, 3, 5, 4), ("k", (2, 3, 8, 4), False), ("v", (2, 3, 8, 6), False)], [2, 3, 5, 6], opset=23
        ),
        2 * 3 * 5 * 8 * (4 + 6),
    ),
    # 7 keys of earlier calls, and caches that nothing reads
    "Attention of onnx with a past": (
        one_node(
            "Attention",
            [
                x(2, 5, 24),
                ("k", (2, 8, 8), False),
                ("v", (2, 8, 12), False),
                ("", (), True),
                w(2, 2, 7, 4, name="pk"),
                w(2, 2, 7, 6, name="pv"),
            ],
            [2, 5, 36],
            outputs=3,
            opset=23,
            q_num_heads=6,
            kv_num_heads=2,
        ),
        2 * 6 * 5 * 15 * (4 + 6),
    ),
    # the operands between activation and weight are scales and zero points
    "QLinearConv": (quantised("QLinearConv", [x(1, 8, 6, 6), w(16, 8, 3, 3)], [1, 16, 4, 4]), 16 * 4 * 4 * 8 * 9),
    "QLinearConv of onnxruntime": (
        quantised("QLinearConv", [x(1, 8, 6, 6), w(16, 8, 3, 3)], [1, 16, 4, 4], domain=MS),
        16 * 4 * 4 * 8 * 9,
    ),
    "ConvInteger": (one_node("ConvInteger", [x(1, 8, 6, 6), w(16, 8, 3, 3)], [1, 16, 4, 4]), 16 * 4 * 4 * 8 * 9),
    "DeformConv": (
        one_node("DeformConv", [x(1, 8, 6, 6), w(16, 8, 3, 3), ("o", (1, 18, 4, 4), False)], [1, 16, 4, 4], opset=19),
        16 * 4 * 4 * 8 * 9,
    ),
    "FusedConv": (one_node("FusedConv", [x(1, 8, 6, 6), w(16, 8, 3, 3)], [1, 16, 4, 4], domain=MS), 16 * 16 * 72),
    "NhwcFusedConv": (
        one_node("NhwcFusedConv", [x(1, 6, 6, 8), w(16, 8, 3, 3)], [1, 4, 4, 16], domain=MS),
        16 * 16 * 72,
    ),
    "NhwcConv": (one_node("NhwcConv", [x(1, 6, 6, 8), w(16, 3, 3, 8)], [1, 4, 4, 16], domain=MS), 16 * 16 * 72),
    "Conv of a layout": (
        one_node("Conv", [x(1, 6, 6, 8), w(16, 8, 3, 3)], [1, 4, 4, 16], domain="com.ms.internal.nhwc"),
        16 * 16 * 72,
    ),
    "FusedConv of a layout": (
        one_node("FusedConv", [x(1, 6, 6, 8), w(16, 8, 3, 3)], [1, 4, 4, 16], domain="com.ms.internal.nhwc"),
        16 * 16 * 72,
    ),
    "MatMulInteger": (one_node("MatMulInteger", [x(5, 7), w(7, 3)], [5, 3]), 5 * 7 * 3),
    "QLinearMatMul": (quantised("QLinearMatMul", [x(5, 7), w(7, 3)], [5, 3]), 5 * 7 * 3),
    "QGemm": (quantised("QGemm", [x(5, 7), w(7, 3)], [5, 3], domain=MS), 5 * 7 * 3),
    "FusedGemm": (one_node("FusedGemm", [x(5, 7), w(7, 3)], [5, 3], domain=MS), 5 * 7 * 3),
    "GemmFastGelu": (one_node("GemmFastGelu", [x(5, 7), w(7, 3)], [5, 3], domain=MS), 5 * 7 * 3),
    "TransposeMatMul": (one_node("TransposeMatMul", [x(7, 5), w(7, 3)], [5, 3], domain=MS, transA=1), 5 * 7 * 3),
    "FusedMatMulActivation": (one_node("FusedMatMulActivation", [x(5, 7), w(7, 3)], [5, 3], domain=MS), 5 * 7 * 3),
    # axis 0 of (7, 2, 5) goes after the batch of 2: matrices of (7, 5), transposed
    "FusedMatMul with batches exchanged": (
        one_node("FusedMatMul", [x(7, 2, 5), w(2, 7, 3)], [2, 5, 3], domain=MS, transA=1, transBatchA=1),
        2 * 5 * 7 * 3,
    ),
    "DynamicQuantizeMatMul": (one_node("DynamicQuantizeMatMul", [x(5, 7), w(7, 3)], [5, 3], domain=MS), 5 * 7 * 3),
    "MatMulIntegerToFloat": (one_node("MatMulIntegerToFloat", [x(5, 7), w(7, 3)], [5, 3], domain=MS), 5 * 7 * 3),
    "MatMulNBits": (one_node("MatMulNBits", [x(5, 32), w(3, 1, 16)], [5, 3], domain=MS, K=32, N=3), 5 * 32 * 3),
    "MatMulBnb4": (one_node("MatMulBnb4", [x(5, 32), w(48)], [5, 3], domain=MS, K=32, N=3), 5 * 32 * 3),
    "MatMulFpQ4": (one_node("MatMulFpQ4", [x(5, 32), w(48)], [5, 3], domain=MS), 5 * 32 * 3),
    "RNN": (one_node("RNN", [x(9, 2, 5), w(1, 6, 5), w(1, 6, 6, name="r")], [9, 1, 2, 6], hidden_size=6), 18 * 6 * 11),
    "DynamicQuantizeLSTM": (
        one_node(
            "DynamicQuantizeLSTM",
            [x(9, 2, 5), w(1, 5, 24), w(1, 6, 24, name="r")],
            [9, 1, 2, 6],
            domain=MS,
            hidden_size=6,
        ),
        18 * 24 * 11,
    ),
    "QAttention": (
        one_node("QAttention", [x(2, 5, 12), w(12, 36)], [2, 5, 12], domain=MS, num_heads=3),
        2 * 5 * 12 * 36 + 2 * 5 * 5 * (12 + 12),
    ),
    # 4 query heads and 2 of keys and values, of 3 each
    "GroupQueryAttention": (
        one_node(
            "GroupQueryAttention",
            [x(2, 5, 12), ("k", (2, 5, 6), False), ("v", (2, 5, 6), False)],
            [2, 5, 12],
            domain=MS,
            num_heads=4,
            kv_num_heads=2,
        ),
        2 * 5 * 5 * (12 + 12),
    ),
    # 2 of 6 experts a token
    "MoE": (
        one_node(
            "MoE",
            [x(5, 8), ("g", (5, 6), False), w(6, 8, 10), ("", (), False), w(6, 10, 8, name="u")],
            [5, 8],
            domain=MS,
            k=2,
        ),
        2 * 5 * (8 * 10 + 10 * 8),
    ),
}


def test_every_operator_that_counts_is_counted_by_hand() -> None:
    counts = {key for key, operator in known_operators().items() if operator.macs is not None}
    by_hand = {(n.domain, n.op_type) for model, _ in HAND_COUNTED.values() for n in model.proto.graph.node}
    assert counts - by_hand == set()


@pytest.mark.parametrize("case", HAND_COUNTED)
def test_macs_are_those_counted_by_hand(case):
    model, expected = HAND_COUNTED[case]
    assert measure(model).macs == expected


def test_an_operator_of_another_domain_is_not_mistaken():
    assert measure(one_node("MatMul", [x(2, 3), w(3, 4)], [2, 4], domain="elsewhere")).macs == 0


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
