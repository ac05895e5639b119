"""Small quantised models with inputs, for tests of what changes their weights."""

from __future__ import annotations

import numpy as np
import onnx

from tests.ops.case import build
from tests.support.quantised_models import VARIANTS

RNG = np.random.default_rng(0)
X = RNG.standard_normal((256, 8)) @ RNG.standard_normal((8, 32))
ROWS = """(float[N,32] x) => (float[N,4] y) <float[32,96] w, float[96] b, float[96,64] v, float[64,4] u>
    { h = MatMul(x, w)  a = Add(h, b)  r = Relu(a)  k = MatMul(r, v)  s = Relu(k)  y = MatMul(s, u) }"""
PICTURES = """(float[N,3,6,6] x) => (float[N,4] y)
    <float[24,3,3,3] w, float[24] b, float[16,24,3,3] v, float[16] c, float[16,4] u>
    { h = Conv <pads = [1,1,1,1]> (x, w, b)  r = Relu(h)  k = Conv(r, v, c)  s = Relu(k)
      m = ReduceMean <axes = [2, 3], keepdims = 0> (s)  y = MatMul(m, u) }"""
MADE = {
    "nbits": (ROWS, X.astype(np.float32)),
    "nbits-points": (ROWS, X.astype(np.float32)),
    "qdq": (PICTURES, RNG.standard_normal((256, 3, 6, 6)).astype(np.float32)),
    "qdq-channel": (PICTURES, RNG.standard_normal((256, 3, 6, 6)).astype(np.float32)),
}


def made(name: str) -> tuple[onnx.ModelProto, np.ndarray]:
    text, x = MADE[name]
    model = build(text, 13)
    return VARIANTS[name](model, [{"x": x[i : i + 16]} for i in range(0, 64, 16)]), x
