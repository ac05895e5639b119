"""Bodies of If, Loop and Scan: channels pass into them, round them and out of them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxprune.coupling import Grade
from tests.ops.case import Case, assert_groups, build, check, coupling_of

IF = """(float[N,3] x, bool flag) => (float[N,2] y)
<float[3,6] w, float[6,6] p, float[6,6] q, float[6,2] v>
{
  h = MatMul(x, w)
  b = If (flag) <
    then_branch = yes () => (float[N,6] t) { s = MatMul(h, p)  t = Relu(s) },
    else_branch = no () => (float[N,6] e) { r = MatMul(h, q)  e = Tanh(r) }>
  %s
}"""

LOOP = """(float[1,3] x) => (float[1,2] y)
<float[3,6] w, float[6,6] r, float[6] b, float[6,2] v, int64 trips, bool go>
{
  h0 = MatMul(x, w)
  h, steps = Loop (trips, go, h0) <body = once (int64 i, bool c, float[1,6] s) => (bool c2, float[1,6] t, float[1,6] o)
  { c2 = Identity(c)  m = MatMul(s, r)  %s  o = Relu(t) }>
  %s
}"""

SCAN = """(float[5,3] x) => (float[4] y, float[5,2] z)
<float[3,6] w, float[6,6] r, float[6] h0, float[6,4] u, float[6,2] v>
{
  h, hs = Scan <num_scan_inputs = 1%s, body = step (float[6] s, float[3] xi) => (float[6] t, float[6] o)
  { a = MatMul(xi, w)  b = MatMul(s, r)  c = Add(a, b)  t = Tanh(c)  o = Relu(t) }> (h0, x)
  y = MatMul(h, u)
  %s
}"""

ROUND = {"w:1": "6 exact"}
CASES = [
    Case("branches are one value", IF % "y = MatMul(b, v)", {"w:1": "6 exact", "p:1": "6 exact"}, feeds={"flag": True}),
    Case("the other branch", IF % "y = MatMul(b, v)", {"w:1": "6 exact", "p:1": "6 exact"}, feeds={"flag": False}),
    Case("a branch that loses zero", IF.replace("Tanh", "Sigmoid") % "n = ReduceL2 <axes = [1]> (b)  y = Concat <axis = 1> (n, n)",
         {"w:1": "6 exact", "p:1": "6 mixing: sums over"}, feeds={"flag": True}, opset=17),
    Case("both branches keep zero", IF % "n = ReduceL2 <axes = [1]> (b)  y = Concat <axis = 1> (n, n)",
         {"w:1": "6 exact", "p:1": "6 exact"}, feeds={"flag": False}, opset=17),
    Case("a state goes round", LOOP % ("n = Add(m, b)  t = Tanh(n)", "y = MatMul(h, v)"), {"w:1": "6 exact"},
         constants={"trips": 3, "go": True}),
    Case("no round at all", LOOP % ("n = Add(m, b)  t = Tanh(n)", "y = MatMul(h, v)"), {"w:1": "6 exact"},
         constants={"trips": 0, "go": True}),
    Case("what a loop collects", LOOP % ("n = Add(m, b)  t = Tanh(n)", "k = ReduceSum(steps, zero)  y = MatMul(k, v)"),
         {"w:1": "6 exact"}, constants={"trips": 3, "go": True}),
    Case("a state that stays zero", LOOP % ("n = Add(m, b)  t = Tanh(n)", "l = ReduceL1 <axes = [1]> (h)  y = Concat <axis = 1> (l, l)"),
         {"w:1": "6 exact"}, constants={"trips": 3, "go": True}, opset=17),
    Case("a state that is lifted", LOOP % ("n = Add(m, b)  t = Exp(n)", "l = ReduceL1 <axes = [1]> (h)  y = Concat <axis = 1> (l, l)"),
         {"w:1": "6 mixing: sums over"}, constants={"trips": 3, "go": True}, opset=17),
    Case("a scan", SCAN % ("", "z = MatMul(hs, v)"), {"w:1": "6 exact"}),
    Case("a scan from behind", SCAN % (", scan_input_directions = [1], scan_output_directions = [1]", "z = MatMul(hs, v)"),
         {"w:1": "6 exact"}),
    Case("a scan along another axis", SCAN % (", scan_output_axes = [1]", "k = Transpose(hs)  z = MatMul(k, v)"),
         {"w:1": "6 exact"}),
]
