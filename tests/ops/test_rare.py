"""Operators that few models have, or that onnxruntime does not run on a CPU: there only the groups are looked at."""

from __future__ import annotations

import pytest

from tests.ops.case import assert_groups, build, check, coupling_of, random_feeds
from tests.ops.test_quantization import Quantised
from tests.support import oracle

CASES = [
    Quantised("TransposeMatMul", """(float[2,3] x) => (float[2,2] y) <float[3,6] w, float[6,2] v>
        { h = MatMul(x, w)  t = Transpose(h)  y = com.microsoft.TransposeMatMul <transA = 1> (t, v) }""",
              {"w:1": "6 exact"}),
    Quantised("TransposeMatMul of a turned weight", """(float[2,3] x) => (float[2,2] y) <float[6,3] w, float[6,2] v>
        { h = com.microsoft.TransposeMatMul <transB = 1, alpha = 0.5> (x, w)  y = MatMul(h, v) }""",
              {"w:0": "6 exact"}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_removal_equals_masking(case: Quantised) -> None:
    check(case)


@pytest.mark.parametrize(("text", "groups", "shapes"), [
    ("""(float[2,3] x) => (float[2,2] y) <float[3,6] w, float[6] b, float[6,2] v>
        { h = com.microsoft.GemmFastGelu(x, w, b)  y = MatMul(h, v) }""", {"w:1": "6 exact"},
     {"w": [3, 3], "b": [3], "v": [3, 2]}),
    ("""(float[1,4,4,3] x) => (float[1,4,4,2] y) <float[3,8] w, float[3,8] u, float[8] g, float[8] b, float[8,2] v>
        { h = MatMul(x, w)  k = MatMul(x, u)  s = com.microsoft.SkipGroupNorm <groups = 4> (h, g, b, k)  y = MatMul(s, v) }""",
     {"w:1": "4 exact"}, {"w": [3, 4], "u": [3, 4], "g": [4], "b": [4], "v": [4, 2]}),
    ("""(float[1,4,4,3] x) => (float[1,4,4,2] y) <float[8,3,3,3] w, float[8] b, float[8,3,3,2] u, float[2,1,1,8] v>
        { h = com.microsoft.NhwcConv <pads = [1, 1, 1, 1]> (x, w, b)  r = Relu(h)
          g = com.microsoft.NhwcConv <pads = [1, 1, 1, 1], group = 4> (r, u)
          y = com.microsoft.NhwcConv(g, v) }""", {"w:0": "4 exact"},
     {"w": [4, 3, 3, 3], "b": [4], "u": [4, 3, 3, 2], "v": [2, 1, 1, 4]}),
    ("""(uint8[1,3,4,4] x) => (uint8[1,2,1,1] y) <uint8[6,3,1,1] w, float pos_x, uint8 z, uint8[2,6,1,1] v>
        { h = QLinearConv(x, pos_x, z, w, pos_x, z, pos_x, z)
          m = com.microsoft.QLinearReduceMean <axes = [2, 3]> (h, pos_x, z, pos_x, z)
          y = QLinearConv(m, pos_x, z, v, pos_x, z, pos_x, z) }""", {"w:0": "6 exact"},
     {"w": [3, 3, 1, 1], "v": [2, 3, 1, 1]}),
    ("""(uint8[1,3,4,4] x) => (uint8[1,1,4,4] y) <uint8[6,3,1,1] w, float pos_x, uint8 z>
        { h = QLinearConv(x, pos_x, z, w, pos_x, z, pos_x, z)
          y = com.microsoft.QLinearReduceMean <axes = [1]> (h, pos_x, z, pos_x, z) }""", {"w:0": "6 mixing"},
     {"w": [6, 3, 1, 1]}),
], ids=["GemmFastGelu", "SkipGroupNorm", "NhwcConv", "QLinearReduceMean over space", "QLinearReduceMean over channels"])
def test_ties(text: str, groups: dict[str, str], shapes: dict[str, list[int]]) -> None:
    model = build(text, domains=["com.microsoft"])
    assert_groups(coupling_of(model), groups)
    pruned, _, _ = oracle.prune_and_mask(model)
    assert {t.name: list(t.dims) for t in pruned.graph.initializer if t.dims} == shapes


def test_labels_pass_each_by_itself() -> None:
    model = build("""(float[2,3] x) => (float[2,2] y) <float[3,6] w, float[6,2] v>
        { h = MatMul(x, w)  s = Sign(h)  l = ai.onnx.ml.LabelEncoder
          <keys_floats = [1.0, -1.0], values_floats = [3.0, 5.0], default_float = 7.0> (s)  y = MatMul(l, v) }""",
                  domains=["ai.onnx.ml"])
    model.opset_import[1].version = 3
    assert_groups(coupling_of(model), {"w:1": "6 exact"})
    assert oracle.assert_equivalent(model, random_feeds(model)) == 3
