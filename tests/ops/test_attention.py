"""Fused attention: whole heads go, with the key and value heads that they share."""

from __future__ import annotations

from typing import Any

import pytest

import onnxprune
from tests.ops.case import assert_groups, build, check, coupling_of
from tests.ops.test_quantization import Quantised, weight
from tests.support.lanes import spread


def attention(name: str, weights: str, body: str, groups: dict[str, str], inputs: str = "", outputs: str = "",
              **more: Any) -> Quantised:
    """x (2, 4, 3) to y (2, 4, 2)."""
    text = f"(float[2,4,3] x{inputs}) => (float[2,4,2] y{outputs})\n<{weights}>\n{{ {body} }}"
    return Quantised(name, text, groups, **more)


PLAIN = "float[3,12] w, float[3,12] k, float[3,12] v, float[12,2] o"
THREE = "q = MatMul(x, w)  p = MatMul(x, k)  r = MatMul(x, v)  "
END = "  y = MatMul(a, o)"
HEADS = {"w:1": "3 exact"}

MULTI = [
    attention("three products", PLAIN,
              THREE + "a = com.microsoft.MultiHeadAttention <num_heads = 3> (q, p, r)" + END, HEADS),
    attention("values of another width", "float[3,12] w, float[3,12] k, float[3,6] v, float[6,2] o",
              THREE + "a = com.microsoft.MultiHeadAttention <num_heads = 3> (q, p, r)" + END, HEADS),
    attention("a bias and a bias of scores", PLAIN + ", float[36] b, float[2,3,4,4] s",
              THREE + "a = com.microsoft.MultiHeadAttention <num_heads = 3> (q, p, r, b, , s)" + END, HEADS),
    attention("a mask and a bias of scores for all heads", PLAIN + ", float[1,1,4,4] s, int32[2,4] m",
              THREE + "a = com.microsoft.MultiHeadAttention <num_heads = 3> (q, p, r, , m, s)" + END, HEADS,
              constants={"m": [[1, 1, 1, 1], [1, 1, 1, 0]]}),
    attention("caches that are weights", PLAIN + ", float[2,3,5,4] c, float[2,3,5,4] d",
              THREE + "a, e, f = com.microsoft.MultiHeadAttention <num_heads = 3> (q, p, r, , , , c, d)" + END,
              HEADS),
    attention("zero heads", "float[3,12] w, float[3,12] k, float[3,12] v",
              THREE + """a = com.microsoft.MultiHeadAttention <num_heads = 3> (q, p, r)
              axes = Constant <value = int64[1] {2}> ()  n = ReduceL2(a, axes)  y = Concat <axis = 2> (n, n)""", HEADS),
]
JOINED = [
    attention("Attention", "float[3,36] w, float[36] b, float[12,2] o",
              "a = com.microsoft.Attention <num_heads = 3> (x, w, b)" + END, HEADS),
    attention("Attention with other widths", "float[3,30] w, float[30] b, float[6,2] o",
              "a = com.microsoft.Attention <num_heads = 3, qkv_hidden_sizes = [12, 12, 6]> (x, w, b)" + END, HEADS),
    attention("features behind a product", "float[3,6] u, float[6,36] w, float[36] b, float[12,2] o",
              "h = MatMul(x, u)  a = com.microsoft.Attention <num_heads = 3, unidirectional = 1> (h, w, b)" + END,
              {"u:1": "6 exact", "w:1": "3 exact"}),
    attention("QAttention", weight("w", 3, 36, per=36) + ", float[36] b, float[12,2] o",
              """h, s, z = DynamicQuantizeLinear(x)
              a = com.microsoft.QAttention <num_heads = 3> (h, w, b, s, pos_w, , z, zw)""" + END, HEADS),
]

GROUPED = "float[3,48] w, float[3,16] k, float[3,16] v, float[48,2] o, int32[2] n, int32 t"
SIZES = {"n": [3, 3], "t": 4}
GQA = "a, e, f = com.microsoft.GroupQueryAttention <num_heads = 6, kv_num_heads = %d> (%s, , , n, t)"
QUERIES = [
    attention("queries in groups", GROUPED, THREE + GQA % (2, "q, p, r") + END, {"w:1": "2 exact"}, constants=SIZES),
    attention("one key for all queries", GROUPED.replace("[3,16]", "[3,8]"), THREE + GQA % (1, "q, p, r") + END,
              {"w:1": "6 exact"}, constants=SIZES),
    attention("packed queries in groups", "float[3,80] w, float[48,2] o, int32[2] n, int32 t",
              "q = MatMul(x, w)  " + GQA % (2, "q, , ") + END, {"w:1": "2 exact"}, constants=SIZES),
    attention("packed, one key for all queries", "float[3,64] w, float[48,2] o, int32[2] n, int32 t",
              "q = MatMul(x, w)  " + GQA % (1, "q, , ") + END, {"w:1": "6 exact"}, constants=SIZES),
    attention("rotated inside",
              GROUPED.replace("48", "96").replace("16", "32") + ", float[4,8] cos, float[4,8] sin",
              THREE + """a, e, f = com.microsoft.GroupQueryAttention <num_heads = 6, kv_num_heads = 2, do_rotary = 1>
              (q, p, r, , , n, t, cos, sin)""" + END, {"w:1": "2 exact"}, constants=SIZES),
]
ROTARY = [
    attention("rotation", PLAIN + ", float[9,2] cos, float[9,2] sin, int64[2,4] at",
              THREE + """s = com.microsoft.RotaryEmbedding(q, at, cos, sin)
              t = com.microsoft.RotaryEmbedding(p, at, cos, sin)
              a = com.microsoft.MultiHeadAttention <num_heads = 3> (s, t, r)""" + END, HEADS),
    attention("rotation of a part", PLAIN + ", float[9,1] cos, float[9,1] sin, int64[2,4] at",
              THREE + """s = com.microsoft.RotaryEmbedding <num_heads = 3, rotary_embedding_dim = 2> (q, at, cos, sin)
              t = com.microsoft.RotaryEmbedding <num_heads = 3, rotary_embedding_dim = 2> (p, at, cos, sin)
              a = com.microsoft.MultiHeadAttention <num_heads = 3> (s, t, r)""" + END, HEADS),
    attention("standard rotation", PLAIN + ", float[9,2] cos, float[9,2] sin, int64[2,4] at",
              THREE + """s = RotaryEmbedding <num_heads = 3> (q, cos, sin, at)
              t = RotaryEmbedding <num_heads = 3> (p, cos, sin, at)
              a = Attention <q_num_heads = 3, kv_num_heads = 3> (s, t, r)""" + END, HEADS, opset=23, ir=11),
]
GROUPED_PAST = "float[3,24] w, float[3,8] k, float[3,8] v, float[24,2] o, float[2,2,3,4] c, float[2,2,3,4] d"
WIDE = "shape = Constant <value = int64[4] {0, 0, -1, 4}> ()  "
STANDARD = [
    attention("standard", PLAIN, THREE + "a = Attention <q_num_heads = 3, kv_num_heads = 3> (q, p, r)" + END, HEADS,
              opset=23, ir=11),
    attention("standard, queries in groups, with a mask of heads",
              "float[3,24] w, float[3,8] k, float[3,8] v, float[24,2] o, float[2,6,4,4] m",
              THREE + "a = Attention <q_num_heads = 6, kv_num_heads = 2> (q, p, r, m)" + END, {"w:1": "2 exact"},
              opset=23, ir=11),
    attention("standard, heads on an axis", PLAIN, THREE + WIDE + """
              q4 = Reshape(q, shape)  p4 = Reshape(p, shape)  r4 = Reshape(r, shape)
              q5 = Transpose <perm = [0, 2, 1, 3]> (q4)  p5 = Transpose <perm = [0, 2, 1, 3]> (p4)
              r5 = Transpose <perm = [0, 2, 1, 3]> (r4)  b = Attention(q5, p5, r5)
              c = Transpose <perm = [0, 2, 1, 3]> (b)  flat = Constant <value = int64[3] {0, 0, -1}> ()
              a = Reshape(c, flat)""" + END, HEADS, opset=23, ir=11),
    attention("standard, with a past and unused caches", GROUPED_PAST,
              THREE + "a, e, f = Attention <q_num_heads = 6, kv_num_heads = 2> (q, p, r, , c, d)" + END,
              {"w:1": "2 exact"}, opset=23, ir=11),
    attention("standard, with a past and used caches", GROUPED_PAST,
              THREE + """a0, e, f = Attention <q_num_heads = 6, kv_num_heads = 2> (q, p, r, , c, d)
              m = ReduceMax <keepdims = 1> (e)  n = ReduceMax <keepdims = 1> (m)  sq = Squeeze(n)
              a = Mul(a0, sq)""" + END, {"w:1": "3 exact"}, opset=23, ir=11),
    attention("standard, with unused scores", PLAIN,
              THREE + "a, , , g = Attention <q_num_heads = 3, kv_num_heads = 3> (q, p, r)" + END, HEADS, opset=23, ir=11),
    attention("standard, with a past, heads on an axis", "float[3,12] w, float[2,3,5,4] c, float[2,3,5,4] d, float[12,2] o",
              "q = MatMul(x, w)  " + WIDE + """q4 = Reshape(q, shape)  q5 = Transpose <perm = [0, 2, 1, 3]> (q4)
              b, e, f = Attention(q5, q5, q5, , c, d)  h = Transpose <perm = [0, 2, 1, 3]> (b)
              flat = Constant <value = int64[3] {0, 0, -1}> ()  a = Reshape(h, flat)""" + END, HEADS, opset=23, ir=11),
]


@pytest.mark.parametrize("case", spread([*MULTI, *JOINED, *QUERIES, *ROTARY, *STANDARD], 4), ids=lambda c: c.name)
def test_heads(case: Quantised) -> None:
    check(case)


def test_caches_from_outside_pin_heads() -> None:
    text = f"""(float[2,4,3] x, float[2,3,5,4] c, float[2,3,5,4] d) => (float[2,4,2] y) <{PLAIN}>
    {{ {THREE} a = com.microsoft.MultiHeadAttention <num_heads = 3> (q, p, r, , , , c, d) {END} }}"""
    assert_groups(coupling_of(build(text, domains=["com.microsoft"])), {"w:1": "3 pinned: graph input"})


def test_packed_queries_keys_and_values() -> None:
    text = f"""(float[2,4,3] x) => (float[2,4,2] y) <float[3,36] w, float[12,2] o>
    {{ q = MatMul(x, w)  shape = Constant <value = int64[5] {{0, 0, 3, 3, 4}}> ()  p = Reshape(q, shape)
    a = com.microsoft.MultiHeadAttention <num_heads = 3> (p) {END} }}"""
    assert_groups(coupling_of(build(text, domains=["com.microsoft"])), HEADS)


UNPADDED = "(float[8,3] x, int32[2,4] at, int32[3] ends) => (float[8,2] y)"
PAGED = """(float[8,3] x, float[2,16,2,4] c, float[2,16,2,4] d, int32[3] ends, int32[2] past, int32[2,1] pages) =>
    (float[8,2] y) <float[3,24] w, float[3,8] k, float[3,8] v, float[24,2] o>"""
ON_OTHER_DEVICES = {
    "PackedAttention": (
        f"""{UNPADDED} <float[3,6] u, float[6,36] w, float[36] b, float[12,2] o> {{ h = MatMul(x, u)
        a = com.microsoft.PackedAttention <num_heads = 3> (h, w, b, at, ends)  y = MatMul(a, o) }}""",
        {"u:1": "6 exact", "w:1": "3 exact"},
        {"u": [3, 3], "w": [3, 24], "b": [24], "o": [8, 2]},
    ),
    "PackedMultiHeadAttention": (
        f"""{UNPADDED} <{PLAIN}, float[36] b> {{ {THREE}
        a = com.microsoft.PackedMultiHeadAttention <num_heads = 3> (q, p, r, b, at, ends)  y = MatMul(a, o) }}""",
        HEADS,
        {"w": [3, 8], "k": [3, 8], "v": [3, 8], "b": [24], "o": [8, 2]},
    ),
    "PagedAttention": (
        f"""{PAGED} {{ {THREE} a, e, f = com.microsoft.PagedAttention <num_heads = 6, kv_num_heads = 2>
        (q, p, r, c, d, ends, past, pages)  y = MatMul(a, o) }}""",
        {"w:1": "3 exact"},
        {"w": [3, 16], "k": [3, 8], "v": [3, 8], "o": [16, 2]},
    ),
}


@pytest.mark.parametrize("name", ON_OTHER_DEVICES)
def test_heads_where_no_processor_runs_the_operator(name: str) -> None:
    """So only the groups and the shapes are looked at: a third of the heads goes, of pages as many of each key."""
    text, groups, shapes = ON_OTHER_DEVICES[name]
    model = build(text, domains=["com.microsoft"])
    assert_groups(coupling_of(model), groups)
    result = onnxprune.prune(model, 0.5, verify=False, time=False, repair="none")
    assert {t.name: list(t.dims) for t in result.proto.graph.initializer if t.data_type == 1} == shapes
    (node,) = [n for n in result.proto.graph.node if n.op_type == name]
    heads = {a.name: a.i for a in node.attribute}
    assert heads == ({"num_heads": 4, "kv_num_heads": 2} if name == "PagedAttention" else {"num_heads": 2})


SPARSE = """(float[2,4,3] x, int32[2] n, int32[1] t, float[2,2,16,8] c, float[2,2,16,8] d) => (float[2,4,2] y)
    <float[3,48] w, float[3,16] k, float[3,16] v, float[48,2] o, int32[L,2] rows, int32[L,1] cols>"""


@pytest.mark.parametrize(("layouts", "groups"), [(1, {"w:1": "3 exact"}), (2, {"w:1": "48 pinned: blocks of their own"})])
def test_sparse_attention(layouts: int, groups: dict[str, str]) -> None:
    """Heads that all look at the same blocks go. Its caches have to share their memory, so nothing is run."""
    text = f"""{SPARSE.replace("L,", f"{layouts},")} {{ {THREE} a, e, f = com.microsoft.SparseAttention
        <num_heads = 6, kv_num_heads = 2, sparse_block_size = 16> (q, p, r, c, d, rows, cols, t, n) {END} }}"""
    model = build(text, domains=["com.microsoft"])
    assert_groups(coupling_of(model), groups)
    result = onnxprune.prune(model, 0.5, verify=False, time=False, repair="none")
    shapes = {t.name: list(t.dims) for t in result.proto.graph.initializer if t.name in "wk"}
    assert shapes == {"w": [3, 32 if layouts == 1 else 48], "k": [3, 16]}
