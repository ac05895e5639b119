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
SUMS = """(float[N,3,6,6] x) => (float[N,4] y)
    <float[16,3,3,3] w, float[16] b, float[16,16,3,3] v, float[16] c, float[4,24] u, float[4] d, float[8,16,1,1] t>
    { h = Conv <pads = [1,1,1,1]> (x, w, b)  g = Relu(h)  r = MaxPool <kernel_shape = [2,2]> (g)
      k = Conv <pads = [1,1,1,1]> (r, v, c)  a = Add(k, r)
      l = LeakyRelu <alpha = 0.1> (a)  m = GlobalAveragePool(l)  q = Conv(a, t)  s = Sigmoid(q)  z = Mul(s, q)
      n = GlobalAveragePool(z)  j = Concat <axis = 1> (m, n)  f = Flatten(j)  y = Gemm <transB = 1> (f, u, d) }"""
SIGNALS = X.astype(np.float32)
IMAGES = RNG.standard_normal((256, 3, 6, 6)).astype(np.float32)
MADE = {
    **dict.fromkeys(("nbits", "nbits-points", "qoperator-channel", "dynamic", "dynamic-channel"), (ROWS, SIGNALS)),
    **dict.fromkeys(("qdq", "qdq-channel", "qoperator", "qoperator-u8", "dynamic-u8"), (PICTURES, IMAGES)),
    "qoperator of sums": (SUMS, IMAGES),
    "all of dynamic": (ROWS, SIGNALS),
}
"""Text and inputs of a model, by the names of its variants, of which the last is applied first."""


def made(name: str) -> tuple[onnx.ModelProto, np.ndarray]:
    text, x = MADE[name]
    model = build(text, 13)
    for variant in reversed(name.split(" of ")):
        if variant in VARIANTS:
            model = VARIANTS[variant](model, [{"x": x[i : i + 16]} for i in range(0, 64, 16)])
    return model, x
