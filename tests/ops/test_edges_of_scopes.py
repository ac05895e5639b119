"""What leaves a body, what bodies share, and where zero is not what it seems: each was once pruned wrongly."""

from __future__ import annotations

import pytest

from tests.ops.case import Case, check, check_removal
from tests.support.lanes import spread

ROWS = "(float[2,8] x, bool c) => (float[2,4] y)"
IMAGES = "(float[2,3,4,4] x) => (float[2,4,2,2] y)"

CASES = [
    Case("a shape that bodies and the graph around them share", f"""{ROWS}
        <float[8,8] w, float[8,4] v, float[8,4] u, int64[3] heads, int64[2] flat>
        {{ h = MatMul(x, w)
           g = If(c) <then_branch = t () => (float[2,8] a) {{ r = Reshape(h, heads)  q = Relu(r)  a = Reshape(q, flat) }},
               else_branch = e () => (float[2,8] b) {{ k = Reshape(h, heads)  l = Tanh(k)  b = Reshape(l, flat) }}>
           m = Reshape(x, heads)  n = Tanh(m)  o = Reshape(n, flat)  p = MatMul(g, v)  s = MatMul(o, u)  y = Add(p, s) }}""",
         {"w:1": "4 exact"}, constants={"heads": [2, 4, 2], "flat": [2, 8]}),
    Case("the sum of a small weight is no length", """(float[2,8] x) => (float[2,4] y)
        <float[8,8] w, float[8,4] v, float z, int64[1] rows>
        { h = MatMul(x, w)  g = Sigmoid(h)  p = MatMul(g, v)  s = ReduceSum <keepdims = 0> (v, rows)  k = Mul(s, z)
          y = Sub(p, k) }""", {"w:1": "8 exact"}, constants={"rows": [0]}),
    Case("positions of a MaxPool that leave a body", """(float[2,3,4,4] x, bool c) => (float[2,4,2,2] y)
        <float[6,3,1,1] w, float[4,6,1,1] v, float[4,6,1,1] u>
        { h = Conv(x, w)
          g, i = If(c) <then_branch = t () => (float[2,6,2,2] a, int64[2,6,2,2] ai)
                { a, ai = MaxPool <kernel_shape = [2,2], strides = [2,2]> (h) },
            else_branch = e () => (float[2,6,2,2] b, int64[2,6,2,2] bi)
                { b, bi = MaxPool <kernel_shape = [2,2], strides = [2,2]> (h) }>
          f = Cast <to = 1> (i)  p = Conv(f, v)  q = Conv(g, u)  y = Add(p, q) }""",
         {"w:0": "6 pinned: flat indices count"}),
    Case("positions of a MaxPool count through samples", f"""{IMAGES} <float[6,3,1,1] w, float[4,6,1,1] v, float[4,6,1,1] u>
        {{ h = Conv(x, w)  t = Transpose <perm = [1,0,2,3]> (h)
           g, i = MaxPool <kernel_shape = [2,2], strides = [2,2]> (t)  f = Cast <to = 1> (i)
           k = Transpose <perm = [1,0,2,3]> (f)  l = Transpose <perm = [1,0,2,3]> (g)  p = Conv(k, v)  q = Conv(l, u)
           y = Add(p, q) }}""", {"w:0": "6 pinned: flat indices count"}),
    Case("quantised values that leave a body", """(float[2,8] x, bool c) => (float[2,1] y)
        <float[8,8] w, float posscale, uint8 zero, int64[1] axis>
        { h = MatMul(x, w)
          q = If(c) <then_branch = t () => (uint8[2,8] a) { a = QuantizeLinear(h, posscale, zero) },
            else_branch = e () => (uint8[2,8] b) { n = Neg(h)  b = QuantizeLinear(n, posscale, zero) }>
          f = Cast <to = 1> (q)  y = ReduceSum(f, axis) }""",
         {"w:1": "8 mixing"}, constants={"zero": 128, "axis": [1], "posscale": 0.1}),
    Case("a ConvTranspose of groups sums over its inputs", """(float[1,8,3,3] x) => (float[1,4,3,3] y)
        <float[16,8,1,1] w, float[1,8,1,1] b, float[16,8,1,1] u, float[4,16,1,1] v>
        { k = Add(w, b)  h = Conv(x, u)  s = Sigmoid(h)  g = ConvTranspose <group = 2> (s, k)  y = Conv(g, v) }""",
         {"w:0": "8 mixing: sums over the axis", "w:1": "8 exact"}),
    Case("a Resize that repeats channels and leaves their number", """(float[2,8,5] x) => (float[2,4,10] y)
        <float[8,8] w, float[3] scales, float[4,8] v>
        { h = MatMul(w, x)  g = Resize <mode = "nearest"> (h, , scales)  y = MatMul(v, g) }""",
         {"w:0": "8 pinned: resamples it"}, constants={"scales": [1.0, 1.1, 2.0]}),
    Case("a refill of whole numbers before Pad takes them", """(float[2,8] x) => (float[2,1] y) <float[8,8] w, float ten>
        { h = MatMul(x, w)  k = Mul(h, ten)  i = Cast <to = 6> (k)  z = ReduceMin <axes = [1]> (i)  y = Cast <to = 1> (z) }""",
         {"w:1": "8 mixing"}, opset=10, constants={"ten": 10.0}),
    Case("a weight that is quantised around another zero point", """(float[2,8] x) => (float[2,4] y)
        <float[8,8] w, float[8,4] v, float posscale, uint8 zero, uint8 other, float posfine>
        { h = MatMul(x, w)  s = Sigmoid(h)  q = QuantizeLinear(s, posscale, zero)  k = QuantizeLinear(v, posfine, zero)
          i = MatMulInteger(q, k, zero, other)  y = Cast <to = 1> (i) }""",
         {"w:1": "8 pinned"}, constants={"zero": 128, "other": 100, "posscale": 0.01, "posfine": 0.02}),
    Case("a Shrink that moves zero", """(float[2,8] x) => (float[2,1] y) <float[8,8] w, int64[1] axis>
        { h = MatMul(x, w)  g = Shrink <lambd = -0.5, bias = 1.0> (h)  y = ReduceSum(g, axis) }""",
         {"w:1": "8 mixing"}, constants={"axis": [1]}),
    Case("integers of sixteen bits are weights", """(float[2,8] x) => (float[2,4] y)
        <int16[8,8] w, int16[8,4] v, float posscale>
        { k = DequantizeLinear(w, posscale)  h = MatMul(x, k)  s = Sigmoid(h)  l = DequantizeLinear(v, posscale)
          y = MatMul(s, l) }""", {"w:1": "8 exact"}, opset=21, constants={"posscale": 0.01}),
    Case("a divisor that is copied first", """(float[2,8] x) => (float[2,4] y)
        <float[8,8] w, float[8] posk, float[8,4] v, int64[1] front>
        { h = MatMul(x, w)  k = Unsqueeze(posk, front)  g = Div(h, k)  y = MatMul(g, v) }""",
         {"w:1": "8 exact"}, constants={"front": [0]}),
]  # fmt: skip


@pytest.mark.parametrize("case", spread(CASES, 4), ids=lambda c: c.name)
def test_removal_equals_masking(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_other_units(case: Case) -> None:
    for seed in range(1, 3):
        check_removal(case, seed)
