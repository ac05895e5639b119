"""Multiply-accumulates of every operator that has any, counted by hand."""

import pytest

from onnxprune.cost.measure import measure
from onnxprune.graph.operators import known_operators
from tests.support.one_node import one_node, w, x

MS = "com.microsoft"


def quantised(op, inputs, output, **attributes):
    """A node whose operands each have a scale and a zero point after them."""
    (name, shape, _), (weight, dims, _) = inputs
    rest = [(f"{n}_{k}", (1,), True) for n in (name, weight) for k in ("scale", "zero")]
    operands = [(name, shape, False), *rest[:2], (weight, dims, True), *rest[2:]]
    return one_node(op, operands, output, **attributes)


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
            [x(5, 8), ("g", (5, 6), False), w(6, 10, 8), ("", (), False), w(6, 8, 10, name="u")],
            [5, 8],
            domain=MS,
            k=2,
        ),
        2 * 5 * (8 * 10 + 10 * 8),
    ),
    # the same with two numbers a byte
    "QMoE": (
        one_node(
            "QMoE",
            [x(5, 8), ("g", (5, 6), False), w(6, 10, 4), w(6, 10, name="s"), ("", (), False), w(6, 8, 5, name="u")],
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
