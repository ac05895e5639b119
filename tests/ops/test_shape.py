"""Operators that move, join, cut and repeat indices, and those that only talk about shapes."""

from __future__ import annotations

from typing import Any

import pytest
from onnx import numpy_helper

from tests.ops.case import Case, assert_groups, build, check, coupling_of
from tests.support import oracle
from tests.support.lanes import spread

LINE = "(float[N,3] x) => (float[N,2] y) <float[3,%d] w, float[%d,2] v"


def _cut(name: str, line: str, width: int, taken: int, units: str, weights: str = "", opset: int = 18,
         **constants: Any) -> Case:
    """A product with `width` channels of which an operator takes `taken`, a product."""
    return Case(f"{name}, opset {opset}", LINE % (width, taken) + f"{weights}> {{ h = MatMul(x, w)  {line}  y = MatMul(a, v) }}",
                dict(part.split("=") for part in units.split("; ")) if "=" in units else {"w:1": units}, opset,
                constants=constants)


def _slice(name: str, start: int, end: int, step: int, taken: int, units: str, width: int = 12) -> Case:
    constants = {"s": [start], "e": [end], "axes": [-1], "t": [step]}
    return _cut(f"Slice {name}", "a = Slice(h, s, e, axes, t)", width, taken, units,
                ", int64[1] s, int64[1] e, int64[1] axes, int64[1] t", 13, **constants)


def _pad(name: str, before: int, after: int, width: int, units: str, value: str = "") -> Case:
    line = f"a = Pad(h, p{', c' if value else ''})"
    return _cut(f"Pad {name}", line, width, width + before + after, units, ", int64[4] p" + (", float c" if value else ""),
                13, p=[0, before, 0, after], c=float(value or 0))


TWO = "w:1=6 exact; u:1=4 exact"
CASES = [
    _cut("Transpose", "t = Transpose(h)  u = Relu(t)  a = Transpose <perm = [1, 0]> (u)", 6, 6, "6 exact"),
    Case("Transpose of axes", """(float[N,3,4,5] x) => (float[N,4,5,2] y) <float[6,3,1,1] w, float[6,2] v>
        { h = Conv(x, w)  a = Transpose <perm = [0, 2, 3, 1]> (h)  y = MatMul(a, v) }""", {"w:0": "6 exact"}),
    *(_cut(f"Concat on axis {axis}", f"g = MatMul(x, u)  a = Concat <axis = {axis}> (h, g)", 6, 10, TWO,
           ", float[3,4] u", opset) for axis, opset in ((1, 4), (1, 13), (-1, 13))),
    _cut("Concat of one", "a = Concat <axis = 1> (h)", 6, 6, "6 exact"),
    _cut("Concat with itself", "r = Relu(h)  a = Concat <axis = 1> (h, r)", 6, 12, "6 exact"),
    _cut("Concat with the input", "a = Concat <axis = 1> (x, h)", 6, 9, "6 exact"),
    Case("Concat along another axis ties the channels", """(float[N,3] x) => (float[K,2] y) <float[3,6] w, float[3,6] u,
        float[6,2] v> { h = MatMul(x, w)  g = MatMul(x, u)  a = Concat <axis = 0> (h, g)  y = MatMul(a, v) }""",
         {"w:1": "6 exact"}),
    Case("Concat with a norm and a one, as distances are written", """(float[N,3] x) => (float[N,5] y)
        <float[3,6] w, float[5,6] c, float[5,1] one, int64[1] last> { h = MatMul(x, w)  p = Mul(h, h)
          s = ReduceSum <keepdims = 1> (p, last)  i = Sigmoid(s)  a = Concat <axis = -1> (h, s, i)  q = Mul(c, c)
          t = ReduceSum <keepdims = 1> (q, last)  b = Concat <axis = -1> (c, one, t)  y = Gemm <transB = 1> (a, b) }""",
         {"w:1": "6 exact"}, constants={"last": -1}),
    Case("Concat with another that does not become zero", """(float[N,3] x) => (float[N,2] y)
        <float[3,6] w, float[3,4] u, int64[1] last> { h = MatMul(x, w)  g = MatMul(x, u)  i = Sigmoid(g)
          a = Concat <axis = -1> (h, i)  s = ReduceProd <keepdims = 1> (a)  y = Concat <axis = -1> (s, s) }""",
         {"w:1": "6 mixing", "u:1": "4 mixing"}, constants={"last": -1}),
    Case("Concat along a free axis joins free lengths", """(float[N,3] x, float[M,3] z) => (float[K,2] y)
        <float[3,6] w, float[6,2] v> { a = Concat <axis = 0> (x, z)  h = MatMul(a, w)  y = MatMul(h, v) }""",
         {"w:1": "6 exact"}),
    Case("Split by attribute, opset 11", """(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[2,2] u, float[4,2] v>
        { h = MatMul(x, w)  p, q = Split <axis = 1, split = [2, 4]> (h)  a = MatMul(p, u)  b = MatMul(q, v)
          y = Add(a, b) }""", {"w:1": "2 exact", "w:1#2": "4 exact"}, 11),
    *(Case(f"Split in equal parts, opset {opset}", f"""(float[N,3] x) => (float[N,2] y) <float[3,8] w, float[4,2] u>
        {{ h = MatMul(x, w)  p, q = Split <axis = -1{more}> (h)  s = Sigmoid(p)  m = Mul(s, q)  y = MatMul(m, u) }}""",
           {"w:1": "4 exact"}, opset) for opset, more in ((11, ""), (13, ""), (18, ", num_outputs = 2"))),
    *(Case(f"Split by input, opset {opset}", """(float[N,3] x) => (float[N,2] y) <float[3,9] w, float[2,2] u, float[4,2] v,
        float[3,2] t, int64[3] s> { h = MatMul(x, w)  p, q, r = Split <axis = 1> (h, s)  a = MatMul(p, u)
          b = MatMul(q, v)  c = MatMul(r, t)  y = Sum(a, b, c) }""",
           {"w:1": "2 exact", "w:1#2": "4 exact", "w:1#3": "3 exact"}, opset, constants={"s": [2, 4, 3]}) for opset in (13, 18)),
    Case("Split of rows by sizes that the run computes", """(float[6,3] x, int64[2] n) => (float[R,2] y, float[S,2] z)
        <float[3,8] w, float[8,2] u, float[8,2] v, int64[2] zero> { s = Add(n, zero)  h = MatMul(x, w)
          p, q = Split <axis = 0> (h, s)  y = Gemm(p, u)  z = Gemm(q, v) }""", {"w:1": "8 exact"}, 13,
         feeds={"n": [4, 2]}, constants={"zero": [0, 0]}),
    Case("Split of channels by sizes that the run computes", """(float[N,3] x, int64[2] n) => (float[N,R] y, float[N,S] z)
        <float[3,8] w> { h = MatMul(x, w)  y, z = Split <axis = 1> (h, n) }""",
         {"w:1": "8 pinned"}, 13, feeds={"n": [5, 3]}),
    Case("Split in unequal parts by number", """(float[N,3] x) => (float[N,2] y) <float[3,7] w, float[3,2] u, float[3,2] v,
        float[1,2] t> { h = MatMul(x, w)  p, q, r = Split <axis = 1, num_outputs = 3> (h)  a = MatMul(p, u)
          b = MatMul(q, v)  c = MatMul(r, t)  y = Sum(a, b, c) }""", {"w:1": "3 exact", "w:1#2": "3 exact"}),
    _slice("of the front", 0, 5, 1, 5, "w:1=5 exact; w:1#2=7 exact"),
    _slice("of the middle", 3, 7, 1, 4, "w:1=8 exact; w:1#2=4 exact"),
    _slice("by negative bounds", -4, -1, 1, 3, "w:1=9 exact; w:1#2=3 exact"),
    _slice("to the end of the world", 8, 2**31, 1, 4, "w:1=8 exact; w:1#2=4 exact"),
    _slice("backwards", -1, -100, -1, 12, "12 exact"),
    _slice("of a part backwards", 8, 2, -1, 6, "w:1=6 exact; w:1#2=6 exact"),
    _slice("in steps of two", 0, 12, 2, 6, "6 exact"),
    _slice("in steps of two from an odd start", 1, 12, 2, 6, "6 exact"),
    _slice("in steps of three", 0, 12, 3, 4, "4 exact"),
    _slice("in steps of three from 5 on", 5, 12, 3, 3, "3 exact"),
    _slice("backwards in steps", 11, -100, -2, 6, "6 exact"),
    _slice("backwards in steps of three", 10, 0, -3, 4, "4 exact"),
    _cut("Slice by attribute", "a = Slice <axes = [1], starts = [2], ends = [6]> (h)", 12, 4, "w:1=8 exact; w:1#2=4 exact", opset=9),
    _cut("Slice by attribute without axes", "a = Slice <starts = [0, 2], ends = [9999, 6]> (h)", 12, 4, "w:1=8 exact; w:1#2=4 exact", opset=9),
    _cut("Slice of odd and of even places", "p = Slice(h, s, e, l, t)  q = Slice(h, n, e, l, t)  m = Neg(q)  a = Max(p, m)",
         11, 5, "5 exact", ", int64[1] s, int64[1] n, int64[1] e, int64[1] l, int64[1] t", 13,
         s=[0], n=[1], e=[10], l=[1], t=[2]),
    _cut("Slice without axes and steps", "a = Slice(h, s, e)", 12, 4, "w:1=8 exact; w:1#2=4 exact", ", int64[2] s, int64[2] e", 10,
         s=[0, 4], e=[9999, 8]),
    _cut("Slice with steps and without axes", "a = Slice(h, s, e, , t)", 12, 4, "w:1=8 exact; w:1#2=4 exact",
         ", int64[2] s, int64[2] e, int64[2] t", 13, s=[0, 4], e=[9999, 8], t=[1, 1]),
    _cut("Slice by 32-bit bounds", "a = Slice(h, s, e, axes)", 12, 4, "w:1=8 exact; w:1#2=4 exact", ", int32[1] s, int32[1] e, int32[1] axes",
         s=[4], e=[8], axes=[1]),
    Case("both halves of a gated unit", """(float[N,3] x) => (float[N,2] y) <float[3,12] w, float[6,2] v, int64[1] nil,
        int64[1] six, int64[1] end, int64[1] one> { h = MatMul(x, w)  p = Slice(h, nil, six, one)
          q = Slice(h, six, end, one)  s = Sigmoid(p)  a = Mul(s, q)  y = MatMul(a, v) }""", {"w:1": "6 exact"},
         constants={"nil": 0, "six": 6, "end": 2**62, "one": 1}),
    Case("Slice at bounds that only the run tells", """(float[N,3] x, int64[1] s) => (float[N,K] y) <float[3,6] w, int64[1] e,
        int64[1] one> { h = MatMul(x, w)  y = Slice(h, s, e, one) }""",
         {"w:1": "6 pinned: takes its bounds from the run"}, feeds={"s": [2]}, constants={"e": 6, "one": 1}),
    _cut("Gather", "a = Gather <axis = 1> (h, i)", 8, 4, "w:1=4 exact; w:1#2=4 exact", ", int64[4] i", i=[1, 5, 2, 7]),
    _cut("Gather by negative indices", "a = Gather <axis = -1> (h, i)", 8, 3, "w:1=3 exact; w:1#2=5 exact", ", int64[3] i", i=[-1, -8, 3]),
    _cut("Gather with repeats", "a = Gather <axis = 1> (h, i)", 8, 5, "w:1=2 exact; w:1#2=5 exact", ", int32[5] i", i=[2, 0, 2, 4, 2]),
    _cut("Gather as a permutation", "a = Gather <axis = 1> (h, i)", 6, 6, "6 exact", ", int64[6] i", i=[3, 0, 4, 1, 5, 2]),
    _cut("Gather by indices on an axis of their own", "g = Gather <axis = 1> (h, i)  o = Constant <value = int64[1] {2}> ()  a = Squeeze(g, o)",
         8, 5, "w:1=5 exact; w:1#2=2 exact", ", int64[5,1] i", i=[6, 1, 6, 2, 1]),
    Case("Gather of words", """(int64[N,5] ids) => (float[N,5,2] y) <float[10,6] table, float[6,2] v>
        { h = Gather(table, ids)  y = MatMul(h, v) }""",
         {"table:1": "6 exact", "table:0": "10 pinned: looks indices up along it"}),
    Case("Gather of one place", """(float[N,5,3] x) => (float[N,2] y) <float[3,6] w, float[6,2] v, int64 first>
        { h = MatMul(x, w)  a = Gather <axis = 1> (h, first)  y = MatMul(a, v) }""", {"w:1": "6 exact"},
         constants={"first": -1}),
    Case("Gather of one of a stack", """(float[N,3] x) => (float[N,2] y) <float[3,18] w, float[6,2] v, int64[3] s, int64 one>
        { h = MatMul(x, w)  r = Reshape(h, s)  a = Gather <axis = 1> (r, one)  y = MatMul(a, v) }""",
         {"w:1": "6 exact"}, constants={"s": [0, 3, 6], "one": 1}),
    _pad("with zeros", 2, 3, 6, "w:1=6 exact; v:0=5 exact"),
    _pad("with a value", 1, 2, 6, "w:1=6 exact; v:0=3 exact", "0.5"),
    _pad("that crops in front", -2, 0, 6, "w:1=2 exact; w:1#2=4 exact"),
    _pad("that crops behind", 0, -1, 6, "5 exact"),
    _pad("that pads and crops", 3, -2, 6, "w:1=4 exact; w:1#2=2 exact; v:0=3 exact"),
    _cut("Pad by attribute", "a = Pad <pads = [0, 1, 0, 2], value = 0.5> (h)", 6, 9, "w:1=6 exact; v:0=3 exact", opset=9),
    _cut("Pad of some axes", "a = Pad(h, p, , axes)", 6, 9, "w:1=6 exact; v:0=3 exact", ", int64[2] p, int64[1] axes", 18, p=[1, 2], axes=[-1]),
    Case("Pad of space with a number", """(float[N,3,4,4] x) => (float[N,2,6,6] y) <float[6,3,1,1] w, float[2,6,1,1] v,
        int64[8] p, float c> { h = Conv(x, w)  a = Pad(h, p, c)  y = Conv(a, v) }""", {"w:0": "6 exact"},
         constants={"p": [0, 0, 1, 1, 0, 0, 1, 1], "c": 1.0}),
    Case("what a Pad of space with a number leaves is not zero", """(float[N,3,4,4] x) => (float[N,6,6] y)
        <float[6,3,1,1] w, int64[8] p, float c, int64[1] one>
        { h = Conv(x, w)  a = Pad(h, p, c)  y = ReduceSum <keepdims = 0> (a, one) }""",
         {"w:0": "6 mixing: sums over the axis"}, constants={"p": [0, 0, 1, 1, 0, 0, 1, 1], "c": 1.0, "one": 1}),
    Case("Pad of space with zeros leaves zeros", """(float[N,3,4,4] x) => (float[N,6,6] y)
        <float[6,3,1,1] w, int64[8] p, int64[1] one>
        { h = Conv(x, w)  a = Pad(h, p)  y = ReduceSum <keepdims = 0> (a, one) }""",
         {"w:0": "6 exact"}, constants={"p": [0, 0, 1, 1, 0, 0, 1, 1], "one": 1}),
    Case("Pad of space", """(float[N,3,4,4] x) => (float[N,2,6,6] y) <float[6,3,1,1] w, float[2,6,1,1] v, int64[8] p>
        { h = Conv(x, w)  a = Pad <mode = "reflect"> (h, p)  y = Conv(a, v) }""", {"w:0": "6 exact"},
         constants={"p": [0, 0, 1, 1, 0, 0, 1, 1]}),
    _cut("Pad that reflects channels", 'a = Pad <mode = "reflect"> (h, p)', 6, 9, "6 pinned: pads it", ", int64[4] p",
         p=[0, 1, 0, 2]),
    _cut("Tile", "a = Tile(h, r)", 6, 12, "6 exact", ", int64[2] r", r=[1, 2]),
    _cut("Tile of other axes", "t = Tile(h, r)  a = Slice(t, nil, n, nil)", 6, 6, "6 exact",
         ", int64[2] r, int64[1] nil, int64[1] n", r=[2, 1], nil=0, n=2),
    Case("Tile of one channel", """(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[6,2] v, int64[2] r, float[3,1] one>
        { h = MatMul(x, w)  s = MatMul(x, one)  t = Tile(s, r)  a = Mul(h, t)  y = MatMul(a, v) }""",
         {"w:1": "6 exact"}, constants={"r": [1, 6]}),
    Case("Expand of one channel", """(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[6,2] v, int64[2] r, float[3,1] one>
        { h = MatMul(x, w)  s = MatMul(x, one)  t = Expand(s, r)  a = Mul(h, t)  y = MatMul(a, v) }""",
         {"w:1": "6 exact"}, constants={"r": [1, 6]}),
    _cut("Expand to more axes", "e = Expand(h, r)  a = Squeeze(e, nil)", 6, 6, "6 exact", ", int64[3] r, int64[1] nil",
         r=[1, 1, 6], nil=0),
    Case("Expand to a computed shape", """(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[6,2] v, float[1,6] b>
        { h = MatMul(x, w)  s = Shape(h)  e = Expand(b, s)  a = Add(h, e)  y = MatMul(a, v) }""", {"w:1": "6 exact"}),
    _cut("Constant", "c = Constant <value_floats = [0.5, 1.5]> ()  o = Mul(v, c)  a = Identity(h)", 6, 6, "6 exact"),
    _cut("Constant with a tensor", "c = Constant <value = float[6] {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}> ()  a = Mul(h, c)", 6, 6,
         "6 exact"),
    _cut("Constant held as numbers", "c = Constant <value_floats = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]> ()  a = Mul(h, c)", 6, 6,
         "6 pinned: held as an attribute"),
    _cut("ConstantOfShape", "s = Shape(h)  c = ConstantOfShape(s)  a = Add(h, c)", 6, 6, "6 exact"),
    _cut("ConstantOfShape of a stated shape", "c = ConstantOfShape <value = float[1] {2.0}> (s)  a = Mul(h, c)", 6, 6,
         "6 exact", ", int64[1] s", s=6),
    Case("ConstantOfShape of zeros is zero", """(float[N,3] x) => (float[N] y) <float[3,6] w, int64[1] s, int64[1] one>
        { h = MatMul(x, w)  c = ConstantOfShape(s)  a = Add(h, c)  y = ReduceSum <keepdims = 0> (a, one) }""",
         {"w:1": "6 exact"}, constants={"s": 6, "one": 1}),
    Case("ConstantOfShape of ones is not", """(float[N,3] x) => (float[N] y) <float[3,6] w, int64[1] s, int64[1] one>
        { h = MatMul(x, w)  c = ConstantOfShape <value = float[1] {1.0}> (s)  a = Add(h, c)
          y = ReduceSum <keepdims = 0> (a, one) }""", {"w:1": "6 mixing: sums over the axis"},
         constants={"s": 6, "one": 1}),
    Case("a size is a number and stays", """(float[2,3] x) => (float[2,2] y) <float[3,6] w, float[6,2] v>
        { h = MatMul(x, w)  s = Size(h)  f = Cast <to = 1> (s)  a = Div(h, f)  y = MatMul(a, v) }""", {"w:1": "6 exact"}),
    Case("a length is a number and stays", """(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[6,2] v, int64 one>
        { h = MatMul(x, w)  s = Shape(h)  n = Gather(s, one)  f = Cast <to = 1> (n)  r = Sqrt(f)  a = Div(h, r)
          y = MatMul(a, v) }""", {"w:1": "6 exact"}, constants={"one": 1}),
    Case("NonZero", """(float[N,3] x) => (int64[2,K] y) <float[3,6] w> { h = MatMul(x, w)  y = NonZero(h) }""",
         {"w:1": "6 pinned: returns positions"}),
    _cut("Trilu of other axes", """u = Unsqueeze(h, two)  e = Expand(u, s)  t = Trilu(e)
        a = ReduceMax <keepdims = 0> (e, two)""", 6, 6, "6 pinned: a triangle is taken", ", int64[1] two, int64[3] s", 18,
         two=2, s=[1, 6, 3]),
    Case("Trilu lets leading axes pass", """(float[N,3,4,4] x) => (float[N,2,4,4] y) <float[6,3,1,1] w, float[2,6,1,1] v>
        { h = Conv(x, w)  a = Trilu(h)  y = Conv(a, v) }""", {"w:0": "6 exact"}),
    Case("ReverseSequence", """(float[5,2,3] x) => (float[5,2,2] y) <float[3,6] w, float[6,2] v, int64[2] n>
        { h = MatMul(x, w)  a = ReverseSequence(h, n)  y = MatMul(a, v) }""", {"w:1": "6 exact"},
         constants={"n": [3, 5]}),
    Case("ReverseSequence along the channels", """(float[2,3] x) => (float[2,2] y) <float[3,6] w, float[6,2] v, int64[2] n>
        { h = MatMul(x, w)  a = ReverseSequence <batch_axis = 0, time_axis = 1> (h, n)  y = MatMul(a, v) }""",
         {"w:1": "6 pinned: reverses along it"}, constants={"n": [3, 5]}),
    Case("GatherElements along another axis", """(float[2,3] x, int64[2,6] i) => (float[2,2] y) <float[3,6] w, float[6,2] v>
        { h = MatMul(x, w)  a = GatherElements <axis = 1> (h, i)  y = MatMul(a, v) }""",
         {"w:1": "6 pinned: addresses it by position", "v:0": "6 pinned: addresses it by position"}),
    Case("ScatterElements over rows lets channels pass", """(float[2,3] x) => (float[2,2] y) <float[3,6] w, float[6,2] v,
        int64[2,6] i, float[2,6] u> { h = MatMul(x, w)  a = ScatterElements <axis = 0> (h, i, u)  y = MatMul(a, v) }""",
         {"w:1": "6 exact"}, constants={"i": [[0] * 6, [1] * 6]}),
    Case("Scatter over rows lets channels pass", """(float[2,3] x) => (float[2,2] y) <float[3,6] w, float[6,2] v,
        int64[2,6] i, float[2,6] u> { h = MatMul(x, w)  a = Scatter <axis = 0> (h, i, u)  y = MatMul(a, v) }""",
         {"w:1": "6 exact"}, 9, constants={"i": [[0] * 6, [1] * 6]}),
    Case("GatherElements of fewer rows", """(float[2,3] x) => (float[1,2] y) <float[3,6] w, float[6,2] v, int64[1,6] i>
        { h = MatMul(x, w)  a = GatherElements <axis = 0> (h, i)  y = MatMul(a, v) }""",
         {"w:1": "6 exact"}, constants={"i": [0, 1, 0, 1, 1, 0]}),
    Case("ScatterElements of fewer rows", """(float[2,3] x) => (float[2,2] y) <float[3,6] w, float[3,6] u, float[6,2] v,
        int64[1] start, int64[1] end, int64[1,1] i, int64[2] s> { h = MatMul(x, w)  k = MatMul(x, u)
          r = Slice(k, start, end)  e = Expand(i, s)  a = ScatterElements <axis = 0> (h, e, r)  y = MatMul(a, v) }""",
         {"w:1": "6 exact"}, constants={"start": [0], "end": [1], "i": [1], "s": [1, 6]}),
    Case("ScatterElements of a part", """(float[2,3] x) => (float[2,2] y) <float[3,6] w, float[6,2] v, int64[2,1] i,
        float[2,1] u> { h = MatMul(x, w)  a = ScatterElements <axis = 1> (h, i, u)  y = MatMul(a, v) }""",
         {"w:1": "6 pinned: addresses it by position"}),
    _cut("Compress", "a = Compress <axis = 1> (h, c)", 6, 6, "6 pinned: addresses by position", ", bool[6] c", c=[1] * 6),
    _cut("ScatterND of rows", "a = ScatterND(h, i, u)", 6, 6, "6 exact", ", int64[1,1] i, float[1,6] u", i=[0]),
    _cut("ScatterND of channels", """t = Transpose(h)  g = MatMul(x, u)  r = Transpose(g)  s = ScatterND(t, i, r)
         a = Transpose(s)""", 8, 8, "w:1=5 exact; w:1#2=3 exact", ", int64[3,1] i, float[3,3] u", i=[2, -1, 4]),
    Case("ScatterND at places that are computed", """(float[N,3] x) => (float[N,2] y) <float[3,8] w, float[3,4] u,
        float[8,2] v> { h = MatMul(x, w)  t = Transpose(h)  g = MatMul(x, u)  r = Transpose(g)
        size = Shape <start = 0, end = 1> (t)  nil = Constant <value = int64 {0}> ()  one = Constant <value = int64 {1}> ()
        four = Constant <value = int64[1] {4}> ()  axis = Constant <value = int64[1] {0}> ()  rank = Squeeze(size, axis)
        every = Range(nil, rank, one)  last = Slice(every, four, size)  minus = Constant <value = int64[1] {-1}> ()
        i = Unsqueeze(last, minus)  s = ScatterND(t, i, r)  a = Transpose(s)  y = MatMul(a, v) }""",
         {"w:1": "4 exact", "w:1#2": "4 exact"}),
    Case("ScatterND at places from the run", """(float[2,3] x, int64[1,1] i) => (float[2,2] y) <float[3,6] w, float[6,2] v,
        float[1,6] u> { h = MatMul(x, w)  a = ScatterND(h, i, u)  y = MatMul(a, v) }""", {"w:1": "6 exact"}, feeds={"i": [[1]]}),
    Case("ScatterND at channels from the run", """(float[2,3] x, int64[1,2] i) => (float[2,2] y) <float[3,6] w, float[6,2] v,
        float[1] u> { h = MatMul(x, w)  a = ScatterND(h, i, u)  y = MatMul(a, v) }""",
         {"w:1": "6 pinned: addresses it by position"}, feeds={"i": [[1, 4]]}),
    _cut("GatherND of rows", "a = GatherND(h, i)", 6, 6, "6 exact", ", int64[2,1] i", i=[0, 1]),
    Case("GatherND of channels", """(float[2,3] x) => (float[2] y) <float[3,6] w, int64[2,2] i>
        { h = MatMul(x, w)  y = GatherND(h, i) }""", {"w:1": "6 pinned: addresses it by position"}, constants={"i": [0, 1, 1, 4]}),
    Case("GatherND in batches", """(float[2,5,3] x) => (float[2,2] y) <float[3,6] w, float[6,2] v, int64[2,1] i>
        { h = MatMul(x, w)  a = GatherND <batch_dims = 1> (h, i)  y = MatMul(a, v) }""", {"w:1": "6 exact"}, constants={"i": [3, 0]}),
    Case("OneHot", """(int64[N] ids) => (float[N,2] y) <float[6,2] v, int64 n, float[2] values>
        { h = OneHot(ids, n, values)  y = MatMul(h, v) }""", {"v:0": "6 pinned: addresses by position"},
         constants={"n": 6, "values": [0, 1]}),
    Case("Unique", """(float[2,3] x) => (float[K] y) <float[3,6] w> { h = MatMul(x, w)  y = Unique(h) }""",
         {"w:1": "6 pinned: addresses by position"}),
    Case("Range", """(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[6,2] v, float nil, float one, float six>
        { h = MatMul(x, w)  r = Range(nil, six, one)  a = Mul(h, r)  y = MatMul(a, v) }""",
         {"w:1": "6 pinned: makes it"}, constants={"nil": 0, "one": 1, "six": 6}),
    Case("EyeLike", """(float[6,3] x) => (float[6,2] y) <float[3,6] w, float[6,2] v>
        { h = MatMul(x, w)  e = EyeLike(h)  a = MatMul(h, e)  y = MatMul(a, v) }""", {"w:1": "6 pinned: reads it"}),
]


@pytest.mark.parametrize("case", spread(CASES), ids=lambda c: c.name)
def test_removal_equals_masking(case: Case) -> None:
    check(case)


def test_index_constants_keep_their_type() -> None:
    case = next(c for c in CASES if c.name.startswith("Gather with repeats"))
    pruned, _, _ = oracle.prune_and_mask(case.model())
    index = next(t for t in pruned.graph.initializer if t.name == "i")
    assert index.data_type == 6
    assert max(numpy_helper.to_array(index)) < 7  # two of the eight went


def test_sizes_of_a_split_by_number_are_written_out() -> None:
    case = next(c for c in CASES if c.name == "Split in unequal parts by number")
    pruned, _, _ = oracle.prune_and_mask(case.model())
    split = next(n for n in pruned.graph.node if n.op_type == "Split")
    sizes = {t.name: numpy_helper.to_array(t).tolist() for t in pruned.graph.initializer}
    assert [a.name for a in split.attribute] == ["axis"]
    assert sizes[split.input[1]] == [1, 1, 1]


@pytest.mark.parametrize("line", [
    "r = RandomNormalLike(h)", "r = RandomUniformLike(h)", "s = Sigmoid(h)  r = Bernoulli(s)",
    "r = RandomNormal <shape = [2, 6]> ()", "r = RandomUniform <shape = [2, 6]> ()",
    "s = Sigmoid(h)  i = Multinomial <sample_size = 6> (s)  r = Cast <to = 1> (i)"])
def test_random_numbers_belong_to_their_place(line: str) -> None:
    """What comes out differs from run to run, so only the groups are looked at."""
    model = build(LINE % (6, 6) + f"> {{ h = MatMul(x, w)  {line}  a = Mul(h, r)  y = MatMul(a, v) }}", 15)
    random = next(n for n in model.graph.node if n.output[0] in ("i", "r"))
    kind = f"{random.op_type} {random.output[0]!r}"
    assert_groups(coupling_of(model), {"w:1": f"6 pinned: {kind}"})
