"""Gradients of fused attention: those of the operators that it is made of, in onnxruntime."""

from __future__ import annotations

import pytest

from onnxprune.gradients.differentiate import differentiate
from onnxprune.model.model import Model
from tests.gradients.test_fused import assert_alike
from tests.ops.case import build

HEADS = """o = Transpose <perm = [0,2,1,3]> (r) p = Transpose <perm = [0,2,3,1]> (k)
    l = Transpose <perm = [0,2,1,3]> (z) m = MatMul(o, p) n = Mul(m, c)"""
WEIGHTED = "h = Softmax <axis = 3> (t) i = MatMul(h, l) j = Transpose <perm = [0,2,1,3]> (i) y = Reshape(j, es)"
THREE = "float[2,3,4] x, float[2,5,4] s, float[2,5,6] w"
PARTED = "r = Reshape(f, eq) k = Reshape(g, eq) z = Reshape(u, ev)"
NUMBERS = {
    "c": 2**-0.5,
    "eq": [0, 0, 2, 2],
    "ev": [0, 0, 2, 3],
    "es": [0, 0, 6],
    "em": [[1, 1, 1, 0, 1], [0, 1, 1, 1, 1]],
}
KINDS = "float c, int64[4] eq, int64[4] ev, int64[3] es, int32[2,5] em"


def test_heads() -> None:
    interface = f"({THREE}, float[1,2,3,5] b) => (float[2,3,6] y) <{KINDS}>"
    texts = [
        f"{interface} {{ y = com.microsoft.MultiHeadAttention <num_heads = 2> (x, s, w, , , b) }}",
        f"{interface} {{ f = Identity(x) g = Identity(s) u = Identity(w) {PARTED} {HEADS} t = Add(n, b) {WEIGHTED} }}",
    ]
    assert_alike(texts, ["x", "s", "w", "b"], NUMBERS)


def test_heads_with_a_bias_and_a_mask() -> None:
    interface = f"({THREE}) => (float[2,3,6] y) <float[14] b, {KINDS}, int64[3] e0, float e1, float e2>"
    texts = [
        f"{interface} {{ y = com.microsoft.MultiHeadAttention <num_heads = 2> (x, s, w, b, em) }}",
        f"""{interface} {{ a, d, v = Split(b, e0) f = Add(x, a) g = Add(s, d) u = Add(w, v) {PARTED} {HEADS}
            q = Cast <to = 1> (em) e = Sub(e1, q) aa = Mul(e, e2) ab = Constant <value_ints = [1, 2]> ()
            ac = Unsqueeze(aa, ab) t = Add(n, ac) {WEIGHTED} }}""",
    ]
    assert_alike(texts, ["x", "s", "w", "b"], {**NUMBERS, "e0": [4, 4, 6], "e1": 1, "e2": -10000})


def test_heads_behind_one_product() -> None:
    interface = f"(float[2,5,4] x) => (float[2,5,6] y) <float[4,14] w, float[14] b, {KINDS}, int64[3] e0>"
    texts = [
        f"""{interface} {{ y = com.microsoft.Attention <num_heads = 2, qkv_hidden_sizes = [4, 4, 6]> (x, w, b) }}""",
        f"""{interface} {{ a = MatMul(x, w) d = Add(a, b) f, g, u = Split <axis = 2> (d, e0) {PARTED} {HEADS}
            t = Identity(n) {WEIGHTED} }}""",
    ]
    assert_alike(texts, ["x", "w", "b"], {**NUMBERS, "e0": [4, 4, 6]})


STANDARD = "float[2,4,3,2] x, float[2,2,5,2] s, float[2,2,5,3] w"


@pytest.mark.parametrize(
    ("attributes", "mask", "hides"),
    [
        ("", ", float[3,5] b", "t = Add(n, b)"),
        ("", ", bool[3,5] b", "t = Where(b, n, least)"),
        ("is_causal = 1, scale = 0.7", "", "t = Where(causal, n, least)"),
    ],
)
def test_queries_that_share_keys(attributes: str, mask: str, hides: str) -> None:
    interface = f"({STANDARD}{mask}) => (float[2,4,3,3] y) <float c, int64[5] e0, int64[4] e1, int64[4] e2, bool[3,5] causal, float least, int64[1] ax>"
    given = "x, s, w, b" if mask else "x, s, w"
    texts = [
        f"{interface} {{ y = Attention <{attributes}> ({given}) }}".replace("<> ", ""),
        f"""{interface} {{ a = Unsqueeze(s, ax) d = Unsqueeze(w, ax) f = Expand(a, e0) g = Expand(d, e0)
            k = Reshape(f, e1) v = Reshape(g, e2) p = Transpose <perm = [0,1,3,2]> (k) m = MatMul(x, p) n = Mul(m, c)
            {hides} h = Softmax <axis = 3> (t) y = MatMul(h, v) }}""",
    ]
    causal = [[column <= row for column in range(5)] for row in range(3)]
    numbers = {
        "c": 0.7 if "scale" in attributes else 2**-0.5,
        "e0": [1, 1, 2, 1, 1],
        "e1": [2, 4, 5, 2],
        "e2": [2, 4, 5, 3],
    }
    names = ["x", "s", "w", *(["b"] if "float[3,5]" in mask else [])]
    assert_alike(texts, names, {**numbers, "causal": causal, "least": -1e30, "ax": [2]}, opset=23)


def test_flat_queries() -> None:
    interface = "(float[2,3,4] x, float[2,5,4] s, float[2,5,6] w) => (float[2,3,6] y)"
    ends = f"{interface} <{KINDS}>"
    texts = [
        f"{ends} {{ y = Attention <q_num_heads = 2, kv_num_heads = 2> (x, s, w) }}",
        f"{ends} {{ f = Identity(x) g = Identity(s) u = Identity(w) {PARTED} {HEADS} t = Identity(n) {WEIGHTED} }}",
    ]
    assert_alike(texts, ["x", "s", "w"], NUMBERS, opset=23)


@pytest.mark.parametrize(
    ("node", "says"),
    [
        ("com.microsoft.MultiHeadAttention <num_heads = 2, unidirectional = 1> (x, x, x)", "attribute unidirectional"),
        ("com.microsoft.MultiHeadAttention <num_heads = 2> (x)", "packed"),
        ("Attention <q_num_heads = 2, kv_num_heads = 2, softcap = 1.5> (x, x, x)", "attribute softcap"),
    ],
)
def test_what_has_no_gradient(node: str, says: str) -> None:
    text = f"(float[2,3,4] x) => (float[2,3,4] y) {{ y = {node} }}"
    made = differentiate(Model(build(text, 23, domains=["com.microsoft"])), ["y"], ["x"])
    assert says in made.reasons["x"]
