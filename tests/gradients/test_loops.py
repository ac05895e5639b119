"""Gradients of Loop and Scan: iterations that are walked backwards."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.gradients.differentiate import differentiate
from onnxprune.gradients.trainable import parameters
from onnxprune.model.model import Model
from tests.gradients.cases import Row
from tests.gradients.differences import check, session
from tests.ops.case import build

BODY = "(int64 i, bool c, real[2,3] s)"
CELL = "{ d = Identity(c) a = MatMul(s, w) t = Tanh(a) }"
ROWS = [
    *(
        Row(
            f"state in opset {opset}",
            f"""(real[2,3] x) => (real[2,3] y) <real[3,3] w, int64 kn, bool kc>
            {{ y = Loop (kn, kc, x) <body = b {BODY} => (bool d, real[2,3] t) {CELL}> }}""",
            {"kn": 3, "kc": 1},
            opset,
        )
        for opset in (9, 11, 13, 21)
    ),
    Row(
        "no iteration",
        f"""(real[2,3] x) => (real[2,3] y) <real[3,3] w, int64 kn>
        {{ r = Loop (kn, , x) <body = b {BODY} => (bool d, real[2,3] t) {CELL}> y = MatMul(r, w) }}""",
        {"kn": 0},
    ),
    Row(
        "two states that trade places, of which one is stacked",
        """(real[2,3] x, real[2,3] z) => (real[2,3] y, real[4,2,3] p) <real[3] w, int64 kn>
        { y, v, p = Loop (kn, , x, z) <body = b (int64 i, bool c, real[2,3] s, real[2,3] u)
          => (bool d, real[2,3] t, real[2,3] s, real[2,3] q)
          { d = Identity(c) a = Mul(s, w) q = Sin(a) t = Mul(q, u) }> }""",
        {"kn": 4},
    ),
    Row(
        "no state",
        """(real[4,3] x) => (real[4,3] p) <real[3] v, int64 kn, bool kc>
        { p = Loop (kn, kc) <body = b (int64 i, bool c) => (bool d, real[3] t)
          { d = Identity(c) a = Gather(x, i) e = Sin(a) t = Mul(e, v) }> }""",
        {"kn": 4, "kc": 1},
    ),
    Row(
        "two states that begin and end as one",
        """(real[2,3] x) => (real[2,3] y, real[2,3] z, real[3,2,3] p) <real[3] v, int64 kn>
        { y, z, p = Loop (kn, , x, x) <body = b (int64 i, bool c, real[2,3] s, real[2,3] u)
          => (bool d, real[2,3] t, real[2,3] t, real[2,3] t)
          { d = Identity(c) a = Sin(s) e = Mul(a, u) t = Mul(e, v) }> }""",
        {"kn": 3},
    ),
    Row(
        "numbers and conditions of one axis",
        """(real[2,3] x) => (real[2,3] y) <int64 kn, bool[1] kc>
        { y = Loop (kn, kc, x) <body = b (int64[1] i, bool[1] c, real[2,3] s) => (bool[1] d, real[2,3] t)
          { d = Identity(c) k = Cast <to = TYPE> (i) m = Cast <to = TYPE> (c) a = Sin(s) u = Mul(a, k)
            t = Mul(u, m) }> }""",
        {"kn": 3, "kc": 1},
    ),
    Row(
        "condition that ends it",
        f"""(real[2,3] x) => (real[2,3] y) <real[3,3] w, int64 kn, int64 km, bool kc>
        {{ y = Loop (kn, kc, x) <body = b {BODY} => (bool d, real[2,3] t)
          {{ d = Less(i, km) a = MatMul(s, w) t = Tanh(a) }}> }}""",
        {"kn": 100, "km": 2, "kc": 1},
    ),
    Row(
        "input by the number of the iteration, a counter, and weights that are states",
        """(real[4,2,3] x, real[2,3] z) => (real[2,3] y, real[4,2,3] p) <real[3,3] w, real[3] v, int64 kn, int32 k0, int32 k1>
        { j, y, r, p = Loop (kn, , k0, z, w) <body = b (int64 i, bool c, int32 n, real[2,3] s, real[3,3] u)
          => (bool d, int32 m, real[2,3] t, real[3,3] u, real[2,3] t)
          { d = Identity(c) m = Add(n, k1) o = Gather(x, n) a = MatMul(o, u) e = Add(a, v) f = Mul(s, v)
            g = Add(e, f) t = Tanh(g) }> }""",
        {"kn": 4, "k0": 0, "k1": 1},
    ),
    Row(
        "factor that is the number of the iteration",
        f"""(real[2,3] x) => (real[2,3] y) <int64 kn>
        {{ y = Loop (kn, , x) <body = b {BODY} => (bool d, real[2,3] t)
          {{ d = Identity(c) k = Cast <to = TYPE> (i) a = Sin(s) t = Mul(a, k) }}> }}""",
        {"kn": 3},
    ),
    Row(
        "state that is overwritten, and one that nothing reads",
        """(real[2,3] x, real[2,3] z) => (real[2,3] y, real[3,2,3] p) <real[3,3] w, int64 kn>
        { y, v, p = Loop (kn, , x, z) <body = b (int64 i, bool c, real[2,3] s, real[2,3] u)
          => (bool d, real[2,3] t, real[2,3] r, real[2,3] o)
          { d = Identity(c) t = MatMul(u, w) r = Tanh(u) o = Identity(x) }> }""",
        {"kn": 3},
    ),
    Row(
        "branches",
        f"""(real[2,3] x) => (real[2,3] y) <real[3,3] w, real[3] v, int64 kn, int64 km>
        {{ y = Loop (kn, , x) <body = b {BODY} => (bool d, real[2,3] t)
          {{ d = Identity(c) e = Less(i, km) a = MatMul(s, w)
            t = If (e) <then_branch = g () => (real[2,3] f) {{ h = Mul(a, v) f = Sin(h) }},
              else_branch = h () => (real[2,3] n) {{ n = Add(a, v) }}> }}> }}""",
        {"kn": 3, "km": 2},
    ),
    Row(
        "branches and iterations in branches",
        """(real[2,3] x) => (real[2,3] y) <real[3] v, int64 kn, int64 km, int64 kl>
        { y = Loop (kn, , x) <body = b (int64 i, bool c, real[2,3] s) => (bool d, real[2,3] t)
          { d = Identity(c) e = Less(i, km) l = Less(i, kl)
            t = If (e) <then_branch = g () => (real[2,3] f) { h = Mul(s, v)
                f = If (l) <then_branch = gg () => (real[2,3] ff) { ff = Sin(h) },
                  else_branch = hh () => (real[2,3] fg) { fh = Mul(h, s) fg = Mul(fh, v) }> },
              else_branch = h () => (real[2,3] n) {
                o = Loop (km, , s) <body = bb (int64 j, bool cc, real[2,3] ss) => (bool dd, real[2,3] tt)
                  { dd = Identity(cc) aa = Mul(ss, v) tt = Sin(aa) }> n = Mul(o, s) }> }> }""",
        {"kn": 4, "km": 3, "kl": 1},
    ),
    Row(
        "iterations of a branch",
        f"""(real[2,3] x) => (real[2,3] y) <real[3,3] w, real[3] v, int64 kn, bool kc>
        {{ y = If (kc) <then_branch = g () => (real[2,3] f)
            {{ z = Mul(x, v) f = Loop (kn, , z) <body = b {BODY} => (bool d, real[2,3] t) {CELL}> }},
          else_branch = h () => (real[2,3] n) {{ n = Add(x, v) }}> }}""",
        {"kn": 3, "kc": 1},
    ),
    Row(
        "iterations in iterations",
        """(real[2,3] x) => (real[2,3] y) <real[3,3] w, real[3] v, int64 kn>
        { y = Loop (kn, , x) <body = b (int64 i, bool c, real[2,3] s) => (bool d, real[2,3] t)
          { d = Identity(c) m = Add(i, kn) z = Mul(s, v)
            r, q = Loop (m, , z) <body = h (int64 j, bool e, real[2,3] f) => (bool k, real[2,3] l, real[2,3] p)
              { k = Identity(e) n = MatMul(f, w) o = Mul(n, s) l = Tanh(o) p = Add(l, v) }>
            a = ReduceSum <keepdims = 0> (q, kz) t = Add(a, r) }> }""".replace("int64 kn>", "int64 kn, int64[1] kz>"),
        {"kn": 2, "kz": [0]},
    ),
    Row(
        "Scan",
        """(real[4,2] x, real[1,3] z) => (real[1,3] y, real[4,1,3] p) <real[2,3] w, real[3,3] v>
        { y, p = Scan <num_scan_inputs = 1, body = b (real[1,3] s, real[2] o) => (real[1,3] t, real[1,3] q)
          { a = MatMul(s, v) e = Mul(w, s) f = Unsqueeze(o, k0) g = MatMul(f, e) h = Add(a, g) t = Tanh(h)
            q = Mul(t, s) }> (z, x) }""".replace("v>", "v, int64[1] k0>", 1),
        {"k0": [0]},
    ),
    Row(
        "Scan along other axes, and backwards",
        """(real[2,4] x, real[4,2] u, real[2] z) => (real[2] y, real[2,4] p, real[4,2] q, real[2,4] o) <real[2] w>
        { y, p, q, o = Scan <num_scan_inputs = 2, scan_input_axes = [1, 0], scan_input_directions = [1, 0],
          scan_output_axes = [1, 0, -1], scan_output_directions = [0, 1, 1],
          body = b (real[2] s, real[2] m, real[2] n) => (real[2] t, real[2] e, real[2] f, real[2] l)
          { a = Mul(m, w) e = Add(s, a) f = Mul(e, n) g = Mul(f, s) t = Sin(g) l = Identity(m) }> (z, x, u) }""",
    ),
    Row(
        "Scan of a negative axis in opset 9",
        """(real[2,3,4] x, real[2,3] z) => (real[2,3] y)
        { y = Scan <num_scan_inputs = 1, scan_input_axes = [-1], body = b (real[2,3] s, real[2,3] m) => (real[2,3] t)
          { a = Mul(m, s) t = Sin(a) }> (z, x) }""",
        opset=9,
    ),
    Row(
        "Scan of iterations",
        f"""(real[4,2,3] x, real[2,3] z) => (real[2,3] y) <real[3,3] w, int64 kn>
        {{ y = Scan <num_scan_inputs = 1, body = h (real[2,3] e, real[2,3] m) => (real[2,3] f)
          {{ g = Mul(m, e) f = Loop (kn, , g) <body = b {BODY} => (bool d, real[2,3] t) {CELL}> }}> (z, x) }}""",
        {"kn": 2},
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_iterations(row: Row) -> None:
    check(row, session)  # onnx's own evaluator stacks otherwise, and runs no iteration without a condition


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("{ d = Identity(c) a = MatMul(s, w) t = Hardmax(a) }", "Hardmax has no gradient rule"),
        (
            "{ d = Identity(c) r = RandomNormal <shape = [2,3]> () a = MatMul(s, w) t = Mul(a, r) }",
            "may make something else",
        ),
        ("{ d = Identity(c) a = MatMul(s, w) t = Concat <axis = 0> (a, s) }", "may change from iteration to iteration"),
        ("{ d = Identity(c) x = MatMul(s, w) t = Tanh(x) }", "has a value 'x', and so has the graph around it"),
    ],
)
def test_what_cannot_be_walked_backwards(body: str, reason: str) -> None:
    text = f"""(float[A,3] x, int64 n) => (float[B,3] y) <float[3,3] w>
        {{ y = Loop (n, , x) <body = b (int64 i, bool c, float[D,3] s) => (bool d, float[E,3] t) {body}> }}"""
    if "change" not in reason:
        text = text.replace("A,", "2,").replace("B,", "2,").replace("D,", "2,").replace("E,", "2,")
    made = differentiate(Model(build(text)), ["y"], ["w"])
    assert not made.gradients and reason in made.reasons["w"]


def test_an_operator_without_gradient_that_no_output_depends_on_stops_nothing() -> None:
    """Nor is it run again, nor is a state kept that only it reads."""
    text = """(float[2,3] x, float[2,3] z, int64 n) => (float[2,3] y) <float[3,3] w>
        { y, o = Loop (n, , x, z) <body = b (int64 i, bool c, float[2,3] s, float[2,3] u)
          => (bool d, float[2,3] t, float[2,3] r)
          { d = Identity(c) a = MatMul(s, w) t = Tanh(a) r = Hardmax(u) }> }"""
    made = differentiate(Model(build(text)), ["y"], ["w", "z"])
    assert set(made.gradients) == {"w"} and "no output depends on it" in made.reasons["z"]
    forward, backward = (node for node in made.model.proto.graph.node if node.op_type == "Loop")
    assert len(forward.output) == 4  # two states, the number of the iteration, and one state at the beginning of each
    assert "Hardmax" not in [node.op_type for node in backward.attribute[0].g.node]
    feeds = {"x": np.ones((2, 3), np.float32), "z": np.ones((2, 3), np.float32), "n": np.array(2)}
    feeds |= {"w": np.eye(3, dtype=np.float32), made.seeds["y"]: np.ones((2, 3), np.float32)}
    assert session(made.model.proto).run([made.gradients["w"]], feeds)[0].shape == (3, 3)


def test_weights_that_are_states_are_trained() -> None:
    """A body gets them, turns them, and returns them as they are; what it changes is no weight."""
    text = """(float[2,3] x, int64 n) => (float[2,3] y) <float[3,3] w, float[3,3] v, float[3,3] u>
        { y, a, b, c = Loop (n, , x, w, v, u) <body = b (int64 i, bool g, float[2,3] s, float[3,3] p, float[3,3] q,
            float[3,3] r) => (bool d, float[2,3] t, float[3,3] p, float[3,3] q, float[3,3] o)
          { d = Identity(g) k = Transpose(q) e = MatMul(s, p) f = MatMul(e, k) h = MatMul(f, r) t = Tanh(h)
            o = Add(r, r) }> }"""
    assert set(parameters(Model(build(text)))) == {"w", "v"}
    assert set(differentiate(Model(build(text)), ["y"], ["w", "v", "u"]).gradients) == {"w", "v", "u"}
