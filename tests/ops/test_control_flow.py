"""Bodies of If, Loop and Scan: channels pass into them, round them and out of them."""

from __future__ import annotations

import onnx
import pytest

from onnxprune.coupling.groups import Grade
from tests.ops.case import Case, assert_groups, build, check, coupling_of

WIDE, SUM = "y = MatMul(b, v)", "n = ReduceL2 <axes = [1]> (b)  y = Concat <axis = 1> (n, n)"

BRANCHES = """(float[N,3] x, bool flag) => (float[N,2] y)
<float[3,6] w, float[6,6] p, float[6,6] q%s>
{
  h = MatMul(x, w)
  b = If (flag) <
    then_branch = yes () => (float[N,6] t) { s = MatMul(h, p)  t = Relu(s) },
    else_branch = no () => (float[N,6] e) { r = MatMul(h, q)  e = %s(r) }>
  %s
}"""

ROUNDS = """(float[1,3] x) => (float[1,2] y)
<float[3,6] w, float[6,6] r, float[6] b%s, int64 trips, bool go>
{
  h0 = MatMul(x, w)
  h, steps = Loop (trips, go, h0) <body = once (int64 i, bool c, float%s s) => (bool c2, float%s t, float%s o)
  { c2 = Identity(c)  m = MatMul(s, r)  n = Add(m, b)  t = %s(n)  o = Relu(t) }>
  %s
}"""

STEPS = """(float[5,3] x) => (float[4] y, float[5,2] z)
<float[3,6] w, float[6,6] r, float[6] h0, float[6,4] u, float[6,2] v>
{
  h, hs = Scan <num_scan_inputs = 1%s, body = step (float[6] s, float[3] xi) => (float[6] t, float[6] o)
  { a = MatMul(xi, w)  b = MatMul(s, r)  c = Add(a, b)  t = Tanh(c)  o = Relu(t) }> (h0, x)
  y = MatMul(h, u)
  %s
}"""


def branches(name: str, last: str, end: str, grade: str, **more: bool) -> Case:
    """If with branches of equal width."""
    text = BRANCHES % (", float[6,2] v" if end == WIDE else "", last, end)
    return Case(name, text, {"w:1": "6 exact", "p:1": f"6 {grade}"}, opset=17, feeds=more)


def rounds(name: str, last: str, end: str, grade: str, trips: int = 3, shape: str = "[1,6]") -> Case:
    """Loop that carries one state and collects it."""
    text = ROUNDS % (", float[6,2] v" if "v)" in end else "", shape, shape, shape, last, end)
    return Case(name, text, {"w:1": f"6 {grade}"}, opset=17, constants={"trips": trips, "go": True})


def steps(name: str, attributes: str, end: str) -> Case:
    """Scan over the first axis of its input."""
    return Case(name, STEPS % (attributes, end), {"w:1": "6 exact"})


LENGTH = "l = ReduceL1 <axes = [1]> (h)  y = Concat <axis = 1> (l, l)"
COLLECTED = "k = ReduceMax <axes = [0], keepdims = 0> (steps)  y = MatMul(k, v)"
ALWAYS = """(float[2,3] x) => (float[2,2] y) <float[3,6] w, float[6,6] p, float[6,2] v, %s>
    { h = MatMul(x, w)  %s
      b = If (flag) < then_branch = yes () => (float[2,6] t) { s = MatMul(h, p)  t = Relu(s) },
                      else_branch = no () => (float[1,2,6] e) { zero = Constant <value = int64[1] {0}> ()
                                                                r = Sin(h)  e = Unsqueeze(r, zero) }>
      y = MatMul(b, v) }"""
CASES = [
    Case("one branch is always taken", ALWAYS % ("bool[1] flag", ""), {"w:1": "6 exact", "p:1": "6 exact"},
         constants={"flag": True}),
    Case("a branch that is taken by a length, which changes", ALWAYS % (
        "int64[1] four", "l = Shape <start = 1, end = 2> (h)  flag = Greater(l, four)"),
         {"w:1": "6 exact", "p:1": "6 exact"}, constants={"four": 4}),
    Case("a branch that only the run tells, of another rank", ALWAYS.replace("float[2,3] x", "float[2,3] x, bool[1] flag") % (
        "float u", ""), {"w:1": "6 pinned", "p:1": "6 pinned"}, feeds={"flag": [True]}),
    Case("a shape by the branch that is always taken", """(float[2,3] x) => (float[1,2,2] y)
        <float[3,6] w, float[6,2] v, bool flag> { h = MatMul(x, w)
          s = If (flag) < then_branch = yes () => (int64[3] t) { t = Constant <value = int64[3] {1, 2, 6}> () },
                          else_branch = no () => (int64[2] e) { e = Constant <value = int64[2] {2, 6}> () }>
          r = Reshape(h, s)  y = MatMul(r, v) }""", {"w:1": "6 exact"}, constants={"flag": True}),
    branches("branches are one value", "Tanh", WIDE, "exact", flag=True),
    branches("the other branch", "Tanh", WIDE, "exact", flag=False),
    branches("both branches keep zero", "Tanh", SUM, "exact", flag=False),
    branches("one branch loses zero", "Sigmoid", SUM, "mixing: sums over", flag=False),
    rounds("a state goes round", "Tanh", "y = MatMul(h, v)", "exact"),
    rounds("no round at all", "Tanh", "y = MatMul(h, v)", "exact", trips=0),
    rounds("a body that states no shapes", "Tanh", "y = MatMul(h, v)", "exact", shape="[]"),
    rounds("what a loop collects", "Sigmoid", COLLECTED, "exact"),
    rounds("a state that stays zero", "Tanh", LENGTH, "exact"),
    rounds("a state that is lifted", "Exp", LENGTH, "mixing: sums over"),
    steps("a scan", "", "z = MatMul(hs, v)"),
    steps("a scan from behind", ", scan_input_directions = [1], scan_output_directions = [1]", "z = MatMul(hs, v)"),
    steps("a scan that collects on another axis", ", scan_output_axes = [1]", "k = Transpose(hs)  z = MatMul(k, v)"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_bodies(case: Case) -> None:
    check(case)


GROWING = """(float[1,3] x) => (float[M,6] y)
<float[3,6] w, int64 trips, bool go>
{
  h0 = MatMul(x, w)
  y = Loop (trips, go, h0) <body = once (int64 i, bool c, float[] s) => (bool c2, float[] t)
  { c2 = Identity(c)  t = Concat <axis = 0> (s, s) }>
}"""


def test_a_state_that_grows_is_not_believed_to_keep_its_shape() -> None:
    coupling = coupling_of(build(GROWING, 17, constants={"trips": 3, "go": True}))
    y = next(v for v in coupling.graph.values if v.name == "y")
    assert y.shape is None or not isinstance(y.shape[0], int)
    assert all(g.grade == Grade.PINNED for g in coupling.groups)


SEQUENCE = """(seq(float[2,3]) x) => (seq(float[2,6]) y)
<float[3,6] w>
{
  y = SequenceMap (x) <body = each (float[2,3] e) => (float[2,6] o) { o = MatMul(e, w) }>
}"""


def test_a_body_without_a_way_through_is_pinned() -> None:
    model = build(SEQUENCE, 17)
    onnx.checker.check_model(model)
    assert_groups(coupling_of(model), {"w:1": "6 pinned: works on sequences"})
