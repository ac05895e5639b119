"""Gradients through the branches of an If."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.gradients.differentiate import differentiate
from onnxprune.model.model import Model
from onnxprune.runtime.session import local_session
from tests.gradients.test_differentiate import gradients
from tests.ops.case import build

BRANCHES = """(double[2,3] x, bool p) => (double[2,3] y) <double[3,3] w, double[3,3] v>
    { a = MatMul(x, w) b = If (p) <
        then_branch = g () => (double[2,3] t) { u = MatMul(a, v) s = Tanh(u) t = Mul(s, a) },
        else_branch = h () => (double[2,3] e) { e = OPERATOR(a) } >
      y = Add(a, b) }"""


@pytest.mark.parametrize("chosen", [True, False])
def test_the_gradient_of_a_branch_is_that_of_the_branch_that_runs(chosen: bool) -> None:
    """The other branch, which may read less of the graph, counts for nothing."""
    branch = "u = MatMul(a, v) s = Tanh(u) b = Mul(s, a)" if chosen else "k = Mul(v, v) b = Neg(a)"
    plain = f"""(double[2,3] x, bool p) => (double[2,3] y) <double[3,3] w, double[3,3] v>
        {{ a = MatMul(x, w) {branch} y = Add(a, b) }}"""
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((3, 3)) for name in ("w", "v")}
    feeds = {"x": rng.standard_normal((2, 3)), "p": np.array(chosen), **arrays}
    found = []
    for text in (BRANCHES.replace("OPERATOR", "Neg"), plain):
        made = differentiate(Model(build(text)), ["y"], ["w", "v"])
        given = {**feeds, made.seeds["y"]: np.ones((2, 3))}
        names = [v.name for v in made.model.proto.graph.input]
        found.append(gradients(made, {name: given[name] for name in names}))
    assert set(found[0]) == {"w", "v"}
    for name, gradient in found[0].items():
        np.testing.assert_allclose(gradient, found[1].get(name, np.zeros((3, 3))), atol=1e-12)


def test_a_branch_without_gradient_stops_what_it_reads() -> None:
    made = differentiate(Model(build(BRANCHES.replace("OPERATOR", "Hardmax"))), ["y"], ["w", "v"])
    assert not made.gradients and set(made.reasons.values()) == {"Hardmax has no gradient rule"}


def test_what_old_exporters_make_of_squeeze() -> None:
    """An axis goes where its length is 1, which the run tells; in onnxruntime, the branches having several ranks."""
    model = build(
        """(float[N,1,3] x) => (float[M,3] y) <float[3,3] w, int64[1] one, int64 k>
        { a = MatMul(x, w) s = Shape(a) l = Gather(s, k) o = Constant <value = int64 {1}> () p = Equal(l, o)
          b = If (p) < then_branch = g () => (float[P,3] t) { t = Squeeze(a, one) },
            else_branch = h () => (float[A,B,3] e) { e = Identity(a) } >
          y = MatMul(b, w) }""",
        constants={"one": [1], "k": 1},
    )
    made = differentiate(Model(model), ["y"], ["w"])
    rng = np.random.default_rng(0)
    x, w, seed = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 1, 3), (3, 3), (4, 3)))
    (found,) = local_session(made.model).run([made.gradients["w"]], {"x": x, "w": w, made.seeds["y"]: seed})
    rows = x[:, 0]
    np.testing.assert_allclose(found, (rows @ w).T @ seed + rows.T @ (seed @ w.T), rtol=1e-5)


def test_a_vector_that_two_nodes_of_a_branch_read() -> None:
    """The graph takes it for one value a reader; its gradient counts once."""
    text = """(double[2,3] x, bool p) => (double[2,3] y) <double[3] v>
        { y = If (p) < then_branch = g () => (double[2,3] t) { a = Mul(x, v) s = Sin(a) t = Mul(s, v) },
          else_branch = h () => (double[2,3] e) { e = Neg(x) } > }"""
    made = differentiate(Model(build(text)), ["y"], ["v"])
    x, v, seed = (np.random.default_rng(i).standard_normal(s) for i, s in enumerate([(2, 3), (3,), (2, 3)]))
    found = gradients(made, {"x": x, "p": np.array(True), "v": v, made.seeds["y"]: seed})["v"]
    np.testing.assert_allclose(found, (seed * (np.cos(x * v) * x * v + np.sin(x * v))).sum(0))


def test_a_branch_that_is_random_cannot_be_run_again() -> None:
    text = BRANCHES.replace("e = OPERATOR(a)", "r = RandomNormal <shape = [3], dtype = 11> () e = Mul(a, r)")
    made = differentiate(Model(build(text)), ["y"], ["w"])
    assert "may make something else when it runs again" in made.reasons["w"]
