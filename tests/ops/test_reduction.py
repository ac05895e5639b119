"""Reductions and searches along axes."""

from __future__ import annotations

import pytest

from tests.ops.case import Case, check
from tests.support.lanes import spread

SUMS = ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare")
MIXING = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSumExp")
ALL = (*SUMS, *MIXING, "ReduceLogSum")
BEHIND = {"ReduceLogSum": "p = Exp(h)"}  # a logarithm needs something positive

IMAGE = "(float[N,3,4,4] x) => (float[N,2%s] y) <float[8,3,1,1] w, float[2,8%s] v"
ROWS = "(float[N,3] x) => (float[N%s] y) <float[3,8] w"


def _by_input(op: str, opset: int) -> bool:
    return opset >= (13 if op == "ReduceSum" else 18)


def _over_space(op: str, opset: int) -> Case:
    """Channels pass a reduction over space."""
    behind = BEHIND.get(op, "p = Identity(h)")
    line = f"a = {op}(p, axes)" if _by_input(op, opset) else f"a = {op} <axes = [2, -1]> (p)"
    return Case(f"{op} over space, opset {opset}", IMAGE % (",1,1", ",1,1") + (", int64[2] axes>" if "axes)" in line else ">")
                + f"{{ h = Conv(x, w)  {behind}  {line}  y = Conv(a, v) }}", {"w:0": "8 exact"}, opset,
                constants={"axes": [2, -1]})


def _over_space_flat(op: str) -> Case:
    """The same without keeping the axes."""
    behind = BEHIND.get(op, "p = Identity(h)")
    return Case(f"{op} over space, axes dropped", f"""(float[N,3,4,4] x) => (float[N,2] y)
        <float[8,3,1,1] w, float[8,2] v, int64[2] axes>
        {{ h = Conv(x, w)  {behind}  a = {op} <keepdims = 0> (p, axes)  y = MatMul(a, v) }}""", {"w:0": "8 exact"},
                constants={"axes": [3, 2]})


def _over_channels(op: str, opset: int) -> Case:
    """A reduction over the channels themselves."""
    behind = BEHIND.get(op, "p = Identity(h)")
    line = f"y = {op} <keepdims = 0> (p, axes)" if _by_input(op, opset) else f"y = {op} <axes = [-1], keepdims = 0> (p)"
    return Case(f"{op} over channels, opset {opset}", ROWS % "" + (", int64[1] axes>" if "axes)" in line else ">")
                + f"{{ h = MatMul(x, w)  {behind}  {line} }}", {"w:1": "8 exact"}, opset, constants={"axes": [-1]})


MEANS = [
    Case("ReduceMean over channels that are computed of zeros", ROWS % "" + """>
        { h = MatMul(x, w)  e = Exp(h)  y = ReduceMean <axes = [-1], keepdims = 0> (e) }""", {"w:1": "8 exact"}, 13),
    Case("ReduceMean over channels that are not zero once masked", """(float[N,3,4,4] x) => (float[N] y)
        <float[8,3,1,1] w> { h = Conv(x, w)  e = ReduceLogSumExp <axes = [2, 3]> (h)  s = Exp(e)
          y = ReduceMean <axes = [1, 2, 3], keepdims = 0> (s) }""", {"w:0": "8 mixing: sums over the axis"}, 13),
    Case("ReduceMean over two axes that lose something", """(float[3] x, float[4] z) => (float[1,1] y)
        <float[3,8] w, float[4,6] v, int64[1] one> { a = MatMul(x, w)  b = MatMul(z, v)  c = Unsqueeze(a, one)
          p = Mul(c, b)  y = ReduceMean(p) }""", {"w:1": "8 exact", "v:1": "6 exact"}, 13, constants={"one": 1}),
    Case("ReduceMean in half precision", "(float16[N,3] x) => (float16[N] y) <float16[3,8] w>"
         "{ h = MatMul(x, w)  y = ReduceMean <axes = [-1], keepdims = 0> (h) }", {"w:1": "8 exact"}, 13),
    Case("ReduceMean of whole numbers rounds", """(float[N,3] x) => (int32[N] y) <float[3,8] w>
        { h = MatMul(x, w)  i = Cast <to = 6> (h)  y = ReduceMean <axes = [-1], keepdims = 0> (i) }""",
         {"w:1": "8 exact"}, 13),
    Case("ReduceMax over channels that are computed of zeros", ROWS % "" + """>
        { h = MatMul(x, w)  e = Exp(h)  y = ReduceMax <axes = [-1], keepdims = 0> (e) }""", {"w:1": "8 exact"}, 13),
    Case("ReduceMax over channels that are not zero once masked", """(float[N,3,4,4] x) => (float[N] y)
        <float[8,3,1,1] w> { h = Conv(x, w)  e = ReduceLogSumExp <axes = [2, 3]> (h)
          y = ReduceMax <axes = [1, 2, 3], keepdims = 0> (e) }""", {"w:0": "8 mixing: mixes the axis"}, 13),
    Case("attention over places by mean and maximum of channels", """(float[N,3,5,5] x) => (float[N,2,5,5] y)
        <float[8,3,3,3] w, float[1,2,3,3] s, float[2,8,1,1] v>
        { h = Conv <pads = [1, 1, 1, 1]> (x, w)  a = ReduceMean <axes = [1]> (h)  b = ReduceMax <axes = [1]> (h)
          c = Concat <axis = 1> (a, b)  d = Conv <pads = [1, 1, 1, 1]> (c, s)  e = Sigmoid(d)  f = Mul(h, e)
          y = Conv(f, v) }""", {"w:0": "8 exact"}, 13),
    Case("ReduceMean whose readers are many", """(float[N,3] x) => (float[N,8] y, float[N,1] m) <float[3,8] w, float[8,8] v>
        { h = MatMul(x, w)  m = ReduceMean <axes = [-1]> (h)  a = Mul(h, m)  b = Add(a, m)  y = MatMul(a, v) }""",
         {"w:1": "8 exact"}, 13),
]


WRITTEN_OUT = [
    Case("a layer normalization", """(float[N,3] x) => (float[N,2] y) <float[3,8] w, float[8] b, float[8] g, float two,
        float e, float[8,2] v> { h = MatMul(x, w)  m = ReduceMean <axes = [-1]> (h)  c = Sub(h, m)  p = Pow(c, two)
          s = ReduceMean <axes = [-1]> (p)  t = Add(s, e)  r = Sqrt(t)  d = Div(c, r)  f = Mul(d, g)  n = Add(f, b)
          y = MatMul(n, v) }""", {"w:1": "8 exact"}, 13, constants={"two": 2, "e": 0.01}),
    Case("of what is an output too", """(float[N,3] x) => (float[N,8] c, float[N,1] s) <float[3,8] w, float[8,8] v>
        { h = MatMul(x, w)  q = Exp(h)  s = ReduceMean <axes = [-1]> (q)  d = Mul(q, s)  c = MatMul(d, v) }""",
         {"w:1": "8 exact"}, 13),
    Case("over two axes, together and alone", """(float[3] x, float[4] z) => (float[1,1] y, float[8] s, float[1,6] t)
        <float[3,8] w, float[4,6] v, int64[1] one, float[6,6] u, float[8,8] q> { a = MatMul(x, w)  b = MatMul(z, v)
          c = Unsqueeze(a, one)  p = Mul(c, b)  f = Exp(p)  y = ReduceMean(f)  g = ReduceMax <axes = [1], keepdims = 0> (f)
          s = MatMul(g, q)  i = ReduceMean <axes = [0]> (f)  t = MatMul(i, u) }""", {"w:1": "8 exact", "v:1": "6 exact"}, 13,
         constants={"one": 1}),
    Case("a softmax", """(float[N,3] x) => (float[N,2] y) <float[3,8] w, float[8,2] v> { h = MatMul(x, w)
          m = ReduceMax <axes = [-1]> (h)  c = Sub(h, m)  e = Exp(c)  s = ReduceSum <keepdims = 1> (e, one)
          p = Div(e, s)  y = MatMul(p, v) }""".replace("float[8,2] v>", "float[8,2] v, int64[1] one>"),
         {"w:1": "8 exact"}, 13, constants={"one": 1}),
    Case("divided by what is zero once masked", """(float[N,3] x) => (float[N] y) <float[3,8] w, float[8] g>
        { h = MatMul(x, w)  d = Div(h, g)  e = Exp(d)  y = ReduceMean <axes = [-1], keepdims = 0> (e) }""",
         {"w:1": "8 exact"}, 13),
    Case("reshaped to lengths that are cut", """(float[N,3] x) => (float[N] y) <float[3,8] w>
        { h = MatMul(x, w)  cut = Shape(h)  e = Exp(h)  r = Reshape(e, cut)
          y = ReduceMean <axes = [-1], keepdims = 0> (r) }""", {"w:1": "8 mixing: sums over the axis"}, 13),
    Case("raised to powers that are no weights", """(float[N,3] x) => (float[N] y) <float[3,8] w, int32[8] k>
        { h = MatMul(x, w)  p = Pow(h, k)  y = ReduceMean <axes = [-1], keepdims = 0> (p) }""",
         {"w:1": "8 mixing: sums over the axis"}, 13, constants={"k": [0, 1, 2, 3, 1, 2, 0, 2]}),
    Case("a sigmoid", """(float[N,3] x) => (float[N] y) <float[3,8] w, float pos_o> { h = MatMul(x, w)  n = Neg(h)
          e = Exp(n)  d = Add(e, pos_o)  q = Reciprocal(d)  y = ReduceMean <axes = [-1], keepdims = 0> (q) }""",
         {"w:1": "8 exact"}, 13),
    Case("divided by itself", """(float[N,3] x) => (float[N] y) <float[3,8] w, float c>
        { h = MatMul(x, w)  p = Add(h, c)  q = Reciprocal(h)  e = Mul(p, q)
          y = ReduceMean <axes = [-1], keepdims = 0> (e) }""", {"w:1": "8 mixing: sums over the axis"}, 13),
]
"""What adds up over channels that are computed element by element of what is zero once masked."""


def _zero_behind(op: str) -> Case:
    """Reduced over space first, then summed over channels: exact where the reduction keeps zero."""
    exact = op in (*SUMS, "ReduceMean", "ReduceMax", "ReduceMin")
    behind = BEHIND.get(op, "p = Identity(h)")
    return Case(f"{op} over space, then summed", f"""(float[N,3,4,4] x) => (float[N] y)
        <float[8,3,1,1] w, int64[2] axes, int64[1] one>
        {{ h = Conv(x, w)  {behind}  a = {op} <keepdims = 0> (p, axes)  y = ReduceSum <keepdims = 0> (a, one) }}""",
                {"w:0": "8 exact" if exact else "8 mixing: sums over the axis"}, constants={"axes": [3, 2], "one": 1})


CASES = [
    *(_over_space(op, opset) for op in ALL for opset in (11, 13, 18)),
    *(_over_space_flat(op) for op in ALL),
    *(_over_channels(op, opset) for op in ALL for opset in (11, 13, 18)),
    *(_zero_behind(op) for op in ALL),
    *MEANS,
    Case("everything is summed", """(float[N,3] x) => (float y) <float[3,8] w>
        { h = MatMul(x, w)  y = ReduceSum <keepdims = 0> (h) }""", {"w:1": "8 exact"}),
    Case("no axes and nothing to do", """(float[N,3] x) => (float[N,2] y) <float[3,8] w, float[8,2] v>
        { h = MatMul(x, w)  a = ReduceSum <noop_with_empty_axes = 1> (h)  y = MatMul(a, v) }""", {"w:1": "8 exact"}),
    Case("a sum over what is computed of zeros", """(float[N,3] x) => (float[N] y) <float[3,8] w, int64[1] one>
        { h = MatMul(x, w)  s = Softplus(h)  y = ReduceSum <keepdims = 0> (s, one) }""",
         {"w:1": "8 exact"}, constants={"one": 1}),
    *WRITTEN_OUT,
    Case("axes that only the run tells", """(float[N,3] x, int64[1] axes) => (float[N,1] y) <float[3,8] w>
        { h = MatMul(x, w)  y = ReduceSum(h, axes) }""", {"w:1": "8 pinned: takes its axes from the run"},
         feeds={"axes": [1]}),
    *(Case(f"{op} over channels", f"""(float[N,3] x) => (int64[N] y) <float[3,8] w>
        {{ h = MatMul(x, w)  y = {op} <axis = 1, keepdims = 0> (h) }}""",
           {"w:1": "8 pinned: returns positions along it"}) for op in ("ArgMax", "ArgMin")),
    *(Case(f"{op} over space lets channels pass", f"""(float[N,3,4,4] x) => (float[N,2] y)
        <float[8,3,1,1] w, float[8,2] v, int64[1] axes> {{ h = Conv(x, w)  i = {op} <axis = 2, keepdims = 0> (h)
          f = Cast <to = 1> (i)  a = ReduceMean <keepdims = 0> (f, axes)  y = MatMul(a, v) }}""", {"w:0": "8 exact"},
           constants={"axes": 2}) for op in ("ArgMax", "ArgMin")),
    Case("TopK over channels", """(float[N,3] x) => (float[N,4] y) <float[3,8] w, int64[1] k>
        { h = MatMul(x, w)  y, i = TopK <axis = 1> (h, k) }""", {"w:1": "8 mixing: chooses among them"},
         constants={"k": 4}),
    Case("TopK over channels, with their positions", """(float[N,3] x) => (float[N,4] y, int64[N,4] i)
        <float[3,8] w, int64[1] k> { h = MatMul(x, w)  y, i = TopK <axis = 1> (h, k) }""",
         {"w:1": "8 pinned: returns positions along it"}, constants={"k": 4}),
    Case("TopK over space lets channels pass", """(float[N,3,4,4] x) => (float[N,2,4,2] y)
        <float[8,3,1,1] w, float[2,8,1,1] v, int64[1] k>
        { h = Conv(x, w)  a, i = TopK(h, k)  y = Conv(a, v) }""", {"w:0": "8 exact"}, constants={"k": 2}),
    Case("CumSum over channels that are zero once masked", """(float[N,3] x) => (float[N,2] y)
        <float[3,8] w, float[8,2] v, int64 one> { h = MatMul(x, w)  a = CumSum(h, one)  y = MatMul(a, v) }""",
         {"w:1": "8 exact"}, constants={"one": 1}),
    Case("CumSum backwards and shifted", """(float[N,3] x) => (float[N,2] y) <float[3,8] w, float[8,2] v, int64 one>
        { h = MatMul(x, w)  a = CumSum <reverse = 1, exclusive = 1> (h, one)  y = MatMul(a, v) }""",
         {"w:1": "8 exact"}, constants={"one": -1}),
    Case("CumSum over channels that are not", """(float[N,3] x) => (float[N,2] y)
        <float[3,8] w, float[8,2] v, int64 one> { h = MatMul(x, w)  s = Exp(h)  a = CumSum(s, one)  y = MatMul(a, v) }""",
         {"w:1": "8 mixing: sums over the axis"}, constants={"one": 1}),
    Case("what a CumSum leaves behind is not zero", """(float[N,3] x) => (float[N] y) <float[3,8] w, int64 one,
        int64[1] axes> { h = MatMul(x, w)  a = CumSum(h, one)  y = ReduceSum <keepdims = 0> (a, axes) }""",
         {"w:1": "8 mixing: sums over the axis"}, constants={"one": 1, "axes": 1}),
    Case("CumSum over space lets channels pass", """(float[N,3,4,4] x) => (float[N,2,4,4] y)
        <float[8,3,1,1] w, float[2,8,1,1] v, int64 two> { h = Conv(x, w)  a = CumSum(h, two)  y = Conv(a, v) }""",
         {"w:0": "8 exact"}, constants={"two": 2}),
    Case("CumSum along an axis that only the run tells", """(float[N,3] x, int64 axis) => (float[N,2] y)
        <float[3,8] w, float[8,2] v> { h = MatMul(x, w)  a = CumSum(h, axis)  y = MatMul(a, v) }""",
         {"w:1": "8 pinned: takes its axis from the run"}, feeds={"axis": 0}),
]


@pytest.mark.parametrize("case", spread(CASES), ids=lambda c: c.name)
def test_removal_equals_masking(case: Case) -> None:
    check(case)
