"""Gradient rules of normalisations and recurrent layers, held to central differences."""

from __future__ import annotations

import numpy as np
import pytest

from tests.gradients.cases import Row
from tests.gradients.differences import check, session
from tests.support.lanes import spread

ROWS = [
    Row(
        "BatchNormalization",
        "(real[2,3,4] x) => (real[2,3,4] y) <real[3] s, real[3] b, real[3] m, real[3] v> { y = BatchNormalization (x, s, b, m, v) }",
        {"v": np.array([0.6, 1.1, 1.7])},
    ),
    Row(
        "LayerNormalization",
        "(real[2,3,4] x) => (real[2,3,4] y) <real[4] s, real[4] b> { y = LayerNormalization (x, s, b) }",
    ),
    Row(
        "RotaryEmbedding",
        "(real[1,2,3,4] x) => (real[1,2,3,4] y) <real[5,2] kc, real[5,2] ks, int64[1,3] k> { y = RotaryEmbedding (x, kc, ks, k) }",
        {"k": [[4, 0, 2]]},
        opset=23,
    ),
    Row(
        "LayerNormalization of two",
        "(real[2,3,4] x) => (real[2,3,4] y) <real[3,4] s> { y = LayerNormalization <axis = 1> (x, s) }",
    ),
    Row(
        "InstanceNormalization",
        "(real[2,3,4,2] x) => (real[2,3,4,2] y) <real[3] s, real[3] b> { y = InstanceNormalization (x, s, b) }",
    ),
    Row(
        "GroupNormalization",
        "(real[2,4,3,2] x) => (real[2,4,3,2] y) <real[2] s, real[2] b> { y = GroupNormalization <num_groups = 2> (x, s, b) }",
    ),
    Row(
        "LSTM",
        "(real[3,2,4] x, real[1,2,3] h, real[1,2,3] c) => (real[3,1,2,3] y, real[1,2,3] e, real[1,2,3] f) <real[1,12,4] w, real[1,12,3] r, real[1,24] b> { y, e, f = LSTM <hidden_size = 3> (x, w, r, b, "
        ", h, c) }",
    ),
    Row(
        "LSTM with peepholes",
        "(real[3,2,4] x, real[1,2,3] c) => (real[3,1,2,3] y, real[1,2,3] e, real[1,2,3] f) <real[1,12,4] w, real[1,12,3] r, real[1,24] b, real[1,9] p> { y, e, f = LSTM <hidden_size = 3> (x, w, r, b, , , c, p) }",
    ),
    Row(
        "LSTM without biases",
        "(real[3,2,4] x) => (real[1,2,3] e) <real[1,12,4] w, real[1,12,3] r> { y, e = LSTM <hidden_size = 3> (x, w, r) }",
    ),
    Row(
        "GRU",
        "(real[3,2,4] x, real[1,2,3] h) => (real[3,1,2,3] y, real[1,2,3] e) <real[1,9,4] w, real[1,9,3] r, real[1,18] b> { y, e = GRU <hidden_size = 3, linear_before_reset = 1> (x, w, r, b, "
        ", h) }",
    ),
    Row(
        "GRU that resets the state",
        "(real[3,2,4] x, real[1,2,3] h) => (real[3,1,2,3] y, real[1,2,3] e) <real[1,9,4] w, real[1,9,3] r, real[1,18] b> { y, e = GRU <hidden_size = 3> (x, w, r, b, , h) }",
    ),
    Row(
        "RNN",
        "(real[3,2,4] x, real[1,2,3] h) => (real[3,1,2,3] y, real[1,2,3] e) <real[1,3,4] w, real[1,3,3] r, real[1,6] b> { y, e = RNN <hidden_size = 3> (x, w, r, b, , h) }",
    ),
    Row(
        "GroupNormalization 21",
        "(real[2,4,3,2] x) => (real[2,4,3,2] y) <real[4] s, real[4] b> { y = GroupNormalization <num_groups = 2, stash_type = TYPE> (x, s, b) }",
        opset=21,
    ),
    Row("LpNormalization", "(real[2,3,4] x) => (real[2,3,4] y) { y = LpNormalization <axis = 1> (x) }"),
]
IN_ONNXRUNTIME = [
    Row(
        "RMSNormalization",
        "(real[2,3,4] x) => (real[2,3,4] y) <real[3,4] s> { y = RMSNormalization <axis = 1, stash_type = TYPE> (x, s) }",
        opset=23,
    ),
    Row("LpNormalization of sums", "(real[2,3,4] x) => (real[2,3,4] y) { y = LpNormalization <axis = 1, p = 1> (x) }"),
]
"""onnx's own evaluator computes them in single precision, or another norm."""


@pytest.mark.slow
@pytest.mark.parametrize("row", spread(ROWS), ids=lambda row: row.name)
def test_rule(row: Row) -> None:
    check(row)


@pytest.mark.parametrize("row", IN_ONNXRUNTIME, ids=lambda row: row.name)
def test_rule_in_onnxruntime(row: Row) -> None:
    check(row, session)
