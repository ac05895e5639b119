"""Products: contraction axes are tied to each other, batch axes to the output."""

from __future__ import annotations

import pytest

from tests.ops.case import Case, check
from tests.support.lanes import spread

CASES = [
    Case("Gemm", """(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[6] b, float[6,2] v, float[2] c>
        { h = Gemm(x, w, b)  r = Relu(h)  y = Gemm(r, v, c) }""", {"w:1": "6 exact"}),
    Case("Gemm transB, scaled", """(float[N,3] x) => (float[N,2] y) <float[6,3] w, float[6] b, float[2,6] v>
        { h = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, w, b)  y = Gemm <transB = 1> (h, v) }""",
         {"w:0": "6 exact"}),
    Case("Gemm transA", """(float[3,5] x) => (float[5,2] y) <float[3,6] w, float[6,2] v>
        { h = Gemm <transA = 1> (x, w)  t = Transpose(h)  y = Gemm <transA = 1> (t, v) }""", {"w:1": "6 exact"}),
    Case("Gemm with a weight on the left", """(float[3,5] x) => (float[2,5] y) <float[3,6] w, float[2,6] v>
        { h = Gemm <transA = 1> (w, x)  y = Gemm(v, h) }""", {"w:1": "6 exact"}),
    Case("Gemm scalar bias sums up", """(float[N,3] x) => (float[N,1] y) <float[3,6] w, float b, int64[1] one>
        { h = Gemm(x, w, b)  y = ReduceSum(h, one) }""", {"w:1": "6 mixing: sums over the axis"},
         constants={"one": 1}),
    Case("Gemm row bias sums up", """(float[N,3] x) => (float[N,1] y) <float[3,6] w, float[1,6] b, int64[1] one>
        { h = Gemm(x, w, b)  y = ReduceSum(h, one) }""", {"w:1": "6 exact"}, constants={"one": 1}),
    Case("Gemm column bias sums up", """(float[4,3] x) => (float[4,1] y) <float[3,6] w, float[4,1] b, int64[1] one>
        { h = Gemm(x, w, b)  y = ReduceSum(h, one) }""", {"w:1": "6 mixing: sums over the axis"},
         constants={"one": 1}),
    Case("Gemm full bias", """(float[4,3] x) => (float[4,2] y) <float[3,6] w, float[4,6] b, float[6,2] v>
        { h = Gemm(x, w, b)  y = Gemm(h, v) }""", {"w:1": "6 exact"}),
    Case("Gemm unit bias", """(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[1] b, float[6,2] v>
        { h = Gemm(x, w, b)  y = Gemm(h, v) }""", {"w:1": "6 exact"}),
    Case("MatMul batched weights", """(float[2,4,3] x) => (float[2,4,2] y) <float[2,3,6] w, float[2,6,2] v>
        { h = MatMul(x, w)  y = MatMul(h, v) }""", {"w:2": "6 exact"}),
    Case("MatMul broadcasts its batch", """(float[1,4,3] x) => (float[4,2] y) <float[5,3,6] w, float[5,6,2] v, int64[1] nil>
        { h = MatMul(x, w)  r = Relu(h)  p = MatMul(r, v)  y = ReduceSum <keepdims = 0> (p, nil) }""",
         {"w:0": "5 exact", "w:2": "6 exact"}, constants={"nil": 0}),
    Case("MatMul weight on the left", """(float[3,4] x) => (float[2,4] y) <float[6,3] w, float[2,6] v>
        { h = MatMul(w, x)  y = MatMul(v, h) }""", {"w:0": "6 exact"}),
    Case("MatMul with a vector", """(float[N,3] x) => (float[N] y) <float[3,6] w, float[6] v>
        { h = MatMul(x, w)  y = MatMul(h, v) }""", {"w:1": "6 exact"}),
    Case("MatMul of a vector", """(float[3] x) => (float[2] y) <float[3,6] w, float[6,2] v>
        { h = MatMul(x, w)  y = MatMul(h, v) }""", {"w:1": "6 exact"}),
    Case("MatMul of two vectors", """(float[3] x) => (float y) <float[3,6] w, float[6] v>
        { h = MatMul(x, w)  y = MatMul(h, v) }""", {"w:1": "6 exact"}),
    Case("MatMul of a vector and a batch", """(float[3] x) => (float[4,2] y) <float[3,6] w, float[4,6,2] v>
        { h = MatMul(x, w)  y = MatMul(h, v) }""", {"w:1": "6 exact"}),
    Case("MatMul of a vector and a stack", """(float[3] x) => (float[2,4] y) <float[6,3,4] w, float[2,6] v>
        { h = MatMul(x, w)  y = MatMul(v, h) }""", {"w:0": "6 exact"}),
    Case("MatMul of activations", """(float[N,4,3] x) => (float[N,4,4] y) <float[3,6] w, float[3,6] u>
        { q = MatMul(x, w)  k = MatMul(x, u)  t = Transpose <perm = [0, 2, 1]> (k)  y = MatMul(q, t) }""",
         {"w:1": "6 exact"}),
    Case("MatMul contraction that is zero on one side only",
         """(float[N,4,3] x) => (float[N,4,4] y) <float[3,6] w, float[3,6] u>
        { q = MatMul(x, w)  s = Sigmoid(q)  k = MatMul(x, u)  t = Transpose <perm = [0, 2, 1]> (k)  y = MatMul(s, t) }""",
         {"w:1": "6 exact"}),
    Case("MatMul contraction that is zero on neither side",
         """(float[N,4,3] x) => (float[N,4,4] y) <float[3,6] w, float[3,6] u>
        { q = MatMul(x, w)  s = Sigmoid(q)  k = MatMul(x, u)  e = Exp(k)  t = Transpose <perm = [0, 2, 1]> (e)
          y = MatMul(s, t) }""", {"w:1": "6 mixing: sums over the axis"}),
    Case("MatMul whose batch a free length may stretch",
         """(float[K,1,3] x) => (float[1,1,2] y) <float[4,3,2] w, int64[1] nil>
        { h = MatMul(x, w)  y = ReduceSum(h, nil) }""", {"w:0": "4 pinned: whether x is stretched here is not known"},
         feeds={"x": [[[1, 2, 3]]] * 4}, constants={"nil": 0}),
    Case("Einsum as a product", """(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[6,2] v>
        { h = Einsum <equation = "ij,jk->ik"> (x, w)  y = Einsum <equation = "ij,jk"> (h, v) }""", {"w:1": "6 exact"}),
    Case("Einsum transposes", """(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[6,2] v>
        { h = Einsum <equation = "ij, jk -> ki"> (x, w)  y = Einsum <equation = "kn,ko->no"> (h, v) }""",
         {"w:1": "6 exact"}),
    Case("Einsum sums a letter that is zero once masked", """(float[N,3] x) => (float[N] y) <float[3,6] w>
        { h = MatMul(x, w)  y = Einsum <equation = "ij->i"> (h) }""", {"w:1": "6 exact"}),
    Case("Einsum sums a letter that is not", """(float[N,3] x) => (float[N] y) <float[3,6] w>
        { h = MatMul(x, w)  s = Sigmoid(h)  y = Einsum <equation = "ij->i"> (s) }""",
         {"w:1": "6 mixing: sums over the axis"}),
    Case("Einsum attention carries heads", """(float[N,5,3] x) => (float[N,5,2] y)
        <float[3,4,6] q, float[3,4,6] k, float[3,4,6] v, float[4,6,2] o>
        { a = Einsum <equation = "bsd,dhk->bshk"> (x, q)  b = Einsum <equation = "bsd,dhk->bshk"> (x, k)
          c = Einsum <equation = "bsd,dhk->bshk"> (x, v)  l = Einsum <equation = "bqhd,bkhd->bhqk"> (a, b)
          p = Softmax <axis = -1> (l)  m = Einsum <equation = "bhqk,bkhd->bqhd"> (p, c)
          y = Einsum <equation = "bqhd,hdo->bqo"> (m, o) }""",
         {"q:1": "4 exact", "q:2": "6 exact", "v:2": "6 exact"}),
    Case("Einsum of a diagonal", """(float[N,3] x) => (float[N,6] y) <float[3,6] w, float[6,6] v>
        { h = MatMul(x, w)  d = Einsum <equation = "ii->i"> (v)  y = Mul(h, d) }""",
         {"w:1": "6 pinned: takes a diagonal"}),
    Case("Einsum with an ellipsis", """(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[6,2] v>
        { h = MatMul(x, w)  y = Einsum <equation = "...i,ij->...j"> (h, v) }""",
         {"w:1": "6 exact"}),
]


@pytest.mark.parametrize("case", spread(CASES, 4), ids=lambda c: c.name)
def test_removal_equals_masking(case: Case) -> None:
    check(case)
