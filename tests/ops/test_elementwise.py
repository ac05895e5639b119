"""Operators on every element alone: channels pass, and sums behind them are exact only where f(0) = 0."""

from __future__ import annotations

import pytest

from tests.ops.case import Case, check
from tests.support.lanes import spread

ENDS = "(float[N,3] x) => (float[N,2] y)\n<float[3,6] w, float[6,2] v%s>\n"
SUMS = "(float[N,3] x) => (float[N,N] y)\n<float[3,6] w%s>\n"

# operator applied to h of shape (N, 6), made of h = MatMul(x, w); whether f(0) = 0; opset
UNARY: list[tuple[str, bool, int]] = [
    *((f"a = {op}(h)", True, 18) for op in (
        "Relu", "LeakyRelu", "Tanh", "Erf", "Abs", "Neg", "Sign", "Floor", "Ceil", "Round", "Sin", "Tan", "Atan", "Sinh",
        "Asinh", "Elu", "Selu", "Celu", "Mish", "HardSwish", "ThresholdedRelu", "Softsign", "Identity", "Shrink")),
    *((f"a = {op}(h)", False, 18) for op in ("Sigmoid", "HardSigmoid", "Exp", "Cos", "Cosh", "Softplus")),
    ("a = Gelu(h)", True, 20), ('a = Gelu <approximate = "tanh"> (h)', True, 20),
    ("p = Abs(h)  a = Sqrt(p)", True, 18),
    ("p = Tanh(h)  a = Asin(p)", True, 18), ("p = Tanh(h)  a = Acos(p)", False, 18),
    ("p = Tanh(h)  q = Mul(p, half)  a = Atanh(q)", True, 18),
    ("p = Exp(h)  a = Log(p)", False, 18), ("p = Cosh(h)  a = Acosh(p)", False, 18),
    ("p = Exp(h)  a = Reciprocal(p)", False, 18),
    ("p = Cast <to = 11> (h)  a = Cast <to = 1> (p)", True, 18),
    ("p = IsNaN(h)  q = Cast <to = 1> (p)  a = Add(h, q)", True, 18),
    ("p = IsInf(h)  q = Cast <to = 1> (p)  a = Add(h, q)", True, 18),
    ("p = Cast <to = 9> (h)  q = Not(p)  a = Cast <to = 1> (q)", False, 18),
    ("p = Cast <to = 6> (h)  q = BitwiseNot(p)  a = Cast <to = 1> (q)", False, 18),
    ("a = CastLike(h, x)", True, 18), ("a = CastLike(h, h)", True, 18),
    ("a = Swish(h)", True, 24),
    ("a = Dropout(h)", True, 10), ("a, kept = Dropout(h)", True, 18),
    ("a = Clip <min = -1.0, max = 2.0> (h)", True, 6), ("a = Clip <min = 0.5> (h)", False, 6),
    ("a = Clip <max = -0.5> (h)", False, 6), ("a = Clip(h, , half)", True, 11), ("a = Clip(h, half)", False, 11),
    ("lo = Constant <value_float = 0.0> ()  a = Clip(h, lo, half)", True, 12), ("a = Clip(h)", True, 13),
]

# two or more operands; the row's weights; whether zero once masked
NARY: list[tuple[str, str, bool, int]] = [
    *((f"a = {op}(h, b)", ", float[6] b", True, 18) for op in ("Add", "Sub", "Max", "Min", "Sum", "Mean", "Mul")),
    *((f"a = {op}(h, b)", ", float[1] b", False, 18) for op in ("Add", "Max", "Mean")),
    *((f"a = {op}(h, b)", ", float b", False, 18) for op in ("Sub", "Min", "Sum")),
    ("a = Mul(h, b)", ", float[1] b", True, 18), ("a = Add(b, h)", ", float[1,6] b", True, 18),
    ("s = Sigmoid(h)  a = Mul(s, h)", "", True, 18), ("s = Sigmoid(h)  a = Add(s, h)", "", False, 18),
    ("s = Relu(h)  a = Sum(s, h, b)", ", float[6] b", True, 18),
    ("a = Div(h, posb)", ", float[6] posb", True, 18), ("a = Div(h, posb)", ", float[1] posb", True, 18),
    ("e = Exp(h)  a = Div(posb, e)", ", float[6] posb", True, 18),
    ("e = Exp(h)  a = Div(posb, e)", ", float[1] posb", False, 18),
    ("a = PRelu(h, b)", ", float[6] b", True, 18), ("a = PRelu(h, b)", ", float[1] b", True, 18),
    ("two = Constant <value_float = 2.0> ()  a = Pow(h, two)", "", True, 18),
    ("nil = Constant <value_float = 0.0> ()  a = Pow(h, nil)", "", False, 18),
    ("p = Exp(h)  a = Pow(p, b)", ", float[6] b", False, 18),
    ("r = Abs(h)  a = Pow(r, pos_e)", ", float[6] pos_e", False, 18),  # 0 ** 0 is 1
    ("a = Mod <fmod = 1> (h, posb)", ", float[1] posb", True, 18),
    ("a = Mod <fmod = 1> (h, posb)", ", float[6] posb", True, 18),
    ("e = Exp(x)  k = MatMul(e, w2)  c = Greater(h, k)  a = Where(c, h, k)", ", float[3,6] w2", True, 18),
    ("c = Less(h, b)  a = Where(c, h, zero)", ", float[6] b, float[1] zero", False, 18),
    *((f"c = {op}(h, b)  a = Cast <to = 1> (c)", ", float[6] b", False, 18)
      for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")),
    *((f"p = Cast <to = 9> (h)  t = Relu(h)  q = Cast <to = 9> (t)  c = {op}(p, q)  a = Cast <to = 1> (c)", "", zero, 18)
      for op, zero in (("And", True), ("Or", False), ("Xor", False))),
    *((f"r = Abs(h)  p = Cast <to = 12> (r)  c = {op}(p, p)  a = Cast <to = 1> (c)", "", True, 18)
      for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor", 'BitShift <direction = "LEFT">')),
]


def _passes(i: int, line: str, weights: str, opset: int) -> Case:
    """The channels are contracted behind the operator: exact whatever f(0) is."""
    half = ", float half" if "half" in line else ""
    return Case(f"{line} [{i}]", f"{ENDS % (weights + half)}{{ h = MatMul(x, w)  {line}  y = MatMul(a, v) }}",
                {"w:1": "6 exact"}, opset, constants={"half": 0.5, "zero": 0})


def _summed(i: int, line: str, weights: str, zero: bool, opset: int) -> Case:
    """Products of the channels are added up behind the operator: exact where they are zero once masked."""
    half = ", float half" if "half" in line else ""
    end = "across = Transpose(a)  y = MatMul(a, across)"
    return Case(f"{line} summed [{i}]", f"{SUMS % (weights + half)}{{ h = MatMul(x, w)  {line}  {end} }}",
                {"w:1": "6 exact" if zero else "6 mixing: sums over the axis"}, opset,
                constants={"half": 0.5, "zero": 0})


ROWS = [(line, "", zero, opset) for line, zero, opset in UNARY] + NARY
CASES = [case for i, (line, weights, zero, opset) in enumerate(ROWS)
         for case in (_passes(i, line, weights, opset), _summed(i, line, weights, zero, opset))]

CASES += [
    Case("broadcast between two channel axes", """(float[N,3] x) => (float[N,2] y)
        <float[3,4] w, float[3,5] u, float[20,2] v>
        { a = MatMul(x, w)  b = MatMul(x, u)
          one = Constant <value = int64[1] {1}> ()  two = Constant <value = int64[1] {2}> ()
          p = Unsqueeze(a, two)  q = Unsqueeze(b, one)  o = Mul(p, q)  f = Flatten(o)  y = MatMul(f, v) }""",
         {"u:1": "5 exact"}),
    Case("squeeze and excitation", """(float[N,3,4,4] x) => (float[N,2,4,4] y)
        <float[6,3,1,1] w, float[2,6,1,1] down, float[6,2,1,1] up, float[2,6,1,1] v>
        { h = Conv(x, w)  g = GlobalAveragePool(h)  s = Conv(g, down)  r = Relu(s)  e = Conv(r, up)
          t = Sigmoid(e)  m = Mul(h, t)  y = Conv(m, v) }""", {"w:0": "6 exact", "down:0": "2 exact"}),
    Case("cast to the type of something wider", """(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[3,9] u,
        float[6,2] v, float[9,2] q>
        { h = MatMul(x, w)  k = MatMul(x, u)  a = CastLike(h, k)  b = MatMul(a, v)  c = MatMul(k, q)  y = Add(b, c) }""",
         {"w:1": "6 exact", "u:1": "9 exact"}),
    Case("residual addition", """(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[6,6] u, float[6,2] v>
        { h = MatMul(x, w)  r = MatMul(h, u)  s = Relu(r)  a = Add(h, s)  y = MatMul(a, v) }""", {"w:1": "6 exact"}),
    Case("channel that a free length may stretch", """(float[N,K] x, float[N,3] z) => (float[N,2] y)
        <float[3,6] w, float[6,2] v> { h = MatMul(z, w)  a = Add(h, x)  y = MatMul(a, v) }""",
         {"w:1": "6 pinned: whether x is stretched here is not known"}, feeds={"x": [[1.0]]}),
]


@pytest.mark.parametrize("case", spread(CASES), ids=lambda c: c.name)
def test_removal_equals_masking(case: Case) -> None:
    check(case)
