"""Seams: what is computed of constants alone loses indices behind what computes it, where that frees channels."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxprune
from tests.ops.case import Case, build, check, coupling_of, random_feeds
from tests.support import oracle
from tests.support.lanes import spread

STANDARDISED = """m_{v} = ReduceMean <axes = [{axes}], keepdims = 1> ({v})  c_{v} = Sub({v}, m_{v})
    p_{v} = Mul(c_{v}, c_{v})  q_{v} = ReduceMean <axes = [{axes}], keepdims = 1> (p_{v})  e_{v} = Add(q_{v}, pos_e)
    d_{v} = Sqrt(e_{v})  s_{v} = Div(c_{v}, d_{v})"""


def standardised(name: str, axes: str) -> str:
    """Nodes that standardise a weight; what they make is called s_NAME."""
    return STANDARDISED.format(v=name, axes=axes)


CASES = [
    Case(
        "convolutions with standardised weights",
        f"""(float[N,3,4,4] x) => (float[N,2,4,4] y)
        <float[6,3,1,1] w, float[8,6,3,3] v, float[2,8,1,1] u, float pos_e>
        {{ {standardised("w", "1, 2, 3")} {standardised("v", "1, 2, 3")} {standardised("u", "1, 2, 3")}
          h = Conv(x, s_w)  r = Relu(h)  k = Conv <pads = [1, 1, 1, 1]> (r, s_v)  t = Relu(k)  y = Conv(t, s_u) }}""",
        {"w:0": "6 exact", "v:0": "8 exact", "v:1": "6 pinned: s_v[1] is kept", "u:1": "8 pinned: s_u[1] is kept"},
        opset=13,
    ),
    Case(
        "standardised weights around a residual sum",
        f"""(float[N,3,4,4] x) => (float[N,2,4,4] y)
        <float[6,3,1,1] w, float[8,6,1,1] v, float[6,8,1,1] u, float[2,6,1,1] z, float pos_e>
        {{ {standardised("v", "1, 2, 3")} {standardised("u", "1, 2, 3")}
          h = Conv(x, w)  k = Conv(h, s_v)  r = Relu(k)  l = Conv(r, s_u)  t = Add(h, l)  y = Conv(t, z) }}""",
        {"u:0": "6 exact", "v:0": "8 exact"},
        opset=13,
    ),
    Case(
        "weights standardised by a batch normalisation of their rows",
        """(float[N,3,4,4] x) => (float[N,2,4,4] y)
        <float[6,3,1,1] w, float[8,6,2,2] v, float[2,8,1,1] u, float[8] g, float[8] z, int64[3] a, int64[4] b>
        { f = Reshape(v, a)  m = ReduceMean <axes = [0, 2], keepdims = 0> (f)
          o = ReduceMean <axes = [0, 2]> (f)  c = Sub(f, o)  p = Mul(c, c)
          d = ReduceMean <axes = [0, 2], keepdims = 0> (p)  n = BatchNormalization(f, g, z, m, d)  s = Reshape(n, b)
          h = Conv(x, w)  r = Relu(h)  k = Conv <pads = [0, 0, 1, 1]> (r, s)  t = Relu(k)  y = Conv(t, u) }""",
        {"w:0": "6 exact", "v:0": "8 exact"},
        opset=13,
        constants={"a": [1, 8, 24], "b": [8, 6, 2, 2]},
    ),
    Case(
        "two widths that are divided by one table and a copy of it",
        """(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[6,6] v, float[6,2] u, float[6,300] pos_t, int64[1] last>
        { h = MatMul(x, w)  i = Unsqueeze(h, last)  d = Div(i, pos_t)  r = ReduceSum <keepdims = 0> (d, last)
          k = MatMul(r, v)  t = Identity(pos_t)  l = Unsqueeze(k, last)  e = Div(l, t)
          s = ReduceSum <keepdims = 0> (e, last)  y = MatMul(s, u) }""",
        {"w:1": "6 exact", "pos_t:1": "300 mixing: sums over the axis"},
        constants={"last": 2},
    ),
    Case(
        "rows of a weight that compete by Softmax",
        """(float[N,3] x) => (float[N,2] y)
        <float[3,6] w, float[6,2] v> { s = Softmax <axis = 0> (v)  h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, s) }""",
        {"w:1": "6 exact"},
    ),
    Case(
        "a weight on the left",
        """(float[3,N] x) => (float[2,N] y) <float[6,3] w, float[2,6] v>
        { s = Softmax <axis = 1> (v)  h = MatMul(w, x)  r = Relu(h)  y = MatMul(s, r) }""",
        {"w:0": "6 exact"},
    ),
    Case(
        "two axes are cut",
        """(float[N,3] x, float[N,4] z) => (float[N,2] y)
        <float[3,6] w, float[4,5] u, float[6,5,2] v> { s = Softmax <axis = 0> (v)  t = Softmax <axis = 1> (s)
          h = MatMul(x, w)  k = MatMul(z, u)  y = Einsum <equation = "bi,bj,ijo->bo"> (h, k, t) }""",
        {"w:1": "6 exact", "u:1": "5 exact"},
    ),
    Case(
        "two readers, one of them in a body",
        """(float[N,3] x, bool c) => (float[N,2] y)
        <float[3,6] w, float[6,2] v> { s = Softmax <axis = 0> (v)  h = MatMul(x, w)  r = Relu(h)
          y = If (c) <then_branch = yes () => (float[N,2] a) { a = MatMul(r, s) },
                      else_branch = no () => (float[N,2] b) { p = Tanh(r)  b = MatMul(p, s) }> }""",
        {"w:1": "6 exact"},
        feeds={"c": True},
    ),
    Case(
        "weights divided by the norms of their rows",
        """(float[N,3,5] x) => (float[N,2,5] y)
        <float[6,3,1] w, float[6,6,3] v, float[6,1,1] g, float[6] b, float[2,6,1] u, float[2,1,1] k>
        { l = ReduceL2 <axes = [1, 2]> (v)  d = Div(g, l)  s = Mul(v, d)  m = ReduceL2 <axes = [1, 2]> (u)  c = Div(u, m)
          e = Mul(c, k)  h = Conv(x, w)  r = Conv <pads = [1, 1]> (h, s, b)  t = Relu(r)  a = Add(h, t)  y = Conv(a, e) }""",
        {"v:1": "6 exact"},
        opset=13,
    ),
    Case(
        "weights divided by the norms of their rows, and channels that are added up",
        """(float[N,3] x) => (float[N,2] y)
        <float[6,3] w, float[6,1] g, float[6] b, float[6,2] u, int64[1] last>
        { l = ReduceL2 <axes = [1], keepdims = 1> (w)  d = Div(w, l)  s = Mul(d, g)  h = Gemm <transB = 1> (x, s, b)
          r = Relu(h)  m = ReduceSum(r, last)  c = Sub(r, m)  y = MatMul(c, u) }""",
        {"g:0": "6 exact", "w:0": "6 pinned: d[0] is kept"},
        opset=13,
        constants={"last": -1},
    ),
    Case(
        "norms of rows by their reciprocal",
        """(float[N,3] x) => (float[N,2] y)
        <float[6,3] w, float[2,6] v> { l = ReduceL2 <axes = [1]> (w)  d = Reciprocal(l)  s = Mul(w, d)  t = Transpose(s)
          h = MatMul(x, t)  r = Tanh(h)  q = Transpose(v)  y = MatMul(r, q) }""",
        {"v:1": "6 exact"},
        opset=13,
    ),
    Case(
        "weights divided by the norms of the axis that is summed over",
        """(float[N,3] x) => (float[N,2] y)
        <float[3,6] w, float[6,2] v> { l = ReduceL2 <axes = [1]> (v)  s = Div(v, l)  h = MatMul(x, w)  r = Relu(h)
          y = MatMul(r, s) }""",
        {"w:1": "6 exact"},
        opset=13,
    ),
    Case(
        "norms that are never zero need no cut",
        """(float[N,3] x) => (float[N,2] y) <float[6,3] w, float[2,6] v, float pos_e>
        { l = ReduceL2 <axes = [1]> (w)  n = Add(l, pos_e)  s = Div(w, n)  t = Transpose(s)  h = MatMul(x, t)
          r = Tanh(h)  q = Transpose(v)  y = MatMul(r, q) }""",
        {"w:0": "6 exact"},
        opset=13,
    ),
    Case(
        "what is added must be zero itself, and stays whole",
        """(float[N,3] x) => (float[N,2] y)
        <float[3,6] w, float[6] v, float[6,2] u> { s = Softmax <axis = 0> (v)  h = MatMul(x, w)  k = Add(h, s)
          y = MatMul(k, u) }""",
        {"v:0": "6 mixing: Softmax"},
    ),
    Case(
        "what the other side keeps anyway is not cut",
        """(float[N,6] x) => (float[N,2] y) <float[6,2] v>
        { s = Softmax <axis = 0> (v)  y = MatMul(x, s) }""",
        {"v:0": "6 pinned: graph input"},
    ),
    Case(
        "a dropout in training is no constant",
        """(float[N,3] x) => (float[N,2] y)
        <float[3,6] w, float[6,2] v, float r, bool t> { d = Dropout(v, r, t)  s = Softmax <axis = 0> (d)
          h = MatMul(x, w)  y = MatMul(h, s) }""",
        {"v:0": "6 exact"},
        constants={"r": 0.0, "t": False},
    ),
]


@pytest.mark.parametrize("case", spread(CASES, 4), ids=lambda c: c.name)
def test_what_is_freed(case: Case) -> None:
    check(case)


SOFTMAX = next(c for c in CASES if "compete by Softmax" in c.name)
SUMMED = next(c for c in CASES if "are added up" in c.name)
NORMED = next(c for c in CASES if "by their reciprocal" in c.name)


def test_rows_whose_norm_divides_stay_as_they_are() -> None:
    """Without them the masked original would divide zero by zero."""
    pruned, masked, _ = oracle.prune_and_mask(NORMED.model())
    shapes = {t.name: list(t.dims) for t in pruned.graph.initializer}
    assert shapes["w"] == [6, 3] and shapes["v"] == [2, 3]
    assert np.isfinite(oracle.session(masked).run(None, NORMED.inputs())[0]).all()


def test_a_quotient_is_cut_where_channels_have_to_be_zero() -> None:
    pruned, masked, _ = oracle.prune_and_mask(SUMMED.model())
    shapes = {t.name: list(t.dims) for t in pruned.graph.initializer}
    assert shapes["w"] == [6, 3] and shapes["g"] == [3, 1] and shapes["u"] == [3, 2]
    assert [g.input[0] for g in gathers(pruned)] == ["d"]
    assert np.isfinite(oracle.session(masked).run(None, SUMMED.inputs())[0]).all()


def gathers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [n for n in model.graph.node if n.op_type == "Gather"]


def test_a_gather_of_what_stays_goes_between() -> None:
    pruned, _, count = oracle.prune_and_mask(SOFTMAX.model())
    (gather,) = gathers(pruned)
    shapes = {t.name: list(t.dims) for t in pruned.graph.initializer}
    assert count == 3
    assert shapes["w"] == [3, 3] and shapes["v"] == [6, 2] and shapes[gather.input[1]] == [3]
    assert gather.input[0] == "s" and gather.attribute[0].i == 0
    kept = {t.name: numpy_helper.to_array(t) for t in pruned.graph.initializer}
    before = {t.name: numpy_helper.to_array(t) for t in SOFTMAX.model().graph.initializer}
    assert (before["w"][:, kept[gather.input[1]]] == kept["w"]).all() and (before["v"] == kept["v"]).all()


def test_nothing_is_put_between_where_nothing_goes() -> None:
    model = SOFTMAX.model()
    result = onnxprune.prune(model, ratio=0.5, ignore=["w"], repair="none")
    assert not gathers(result.model) and result.model.SerializeToString() == model.SerializeToString()


def test_what_is_returned_as_well_is_returned_whole() -> None:
    model = SOFTMAX.model()
    model.graph.output.append(helper.make_tensor_value_info("s", 1, [6, 2]))
    feeds = random_feeds(model)
    assert oracle.assert_equivalent(model, feeds) == 3
    pruned, _, _ = oracle.prune_and_mask(model)
    assert oracle.session(pruned).run(["s"], feeds)[0].shape == (6, 2)


def test_a_pruned_model_is_pruned_again() -> None:
    """The Gather is part of what is computed of constants alone, and a second one goes behind it."""
    once, _, _ = oracle.prune_and_mask(SOFTMAX.model())
    assert oracle.assert_equivalent(once, random_feeds(once), 0.34) == 2
    twice, _, _ = oracle.prune_and_mask(once, 0.34)
    assert len(gathers(twice)) == 2


def test_a_plan_applies_to_another_checkpoint() -> None:
    model = SOFTMAX.model()
    result = onnxprune.prune(model, ratio=0.5, repair="none")
    again = onnxprune.apply(result.plan, model)
    assert len(gathers(again.model)) == 1
    assert again.model.SerializeToString() == result.model.SerializeToString()


def test_quantised_weights_have_no_seam() -> None:
    """Their values are computed of constants too, but nothing on that side keeps a channel."""
    model = build("""(float[N,3] x) => (float[N,2] y) <int8[3,6] w, int8[6,2] v, float pos_s>
        { a = DequantizeLinear(w, pos_s)  b = DequantizeLinear(v, pos_s)  h = MatMul(x, a)  y = MatMul(h, b) }""")
    assert not coupling_of(model).constant_cuts
    assert len(coupling_of(SOFTMAX.model()).constant_cuts) == 1


def test_before_ir_4_the_indices_are_a_constant_node() -> None:
    model = build(
        """(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[6,2] v>
        { s = Softmax <axis = 0> (v)  h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, s) }""",
        9,
        3,
    )
    for t in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)))
    assert oracle.assert_equivalent(model, random_feeds(model)) == 3
