"""`--round-to` counts the channels of layers, not the units of groups."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.allocation.counts import Limits, Width
from onnxprune.allocation.widths import limits_of
from onnxprune.engines.profiles import PROFILES
from onnxprune.errors import InputError
from onnxprune.report import terminal
from tests.ops.case import build
from tests.support.commands import Cli
from tests.support.lanes import spread
from tests.support.oracle import session

GROUPED = """(float[N,8,6,6] x) => (float[N,4,6,6] y)
    <float[32,8,1,1] a, float[32,8,1,1] b, float[16,32,1,1] c, float[16,1,3,3] d, float[4,16,1,1] e>
    { p = Conv(x, a)  q = Relu(p)  r = Conv <group = 4> (q, b)  s = Relu(r)  t = Conv(s, c)  u = Relu(t)
      v = Conv <group = 16, pads = [1, 1, 1, 1]> (u, d)  w = Relu(v)  y = Conv(w, e) }"""
"""Units of the first group are one channel in each of four groups of the second convolution."""

HEADS = """(float[2,5,32] x) => (float[2,5,32] y) <float[32,64] q, float[32,64] k, float[32,64] v, float[64,32] o,
    int64[4] split, int64[3] join, float[4,5,5] bias>
    { a = MatMul(x, q)  b = MatMul(x, k)  c = MatMul(x, v)  d = Reshape(a, split)  e = Reshape(b, split)
      f = Reshape(c, split)  g = Transpose <perm = [0, 2, 1, 3]> (d)  h = Transpose <perm = [0, 2, 3, 1]> (e)
      i = Transpose <perm = [0, 2, 1, 3]> (f)  j = MatMul(g, h)  l = Add(j, bias)  m = Softmax <axis = -1> (l)
      n = MatMul(m, i)  p = Transpose <perm = [0, 2, 1, 3]> (n)  r = Reshape(p, join)  y = MatMul(r, o) }"""
"""Four heads of 16, which add a bias of their own to the scores: that axis is no width of a layer."""

FLAT = """(float[N,3,4,4] x) => (float[N,5] y) <float[16,3,1,1] w, float[256,5] v>
    { a = Conv(x, w)  b = Relu(a)  c = Flatten(b)  y = MatMul(c, v) }"""

PART = """(float[N,8] x) => (float[N,5] y, float[N,4] z)
    <float[8,20] w, float[20,5] v, int64[1] zero, int64[1] four, int64[1] one>
    { a = MatMul(x, w)  b = Relu(a)  z = Slice(b, zero, four, one)  y = MatMul(b, v) }"""
"""Four of twenty channels are an output of the graph, and stay."""

JOINED = """(float[N,3] x) => (float[N,5] y) <float[3,16] w, float[19,24] v, float[24,5] u>
    { a = MatMul(x, w)  b = Relu(a)  c = Concat <axis = 1> (x, b)  d = MatMul(c, v)  e = Relu(d)  y = MatMul(e, u) }"""
"""Three channels of the input stand beside those that are made of it."""

BLOCKS = """(float[N,64] x) => (float[N,64] y)
    <uint8[128,2,16] w, float[256] pos_ws, uint8[64,4,16] v, float[256] pos_vs, uint8[128] vz>
    { a = com.microsoft.MatMulNBits <K = 64, N = 128, bits = 4, block_size = 32> (x, w, pos_ws)  b = Relu(a)
      y = com.microsoft.MatMulNBits <K = 128, N = 64, bits = 4, block_size = 32> (b, v, pos_vs, vz) }"""
"""Units of the group are two blocks of 32 inputs, whose zero points share a byte."""

CONSTANTS = {"split": [0, 0, 4, 16], "join": [0, 0, 64], "zero": [0], "four": [4], "one": [1]}


def shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    return {t.name: list(t.dims) for t in model.graph.initializer}


def pruned(text: str, round_to: int, ratio: float = 0.5) -> onnxprune.Result:
    return onnxprune.prune(build(text, constants=CONSTANTS), ratio, round_to=round_to, importance="l2", repair="none")


@pytest.mark.slow
def test_a_unit_of_several_channels_counts_as_so_many() -> None:
    """Eight units of four channels each: two of them are eight channels, and any number at four."""
    made = shapes(pruned(GROUPED, 8, 0.7).proto)
    assert made["a"][0] == 16 and made["b"] == [16, 4, 1, 1]  # 3 of 8 are left at least, 12 channels
    assert shapes(pruned(GROUPED, 4, 0.7).proto)["a"][0] == 12
    assert pruned(GROUPED, 8, 0.7).report.unrounded == {}


def test_what_rounding_changes_of_a_ratio_is_told() -> None:
    """Without rounding 3 of the 8 units of four channels stay at a ratio of 0.7, which is no multiple of 8."""
    plain, rounded = pruned(GROUPED, 1, 0.7), pruned(GROUPED, 8, 0.7)
    assert plain.report.rounded == {}
    kept = [{g["name"]: g["channels"] - len(g["removed"]) for g in r.plan.groups} for r in (plain, rounded)]
    changed = {name: (n, kept[1][name]) for name, n in kept[0].items() if n != kept[1][name]}
    assert changed and rounded.report.rounded == changed and (3, 4) in changed.values()
    assert json.loads(rounded.report.to_json())["rounded"] == {name: list(pair) for name, pair in changed.items()}


def test_rounding_that_keeps_all_is_why_nothing_was_taken() -> None:
    report = pruned(GROUPED, 64, 0.3).report
    assert report.rounded and report.channels.before == report.channels.after
    assert report.whole_because == ["round_to=64 keeps every group whole that the ratio takes something of"]
    assert "- --round-to 64 keeps every group whole" in "\n".join(map(str, terminal.run(report, "net.onnx", None)))
    assert pruned(GROUPED, 64, 0.0).report.whole_because == [
        "what was asked for takes no whole unit of any group that is left open"
    ]


def test_every_channel_of_a_layer_counts_once_in_a_depthwise_layer() -> None:
    made = shapes(pruned(GROUPED, 8).proto)
    assert made["d"] == [8, 1, 3, 3] and made["e"][1] == made["c"][0] == 8


@pytest.mark.parametrize(("round_to", "left"), [(1, 2), (8, 2), (32, 2), (64, 4)])
def test_heads_are_as_wide_as_they_are(round_to: int, left: int) -> None:
    result = pruned(HEADS, round_to)
    made = shapes(result.proto)
    assert made["q"] == made["k"] == made["v"] == [32, 16 * left] and made["o"] == [16 * left, 32]
    assert made["bias"] == [left, 5, 5] and result.report.unrounded == {}


@pytest.mark.parametrize(("round_to", "left"), [(8, 64), (64, 64), (128, 128)])
def test_blocks_of_packed_numbers_are_as_wide_as_their_inputs(round_to: int, left: int) -> None:
    result = pruned(BLOCKS, round_to)
    made = shapes(result.proto)
    assert made["w"] == [left, 2, 16] and made["v"] == [64, left // 32, 16] and result.report.unrounded == {}


def test_every_layer_that_touches_a_group_has_a_say() -> None:
    """Sixteen positions of each channel are read: any number is a multiple there, but not where they are made."""
    made = shapes(pruned(FLAT, 8, 0.7).proto)
    assert made["w"][0] == 8 and made["v"][0] == 128


def test_channels_that_stay_are_counted_with_the_others() -> None:
    """Of twenty four stay: at most 16 are left in all, four of them pinned, not twelve."""
    result = pruned(PART, 8, 0.3)
    made = shapes(result.proto)
    assert made["w"] == [8, 16] and made["v"] == [16, 5] and result.report.unrounded == {}


def test_what_cannot_be_a_multiple_is_told(cli: Cli, tmp_path: Path) -> None:
    """The layer after the concatenation reads three channels more than the one before it makes."""
    result = pruned(JOINED, 8)
    made = shapes(result.proto)
    assert made["w"] == [3, 8] and made["v"][0] == 11 and made["u"][0] == 16
    assert result.report.unrounded == {"v": {"0": 11}}
    path = tmp_path / "m.onnx"
    onnx.save(build(JOINED), path)
    ended = cli(path, "--ratio", 0.5, "--round-to", 8, "--repair", "none", "--dry-run")
    assert "1 layer that lost channels has a width that is no multiple of 8 (v: 11)" in " ".join(ended.out.split())
    assert "no multiple" not in cli(path, "--ratio", 0.5, "--repair", "none", "--dry-run").out


def test_recurrent_layers_are_as_wide_as_their_states() -> None:
    """A unit has a row in each of four gates, which are no width."""
    text = """(float[3,N,6] x) => (float[3,1,N,4] z) <float[1,48,6] w, float[1,48,12] r, float[12,4] v>
        { y, h, c = LSTM <hidden_size = 12> (x, w, r)  z = MatMul(y, v) }"""
    made = shapes(pruned(text, 8).proto)
    assert made["r"] == [1, 32, 8] and made["v"] == [8, 4]


def test_a_group_that_no_product_touches() -> None:
    """It is as wide as what it slices."""
    model = build("(float[N,5] x) => (float[N,5] y) <float[5] w> { y = Mul(x, w) }")
    groups = onnxprune.analyze(model, shrink=["x", "y"]).groups
    assert [g.units for g in groups] == [5]
    assert limits_of(groups, 1, 4) == [Limits(1, (Width(1, 0, 4),))]


@pytest.mark.parametrize("text", spread([GROUPED, HEADS, FLAT, PART, JOINED], 4))
@pytest.mark.parametrize("options", [{"global_ranking": True, "ratio": 0.4}, {"target": {"params": 0.6}}])
def test_whatever_chooses_the_result_is_rounded_and_runs(text: str, options: dict[str, object]) -> None:
    model = build(text, constants=CONSTANTS)
    result = onnxprune.prune(model, round_to=4, repair="none", **options)  # type: ignore[arg-type]
    before, after = shapes(model), shapes(result.proto)
    lost = [(name, axis) for name, dims in after.items() for axis, n in enumerate(dims) if n != before[name][axis]]
    wide = {(name, axis): after[name][axis] for name, axis in lost if len(before[name]) > 1 and name != "bias"}
    grouped = {("b", 1)} if text is GROUPED else set()
    odd = {key for key, width in wide.items() if width * (4 if key in grouped else 1) % 4}
    assert odd == {(name, int(axis)) for name, axes in result.report.unrounded.items() for axis in axes}
    assert result.report.verified and session(result.proto) is not None
    assert all(np.isfinite(numpy_helper.to_array(t)).all() for t in result.proto.graph.initializer)


ENGINE = """(float[1,8,6,6] x) => (float[1,10] y)
    <float[30,8,3,3] a, float[30,1,3,3] b, float[22,30,1,1] c, float[22,26] d, float[26,10] e> {
    p = Conv (x, a)  q = Relu (p)  r = Conv <group = 30> (q, b)  s = Conv (r, c)
    t = GlobalAveragePool (s)  u = Flatten (t)  v = MatMul (u, d)  w = Relu (v)  y = MatMul (w, e) }"""
"""Convolutions of 30 channels, one of them depthwise, and of 22; a matrix product of 26 features."""


def kept(**options: object) -> dict[str, int]:
    result = onnxprune.prune(build(ENGINE), repair="none", verify=False, importance="l1", **options)  # type: ignore[arg-type]
    made = shapes(result.proto)
    return {"convolution": made["a"][0], "next": made["c"][0], "product": made["d"][1]}


@pytest.mark.parametrize("share", spread([0.3, 0.5, 0.7]))
@pytest.mark.parametrize("engine", list(PROFILES))
def test_targets_keep_what_the_engine_computes_fast(engine: str, share: float) -> None:
    """Unless a layer stays whole: of 30 depthwise channels the stricter multiple counts."""
    profile = PROFILES[engine]
    found = kept(target={"params": share}, engine=engine)
    dense = math.lcm(profile.convolution, profile.depthwise)
    assert found["convolution"] == 30 or found["convolution"] % dense == 0
    assert found["next"] == 22 or found["next"] % math.lcm(profile.convolution, profile.product) == 0
    assert found["product"] == 26 or found["product"] % profile.product == 0


def test_ratios_are_rounded_only_where_that_is_asked_for() -> None:
    assert kept(ratio=0.5) == {"convolution": 15, "next": 11, "product": 13}
    assert kept(ratio=0.5, engine="openvino") == kept(ratio=0.5)
    assert kept(ratio=0.5, round_to=4) == {"convolution": 16, "next": 12, "product": 12}


def test_rounding_can_be_switched_off() -> None:
    found = kept(target={"params": 0.5}, round_to=1)
    assert any(n % 4 for n in (found["convolution"], found["next"]))


def test_every_engine_says_where_its_numbers_come_from() -> None:
    for name, profile in PROFILES.items():
        assert len(profile.source) > 20 and min(profile.convolution, profile.depthwise, profile.product) >= 1, name
    with pytest.raises(InputError, match="engine 'openvno'"):
        kept(target={"params": 0.5}, engine="openvno")
