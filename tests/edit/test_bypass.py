"""A model without summands computes what it computes with these at zero, and nothing of them is left."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxprune.edit.bypass import Summand, bypass, silence
from onnxprune.errors import PlanError
from onnxprune.model.model import load
from onnxprune.runtime.session import session
from tests.ops.case import build, random_feeds

CHAIN = """(float[N,4] x) => (float[N,2] z) <float[4,4] w, float[4] b, float[4,4] u, float[4,2] v>
    { h = MatMul(x, w)  f = Add(h, b)  y = Add(x, f)  g = MatMul(y, u)  s = Add(g, y)  z = MatMul(s, v) }"""
NESTED = """(float[N,4] x) => (float[N,4] y) <float[4,4] w, float[4,4] u>
    { h = MatMul(x, w)  k = MatMul(h, u)  s = Add(h, k)  y = Add(x, s) }"""


def shortened(text: str, *summands: tuple[str, str]) -> onnx.ModelProto:
    """The model without some summands, once it equals the one with these at zero."""
    original = build(text)
    short, silent = load(original), load(original)
    cuts = [Summand(*one) for one in summands]
    bypass(short, cuts)
    silence(silent, cuts)
    onnx.checker.check_model(short.proto, full_check=True)
    feeds = random_feeds(original)
    for a, b in zip(session(silent).run(None, feeds), session(short).run(None, feeds), strict=True):
        np.testing.assert_array_equal(a, b)
    return short.proto


def test_a_branch_goes_with_its_weights() -> None:
    short = shortened(CHAIN, ("y", "f"))
    assert [node.op_type for node in short.graph.node] == ["MatMul", "Add", "MatMul"]
    assert {t.name for t in short.graph.initializer} == {"u", "v"}


def test_branches_one_after_the_other() -> None:
    short = shortened(CHAIN, ("y", "f"), ("s", "g"))
    assert [node.op_type for node in short.graph.node] == ["MatMul"]
    assert list(short.graph.node[0].input) == ["x", "v"]


@pytest.mark.parametrize("cuts", [[("s", "k"), ("y", "s")], [("s", "k")], [("y", "s")]])
def test_branches_within_branches(cuts: list[tuple[str, str]]) -> None:
    """The sum is an output, which keeps its name."""
    short = shortened(NESTED, *cuts)
    assert len(short.graph.node) == (2 if cuts == [("s", "k")] else 1)
    assert short.graph.output[0].name == "y"


def test_a_weight_that_others_read_stays() -> None:
    tied = CHAIN.replace("g = MatMul(y, u)", "g = MatMul(y, w)").replace(", float[4,4] u", "")
    assert "w" in {t.name for t in shortened(tied, ("y", "f")).graph.initializer}


def test_what_nothing_needed_before_stays() -> None:
    """Only what the branch alone needed goes."""
    model = build(CHAIN)
    model.graph.node.append(helper.make_node("MatMul", ["x", "dead"], ["nowhere"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 4), np.float32), "dead"))
    short = load(model)
    bypass(short, [Summand("y", "f")])
    assert "dead" in {t.name for t in short.proto.graph.initializer}


def test_a_body_reads_the_other_summand() -> None:
    short = shortened(
        """(float[2,4] x, bool c) => (float[2,4] z) <float[4,4] w>
        { f = MatMul(x, w)  y = Add(x, f)
          z = If (c) <then_branch = t () => (float[2,4] a) { a = Neg(y) }, else_branch = e () => (float[2,4] b)
          { b = Identity(y) }> }""",
        ("y", "f"),
    )
    assert [node.op_type for node in short.graph.node] == ["If"]


@pytest.mark.parametrize("cut", [("nothing", "f"), ("y", "nothing"), ("h", "x")])
def test_a_sum_that_is_none_is_refused(cut: tuple[str, str]) -> None:
    with pytest.raises(PlanError, match="the model has no such sum"):
        bypass(load(build(CHAIN)), [Summand(*cut)])
