"""Fused operators of onnxruntime's own domain, attention aside."""

from __future__ import annotations

import math
from typing import Any

import onnx
import pytest

from onnxprune.graph.graph import Graph
from onnxprune.graph.shape_inference import infer
from onnxprune.ops import registry
from onnxprune.runtime.sample_inputs import sample_inputs
from tests.ops.case import assert_groups, build, check, coupling_of
from tests.ops.test_quantization import MIXED, Quantised

FLAT, SIX = "(float[2,3] x) => (float[2,2] y)\n", {"w:1": "6 exact"}


def flat(name: str, weights: str, body: str, groups: dict[str, str] = SIX, **more: Any) -> Quantised:
    """x (2, 3) to y (2, 2)."""
    return Quantised(name, f"{FLAT}<{weights}>\n{{ {body} }}", groups, **more)


def lengths(body: str) -> str:
    """y out of the length of a (2, 6)."""
    return body + "  axes = Constant <value = int64[1] {1}> ()  n = ReduceL2(a, axes)  y = Concat <axis = 1> (n, n)"


UNARY = [("Gelu", ""), ("QuickGelu", ""), ("FastGelu", ""), ("FastGelu", ", b"), ("BiasGelu", ", b")]
MLP = [
    *(flat(f"{op}{more}", f"float[3,6] w{', float[6] b' if more else ''}", lengths(
        f"h = MatMul(x, w)  a = com.microsoft.{op}(h{more})")) for op, more in UNARY),
    flat("FusedGemm", "float[3,6] w, float[6] b, float[6,2] v",
         """h = com.microsoft.FusedGemm <activation = "Relu"> (x, w, b)
         y = com.microsoft.FusedGemm <activation = "Tanh"> (h, v)"""),
    flat("FusedGemm keeps zero", "float[6,3] w, float[6] b", lengths(
         """a = com.microsoft.FusedGemm <transB = 1, activation = "Relu"> (x, w, b)"""), {"w:0": "6 exact"}),
    flat("FusedGemm loses zero", "float[6,3] w, float[6] b", lengths(
         """a = com.microsoft.FusedGemm <transB = 1, activation = "Sigmoid"> (x, w, b)"""), {"w:0": f"6 {MIXED}"}),
    flat("FusedMatMul", "float[6,3] w, float[2,6] v",
         """h = com.microsoft.FusedMatMul <transB = 1, alpha = 0.5> (x, w)
         y = com.microsoft.FusedMatMul <transB = 1> (h, v)""", {"w:0": "6 exact"}),
    flat("FusedMatMul of a turned activation", "float[3,6] w, float[6,2] v",
         """h = MatMul(x, w)  t = Transpose(h)  y = com.microsoft.FusedMatMul <transA = 1> (t, v)"""),
    flat("a norm over another axis", "float[3,6] w, float[6] g, float[6] b, float[6,2] v",
         """h = MatMul(x, w)  s = com.microsoft.SkipLayerNormalization(h, h, g, b)  y = MatMul(s, v)"""),
    flat("a norm with a skip, a bias and their sum", "float[3,6] w, float[6] g, float[6] b, float[6] c, float[6,2] v",
         """h = MatMul(x, w)  s, , , k = com.microsoft.SkipLayerNormalization(h, h, g, b, c)  r = Add(s, k)
         y = MatMul(r, v)"""),
    flat("a norm with a skip that is not zero", "float[3,6] w, float[6] g, float[6] b, float[6,2] v",
         """h = MatMul(x, w)  k = Softmax <axis = 0> (h)  s = com.microsoft.SkipLayerNormalization(h, k, g, b)
         y = MatMul(s, v)""", {"w:1": "6 mixing: mixes the axis"}),
    flat("a norm with a skip that is computed of zeros", "float[3,6] w, float[6] g, float[6] b, float[6,2] v",
         """h = MatMul(x, w)  k = Exp(h)  s = com.microsoft.SkipLayerNormalization(h, k, g, b)  y = MatMul(s, v)""",
         {"w:1": "6 exact"}),
    flat("RMS norm with a skip", "float[3,6] w, float[6] g, float[6] b, float[6,2] v",
         """h = MatMul(x, w)  s, , , k = com.microsoft.SkipSimplifiedLayerNormalization(h, h, g, b)  r = Add(s, k)
         y = MatMul(r, v)""", {"w:1": "6 exact"}),
    flat("RMS norm with a skip and no output for their sum", "float[3,6] w, float[6] g, float[6,2] v",
         """h = MatMul(x, w)  k = Relu(h)  s = com.microsoft.SkipSimplifiedLayerNormalization <epsilon = 0.5> (h, k, g)
         y = MatMul(s, v)""", {"w:1": "6 exact"}),
    flat("RMS norm with a skip that is not zero", "float[3,6] w, float[6] g, float[6,2] v",
         """h = MatMul(x, w)  k = Exp(h)  s = com.microsoft.SkipSimplifiedLayerNormalization(h, k, g)
         y = MatMul(s, v)""", {"w:1": "6 mixing: sums over the axis"}),
]

PICTURE = "(float[1,3,6,6] x) => (float[1,2] y)\n"
END = "y = ReduceMax <axes = [2, 3], keepdims = 0> (p)"
KEPT = "n = ReduceL2 <axes = [1]> (a)  p = Concat <axis = 1> (n, n)  " + END


def picture(name: str, weights: str, body: str, groups: dict[str, str]) -> Quantised:
    """x (1, 3, 6, 6) to y (1, 2)."""
    return Quantised(name, f"{PICTURE}<{weights}>\n{{ {body} }}", groups, opset=17)


CONVOLUTIONS = [
    picture("FusedConv", "float[6,3,3,3] w, float[6] b, float[2,6,3,3] v",
            f'h = com.microsoft.FusedConv <activation = "Relu"> (x, w, b)  p = Conv(h, v)  {END}', {"w:0": "6 exact"}),
    picture("FusedConv with a summand", "float[6,3,3,3] w, float[6] b, float[6,3,3,3] u, float[2,6,3,3] v",
            f'k = Conv(x, u)  h = com.microsoft.FusedConv <activation = "Relu"> (x, w, b, k)  p = Conv(h, v)  {END}',
            {"u:0": "6 exact"}),
    *(picture(f"FusedConv with {name}", "float[6,3,3,3] w, float[6] b",
              f"a = com.microsoft.FusedConv <activation = {name}> (x, w, b)  {KEPT}", {"w:0": f"6 {grade}"})
      for name, grade in (('"Relu"', "exact"), ('"Sigmoid"', MIXED),
                          ('"Clip", activation_params = [0.0, 6.0]', "exact"),
                          ('"Clip", activation_params = [0.5, 6.0]', MIXED))),
]


@pytest.mark.parametrize("case", [*MLP, *CONVOLUTIONS], ids=lambda c: c.name)
def test_fused(case: Quantised) -> None:
    check(case)


def nbits(name: str, rows: int, columns: int, size: int = 16, form: str = "flat", points: bool = False) -> str:
    """Declaration of a weight of four bits in blocks along its rows."""
    blocks = math.ceil(rows / size)
    dims = f"{columns * blocks}" if form == "flat" else f"{columns},{blocks}"
    width = math.ceil(blocks / 2)
    packed = f"{columns * width}" if form == "flat" else f"{columns},{width}"
    zero = f", uint8[{packed}] z{name}" if points else ""
    return f"uint8[{columns},{blocks},{size // 2}] {name}, float[{dims}] pos_{name}{zero}"


def few_bits(name: str, groups: dict[str, str], **more: Any) -> Quantised:
    """Two products with weights of few bits: 4 -> 64 -> 2."""
    z = [", zw", ", zv"] if more.get("points") else [", ", ""]
    weights = f"{nbits('w', 4, 64, **more)}, {nbits('v', 64, 2, **more)}, float[64] b"
    form = "bits = 4, block_size = 16"
    body = f"""h = com.microsoft.MatMulNBits <K = 4, N = 64, {form}> (x, w, pos_w{z[0]}, , b)  r = Relu(h)
    y = com.microsoft.MatMulNBits <K = 64, N = 2, {form}> (r, v, pos_v{z[1]})"""
    return Quantised(name, f"(float[2,4] x) => (float[2,2] y)\n<{weights}>\n{{ {body} }}", groups)


FEW_BITS = [
    few_bits("blocks of inputs", {"w:0": "4 exact"}),
    few_bits("pairs of blocks share a byte of zero points", {"w:0": "2 exact"}, points=True),
    few_bits("scales in rows", {"w:0": "4 exact"}, form="rows"),
]


@pytest.mark.parametrize("case", FEW_BITS, ids=lambda c: c.name)
def test_few_bits(case: Quantised) -> None:
    check(case)


EMBEDDING = """(int32[2,4] ids) => (float[2,4,6] y)
<float[9,6] w, float[4,6] p, float[6] g, float[6] b>
{ s, m = com.microsoft.EmbedLayerNormalization(ids, , w, p, , g, b)  y = Relu(s) }"""

ADDED = """(float[1,4,3] x) => (float[1,4,2] y)
<float[3,6] w, float[6] b, float[3,6] u, float[6,2] v>
{ h = MatMul(x, w)  s = MatMul(x, u)  a = com.microsoft.BiasAdd(h, b, s)  y = MatMul(a, v) }"""

RMS = """(float[1,4,3] x) => (float[1,4,2] y)
<float[3,6] w, float[6] g, float[6,2] v>
{ h = MatMul(x, w)  s = SimplifiedLayerNormalization <axis = -1> (h, g)  y = MatMul(s, v) }"""

SPLIT = """(float[1,4,3] x) => (float[1,4,2] y)
<float[3,12] w, float[12] b, float[6,2] v>
{ h = MatMul(x, w)  s = com.microsoft.BiasSplitGelu(h, b)  y = MatMul(s, v) }"""

GROUPS = """(float[1,4,4,3] x) => (float[1,4,4,2] y)
<float[3,8] w, float[8] g, float[8] b, float[8,2] v>
{ h = MatMul(x, w)  s = com.microsoft.GroupNorm <groups = 4, activation = 1> (h, g, b)  y = MatMul(s, v) }"""


@pytest.mark.parametrize(("text", "groups"), [
    (EMBEDDING, {"w:0": "9 pinned: looks indices up", "w:1": "6 pinned: graph output"}),
    (ADDED, SIX),
    (RMS, {"w:1": "6 exact"}),
    (SPLIT, SIX),
    (GROUPS, {"w:1": "4 exact"}),
    ("""(float[2,3] x) => (float[2,2] y) <float[3,6] w, float[6] g, float[6,2] v> { h = MatMul(x, w)
        s, , i = com.microsoft.SkipSimplifiedLayerNormalization(h, h, g)  k = Mul(s, i)  y = MatMul(k, v) }""",
     {"w:1": "6 mixing: mixes the axis"}),
    ("(float[2,3] x) => (float[2,6] y) <float[3,6] w> { h = MatMul(x, w)  y = com.microsoft.SwiGLU(h, h) }",
     {"w:1": "6 pinned: not followed"}),
], ids=["EmbedLayerNormalization", "BiasAdd", "SimplifiedLayerNormalization", "BiasSplitGelu", "GroupNorm",
        "inverse deviation", "not carried"])
def test_ties_of_what_only_other_devices_run(text: str, groups: dict[str, str]) -> None:
    assert_groups(coupling_of(build(text, domains=["com.microsoft"])), groups)


def test_shapes_reach_through_chains() -> None:
    links = "".join(f"h{i + 1} = com.microsoft.BiasGelu(h{i}, b)  r{i} = Relu(h{i + 1})  " for i in range(20))
    text = f"(float[2,3] x) => (float[2,6] y) <float[3,6] w, float[6] b> {{ h0 = MatMul(x, w)  {links} y = Relu(h20) }}"
    graph = Graph(build(text, domains=["com.microsoft"]))
    infer(graph)
    assert all(v.shape is not None for v in graph.values)


def test_every_rule_has_a_note() -> None:
    assert all(note.endswith(".") for _, _, _, note in registry.table())
    assert onnx.defs.get_all_schemas_with_history()
    missing = {s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain in ("", "ai.onnx.ml")
               and registry.find(s.domain, s.name, 99) is None}
    assert not missing, f"no rule for {sorted(missing)}"


def test_ids_of_positions_follow_the_mask() -> None:
    """The mask is input 7, the ids of positions input 8: these alone are looked up in the table."""
    model = build("""(int32[2,4] ids, int32[2] mask, int32[2,4] places) => (float[2,4,6] y)
        <float[9,6] w, float[1,6] p, float[6] g, float[6] b>
        { y, m = com.microsoft.EmbedLayerNormalization(ids, , w, p, , g, b, mask, places) }""", domains=["com.microsoft"])
    feeds = [sample_inputs(model, seed=seed) for seed in range(5)]
    assert not any(one["places"].any() for one in feeds) and any(one["ids"].max() > 1 for one in feeds)
