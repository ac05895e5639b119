"""Small models of fused operators that onnxruntime's optimizer makes only of larger models."""

from __future__ import annotations

import numpy as np
import onnx

from tests.ops.case import build

BLOCK = """(int32[2,8] ids, int32[2,8] mask) => (float[2,8,4] y)
<float[40,24] words, float[8,24] places, float[24] g0, float[24] b0, float[24,72] qkv, float[72] qkv_bias,
 float[24,24] o, float[24] o_bias, float[24] g1, float[24] b1, float[24,48] up, float[48] up_bias, float[48,24] down,
 float[24] down_bias, float[24] g2, float[24] b2, float[24,4] head>
{
  e, m = com.microsoft.EmbedLayerNormalization(ids, , words, places, , g0, b0, mask)
  a = com.microsoft.Attention <num_heads = 4> (e, qkv, qkv_bias, m)
  p = MatMul(a, o)
  s = com.microsoft.SkipLayerNormalization(p, e, g1, b1, o_bias)
  h = MatMul(s, up)
  t = com.microsoft.ACTIVATION(h, up_bias)
  d = MatMul(t, down)
  z = com.microsoft.SkipLayerNormalization(d, s, g2, b2, down_bias)
  y = MatMul(z, head)
}"""


DECODER = """(float[2,4,24] x) => (float[2,4,6] y)
<float[24] g0, float[24,96] q, float[24,32] k, float[24,32] v, float[96,24] o, float[24] g1, float[24,40] gate,
 float[24,40] up, float[40,24] down, float[24] g2, float[24,6] head, int32[2] lengths, int32 total,
 float[16,8] cos, float[16,8] sin>
{
  n = SimplifiedLayerNormalization <axis = -1> (x, g0)
  qs = MatMul(n, q)
  ks = MatMul(n, k)
  vs = MatMul(n, v)
  a, pk, pv = com.microsoft.GroupQueryAttention <num_heads = 6, kv_num_heads = 2, do_rotary = 1>
    (qs, ks, vs, , , lengths, total, cos, sin)
  p = MatMul(a, o)
  s, , , r = com.microsoft.SkipSimplifiedLayerNormalization(x, p, g1)
  ga = MatMul(s, gate)
  gs = com.microsoft.QuickGelu <alpha = 1.0> (ga)
  u = MatMul(s, up)
  m = Mul(gs, u)
  d = MatMul(m, down)
  z = com.microsoft.SkipSimplifiedLayerNormalization(r, d, g2)
  y = MatMul(z, head)
}"""


MULTI_HEAD = """(float[2,4,24] x) => (float[2,4,6] y)
<float[24,24] q, float[24,24] k, float[24,24] v, float[72] qkv_bias, float[24,24] o, float[24] g, float[24] b,
 float[24,6] head, float[16,3] cos, float[16,3] sin, int64[2,4] at>
{
  qs = MatMul(x, q)
  ks = MatMul(x, k)
  vs = MatMul(x, v)
  qr = com.microsoft.RotaryEmbedding(qs, at, cos, sin)
  kr = com.microsoft.RotaryEmbedding(ks, at, cos, sin)
  a = com.microsoft.MultiHeadAttention <num_heads = 4> (qr, kr, vs, qkv_bias)
  p = com.microsoft.FusedMatMul <alpha = 0.5> (a, o)
  s = com.microsoft.SkipLayerNormalization(p, x, g, b)
  f = com.microsoft.Gelu(s)
  y = MatMul(f, head)
}"""


def by_hand() -> dict[str, onnx.ModelProto]:
    """Small graphs of fused operators that the optimizer makes of larger models only."""
    given = {"lengths": [3, 3], "total": 4, "g0": np.ones(24), "g1": np.ones(24), "g2": np.ones(24)}
    texts = {
        "embed-attention-biasgelu": BLOCK.replace("ACTIVATION", "BiasGelu"),
        "embed-attention-fastgelu": BLOCK.replace("ACTIVATION", "FastGelu"),
        "grouped-query-rotary": DECODER,
        "multi-head-rotary": MULTI_HEAD,
    }
    return {name: build(text, 17, 8, given, ["com.microsoft"]) for name, text in texts.items()}
