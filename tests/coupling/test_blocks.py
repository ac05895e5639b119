"""Blocks: which summands may be left out, and what goes with them."""

from __future__ import annotations

import pytest

from onnxprune.coupling.blocks import Block, find_blocks
from tests.ops.case import build, coupling_of


def blocks_of(text: str) -> list[Block]:
    return find_blocks(coupling_of(build(text)).graph)


def found(text: str) -> dict[str, list[str]]:
    """What each block is made of: its summand -> the operators that go with it."""
    return {block.summand: [node.op_type for node in block.nodes] for block in blocks_of(text)}


MLP = """(float[N,4] x) => (float[N,2] z) <float[4,6] w, float[6,4] u, float[4] b, float[4,2] v>
    { h = MatMul(x, w)  r = Relu(h)  k = MatMul(r, u)  f = Add(k, b)  y = Add(x, f)  z = MatMul(y, v) }"""


def test_a_residual_branch_is_a_block_with_all_that_only_it_needs() -> None:
    (block,) = blocks_of(MLP)
    assert (block.sum, block.summand) == ("y", "f")
    assert [node.op_type for node in block.nodes] == ["MatMul", "Relu", "MatMul", "Add"]


def test_what_the_rest_of_the_model_reads_stays() -> None:
    """The hidden value is an output: only what follows it goes."""
    kept = MLP.replace("(float[N,2] z)", "(float[N,2] z, float[N,6] r)")
    assert found(kept) == {}  # the first layer is shared: the branch would go in part only
    shared = MLP.replace("h = MatMul(x, w)", "n = Sigmoid(x)  h = MatMul(n, w)").replace(
        "(float[N,2] z)", "(float[N,2] z, float[N,4] n)"
    )
    assert found(shared) == {"f": ["MatMul", "Relu", "MatMul", "Add"]}  # no layer is shared


def test_both_branches_beside_each_other_are_blocks() -> None:
    """Parallel attention: two branches read one normalisation."""
    assert found("""(float[N,4] x) => (float[N,4] z) <float[4,4] w, float[4,4] u>
        { n = Sigmoid(x)  a = MatMul(n, w)  m = MatMul(n, u)  y = Add(x, a)  z = Add(y, m) }""") == {
        "a": ["MatMul"],
        "m": ["MatMul"],
    }


def test_of_a_block_that_changes_shape_either_side_may_go() -> None:
    assert found("""(float[N,3,8,8] x) => (float[N,5,4,4] y) <float[5,3,1,1] s, float[5,3,3,3] w>
        { a = Conv <strides = [2, 2]> (x, s)  b = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w)
          y = Add(a, b) }""") == {"a": ["Conv"], "b": ["Conv"]}


def test_experts_that_are_summed_are_blocks() -> None:
    """Each is weighed with the router's value of it; the router stays."""
    blocks = found("""(float[N,4] x) => (float[N,4] y) <float[4,2] r, float[4,6] u, float[6,4] d, float[4,6] v, float[6,4] e>
        { l = MatMul(x, r)  p = Softmax(l)  g, h = Split <axis = 1, num_outputs = 2> (p)
          a = MatMul(x, u)  b = Relu(a)  c = MatMul(b, d)  m = Mul(c, g)
          i = MatMul(x, v)  j = Relu(i)  k = MatMul(j, e)  n = Mul(k, h)
          s = Add(m, n)  y = Add(x, s) }""")
    expert = ["MatMul", "Relu", "MatMul", "Mul"]
    assert blocks["m"] == expert and blocks["n"] == expert


def test_inner_branches_are_blocks_of_their_own() -> None:
    outer, inner = sorted(
        blocks_of("""(float[N,4] x) => (float[N,4] y) <float[4,4] w, float[4,4] u>
            { h = MatMul(x, w)  k = MatMul(h, u)  s = Add(h, k)  y = Add(x, s) }"""),
        key=lambda block: -len(block.nodes),
    )
    assert (outer.summand, inner.summand) == ("s", "k")
    assert inner.within(outer) and not outer.within(inner)


@pytest.mark.parametrize(
    "text",
    [
        # the other summand is broadcast: it cannot stand for the sum
        """(float[N,4] x) => (float[N,4] y) <float[4,4] w, float[4,1] u>
        { a = MatMul(x, w)  b = MatMul(x, u)  y = Add(a, b) }""".replace("a = MatMul(x, w)", "a = MatMul(x, u)"),
        # a constant is no carrier of features, and a bias is no branch
        """(float[2,4] x) => (float[2,4] y) <float[4,4] w, float[2,4] p> { a = MatMul(x, w)  y = Add(a, p) }""",
        # two embeddings of tokens
        """(int64[2,3] t) => (float[2,3,4] y) <float[9,4] e, float[9,5] p, float[5,4] w>
        { a = Gather(e, t)  q = Gather(p, t)  b = MatMul(q, w)  y = Add(a, b) }""",
        # inputs of their own
        """(float[2,4] x, float[2,4] s) => (float[2,4] y) <float[4,4] w, float[4,4] u>
        { a = MatMul(x, w)  b = MatMul(s, u)  y = Add(a, b) }""",
        # no layer
        """(float[N,4] x) => (float[N,4] y) { a = Sigmoid(x)  y = Add(x, a) }""",
        # twice the same
        """(float[N,4] x) => (float[N,4] y) <float[4,4] w> { a = MatMul(x, w)  y = Add(a, a) }""",
    ],
)
def test_these_are_no_blocks(text: str) -> None:
    assert found(text) == {}


def test_a_branch_that_fills_a_cache_stays() -> None:
    """Keys are returned: the branch would go in part only."""
    text = """(float[1,S,4] x) => (float[1,S,4] y, float[1,S,4] k) <float[4,4] wq, float[4,4] wk, float[4,4] wo>
        { q = MatMul(x, wq)  k = MatMul(x, wk)  t = Transpose <perm = [0, 2, 1]> (k)  s = MatMul(q, t)
          p = Softmax(s)  c = MatMul(p, k)  o = MatMul(c, wo)  y = Add(x, o) }"""
    assert found(text) == {}
    assert list(found(text.replace(", float[1,S,4] k)", ")"))) == ["o"]
