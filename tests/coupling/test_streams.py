"""Residual streams: which widths most layers read, and that those stay whole where nothing measured says otherwise."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.coupling.streams import Stream, find_streams
from tests.ops.case import build, coupling_of

GATED = """(int64[N,5] ids) => (float[N,5,7] y)
    <float[7,8] e, float[8,12] g1, float[8,12] u1, float[12,8] d1, float[8,12] g2, float[8,12] u2, float[12,8] d2,
     float[8,12] g3, float[8,12] u3, float[12,8] d3, float[8,7] v>
    { x = Gather(e, ids)
      a1 = MatMul(x, g1)  b1 = MatMul(x, u1)  h1 = Mul(a1, b1)  f1 = MatMul(h1, d1)  x1 = Add(x, f1)
      a2 = MatMul(x1, g2)  b2 = MatMul(x1, u2)  h2 = Mul(a2, b2)  f2 = MatMul(h2, d2)  x2 = Add(x1, f2)
      a3 = MatMul(x2, g3)  b3 = MatMul(x2, u3)  h3 = Mul(a3, b3)  f3 = MatMul(h3, d3)  x3 = Add(x2, f3)
      y = MatMul(x3, v) }"""
"""Three gated blocks on a width of 8."""
QUICK: dict[str, Any] = {"repair": "none", "time": False}


def gated() -> onnx.ModelProto:
    return build(GATED, constants={"e": np.random.default_rng(0).standard_normal((7, 8))})


def kept(report: onnxprune.Report) -> dict[str, int]:
    return {g.name: g.channels - len(g.removed) for g in report.groups if g.grade == "exact"}


def test_a_width_that_most_layers_read_and_several_add_to_is_a_stream() -> None:
    """Seven of ten layers read it, three write it; the embedding is no product."""
    assert find_streams(coupling_of(gated())) == {"e:1": Stream(7, 3, 10)}


def test_where_half_of_the_layers_read_a_width_it_is_none() -> None:
    """Residual blocks of two convolutions each, as in networks for super-resolution."""
    blocks = "".join(
        f"a{i} = Conv <pads = [1,1,1,1]> (x{i}, w{i})  r{i} = Relu(a{i})  f{i} = Conv <pads = [1,1,1,1]> (r{i}, v{i})"
        f"  x{i + 1} = Add(x{i}, f{i})  "
        for i in range(4)
    )
    weights = ", ".join(f"float[6,8,3,3] w{i}, float[8,6,3,3] v{i}" for i in range(4))
    text = f"""(float[N,3,8,8] x) => (float[N,3,8,8] y) <float[8,3,1,1] s, {weights}, float[3,8,1,1] t>
        {{ x0 = Conv(x, s)  {blocks} y = Conv(x4, t) }}"""
    assert find_streams(coupling_of(build(text))) == {}


def test_attention_is_no_layer() -> None:
    """Only products with weights count: queries, keys, values and the output's, not scores and weighted sums."""
    text = """(float[N,5,8] x) => (float[N,5,8] y) <float[8,8] i, float[8,6] q, float[8,6] k, float[8,6] v, float[6,8] o>
        { h = MatMul(x, i)  a = MatMul(h, q)  b = MatMul(h, k)  c = MatMul(h, v)  t = Transpose <perm = [0, 2, 1]> (b)
          s = MatMul(a, t)  p = Softmax(s)  z = MatMul(p, c)  f = MatMul(z, o)  w = Add(h, f)
          g = MatMul(w, i)  m = Add(w, g)  y = MatMul(m, i) }"""
    streams = find_streams(coupling_of(build(text)))
    assert all(stream.layers == 7 for stream in streams.values())


@pytest.mark.parametrize("packed", [False, True])
def test_queries_keys_and_values_count_alike_apart_and_packed(packed: bool) -> None:
    """Two blocks of attention with two heads, and a perceptron of two layers each, between a layer and a layer."""
    apart = """q{i} = MatMul(x{i}, wq{i})  k{i} = MatMul(x{i}, wk{i})  v{i} = MatMul(x{i}, wv{i})"""
    joint = """p{i} = MatMul(x{i}, w{i})  q{i}, k{i}, v{i} = Split <axis = -1, num_outputs = 3> (p{i})"""
    block = """ a{i} = Reshape(q{i}, split)  b{i} = Reshape(k{i}, split)  c{i} = Reshape(v{i}, split)
        d{i} = Transpose <perm = [0, 2, 1, 3]> (a{i})  e{i} = Transpose <perm = [0, 2, 3, 1]> (b{i})
        f{i} = Transpose <perm = [0, 2, 1, 3]> (c{i})  g{i} = MatMul(d{i}, e{i})  h{i} = Softmax(g{i})
        j{i} = MatMul(h{i}, f{i})  l{i} = Transpose <perm = [0, 2, 1, 3]> (j{i})  m{i} = Reshape(l{i}, merged)
        n{i} = MatMul(m{i}, o{i})  r{i} = Add(x{i}, n{i})  s{i} = MatMul(r{i}, up{i})  t{i} = Relu(s{i})
        u{i} = MatMul(t{i}, down{i})  x{i1} = Add(r{i}, u{i}) """
    lines = "".join(
        ((joint if packed else apart) + block).replace("{i}", str(i)).replace("{i1}", str(i + 1)) for i in (0, 1)
    )
    weights = "".join(
        (f"float[8,24] w{i}, " if packed else f"float[8,8] wq{i}, float[8,8] wk{i}, float[8,8] wv{i}, ")
        + f"float[8,8] o{i}, float[8,12] up{i}, float[12,8] down{i}, "
        for i in (0, 1)
    )
    text = f"""(float[N,5,3] x) => (float[N,5,2] y) <float[3,8] first, {weights} float[8,2] last, int64[4] split,
        int64[3] merged> {{ x0 = MatMul(x, first) {lines} y = MatMul(x2, last) }}"""
    model = build(text, constants={"split": [0, 0, 2, 4], "merged": [0, 0, 8]})
    assert list(find_streams(coupling_of(model)).values()) == [Stream(9, 5, 14)]


def test_a_stream_stays_whole_unless_it_is_asked_for() -> None:
    """The report says so, and how to prune it."""
    whole = onnxprune.prune(gated(), 0.5, **QUICK).report
    assert kept(whole) == {"e:1": 8, "g1:1": 6, "g2:1": 6, "g3:1": 6}
    note, reach = whole.notes
    assert note.startswith("e:1 stays whole: 7 of 10 layers read it and 3 add to it")
    assert reach.startswith("without e:1 at least ")
    alone = onnxprune.prune(gated(), 0.5, only="^e:1$", **QUICK).report
    assert kept(alone)["e:1"] == 4 and not alone.notes
    share = onnxprune.prune(gated(), 0.5, keep={"^e:1$": 0.75}, **QUICK).report
    assert kept(share)["e:1"] == 6 and not share.notes


def test_the_least_that_is_named_is_what_can_be_left() -> None:
    """Without the stream where the others go to their last channel, and with it by the target that is named."""
    _, reach = onnxprune.prune(gated(), 0.5, **QUICK).report.notes
    said = re.fullmatch(r"without e:1 at least (.*)% of the parameters stay, .*params[=': ]+([0-9.]+).*", reach)
    assert said is not None, reach
    params = onnxprune.prune(gated(), 0.99, **QUICK).report.params
    assert float(said[1]) == pytest.approx(100 * (params.after or 0) / (params.before or 1), abs=0.05)
    least = float(said[2])
    for target, met in ((least, True), (least - 0.01, False)):
        made = onnxprune.prune(gated(), target={"params": target}, round_to=1, **QUICK).report
        assert made.targets["params"].met == met


@pytest.mark.parametrize("target", [0.8, 0.5, 0.4, 0.1])
def test_a_target_takes_of_a_stream_what_it_must(target: float) -> None:
    """Nothing while the others have two fifths of their channels, then as little as meets it with these."""
    report = onnxprune.prune(gated(), target={"params": target}, round_to=1, **QUICK).report
    left = kept(report)
    stream, others = left.pop("e:1"), left.values()
    assert report.targets["params"].met
    assert (stream == 8) == (target >= 0.5) == bool(report.notes)
    assert target == 0.1 or min(others) >= 0.4 * 12


def test_what_is_all_that_is_open_is_pruned() -> None:
    report = onnxprune.prune(gated(), 0.5, ignore=[r"^g\d:1$"], **QUICK).report
    assert kept(report)["e:1"] == 4 and not report.notes


@pytest.mark.slow
def test_measured_damage_decides() -> None:
    """With data and a target the curves say what goes, of the stream too."""
    ids = np.random.default_rng(1).integers(0, 7, (64, 5))
    report = onnxprune.prune(gated(), target={"params": 0.9}, calib={"ids": ids}, **QUICK).report
    assert report.targets["params"].met and not report.notes
