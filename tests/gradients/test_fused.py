"""Gradients of fused operators: those of the operators that they are made of, in onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime
import pytest

from onnxprune.gradients.differentiate import differentiate
from onnxprune.model.model import Model
from tests.gradients.test_differentiate import fed
from tests.ops.case import build


def assert_alike(
    texts: Sequence[str], names: Sequence[str], constants: dict[str, object] | None = None, opset: int = 17
) -> None:
    """Two models have the same gradients."""
    found = []
    for text in texts:
        model = build(text, opset, constants=constants, domains=["com.microsoft"])
        made = differentiate(Model(model), [o.name for o in model.graph.output], names)
        assert not made.reasons
        shapes = {o.name: [d.dim_value for d in o.type.tensor_type.shape.dim] for o in model.graph.output}
        seeds = {n: np.random.default_rng(2).standard_normal(shape).astype("f") for n, shape in shapes.items()}
        session = onnxruntime.InferenceSession(made.model.proto.SerializeToString(), providers=["CPUExecutionProvider"])
        found.append(session.run([made.gradients[n] for n in names], fed(model, made, seeds)))
    for whole, parts in zip(*found, strict=True):
        np.testing.assert_allclose(whole, parts, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("activation", "apart"),
    [
        ('activation = "Relu"', "Relu"),
        ('activation = "Tanh"', "Tanh"),
        ('activation = "Sigmoid"', "Sigmoid"),
        ('activation = "LeakyRelu", activation_params = [0.2]', "LeakyRelu <alpha = 0.2>"),
        ('activation = "HardSigmoid", activation_params = [0.3, 0.4]', "HardSigmoid <alpha = 0.3, beta = 0.4>"),
        ('activation = "Clip", activation_params = [-0.5, 0.7]', "Clip"),
    ],
)
def test_a_fused_convolution_as_its_parts(activation: str, apart: str) -> None:
    """With a summand, in onnxruntime."""
    interface = "(float[2,3,5,5] x, float[2,4,5,5] s) => (float[2,4,5,5] y) <float[4,3,3,3] w, float[4] b"
    limits = ", low, high" if apart == "Clip" else ""
    texts = [
        f"{interface}> {{ y = com.microsoft.FusedConv <pads = [1,1,1,1], {activation}> (x, w, b, s) }}",
        f"{interface}, float low, float high> {{ c = Conv <pads = [1,1,1,1]> (x, w, b) z = Add(c, s) y = {apart} (z{limits}) }}",
    ]
    assert_alike(texts, ["x", "s", "w", "b"], {"low": -0.5, "high": 0.7})


@pytest.mark.parametrize("activation", ['"LeakyRelu", activation_params = [-0.2]', '"Clip"', '"Mish"'])
def test_a_slope_that_the_output_does_not_tell(activation: str) -> None:
    text = f"""(float[2,3,5,5] x) => (float[2,4,3,3] y) <float[4,3,3,3] w, float[4] b>
        {{ y = com.microsoft.FusedConv <activation = {activation}> (x, w, b) }}"""
    made = differentiate(Model(build(text)), ["y"], ["w"])
    assert "FusedConv" in made.reasons["w"] and not made.gradients


NORMED = """m = ReduceMean <axes = [2]> (a) c = Sub(a, m) q = Mul(c, c) v = ReduceMean <axes = [2]> (q) k = Add(v, e)
    r = Sqrt(k) n = Div(c, r)"""
SQUARED = "q = Mul(a, a) v = ReduceMean <axes = [2]> (q) k = Add(v, e) r = Sqrt(k) n = Div(a, r)"
ALIKE = {
    "FusedGemm": (
        "(float[2,3] x) => (float[2,4] y) <float[3,4] w, float[4] b>",
        'y = com.microsoft.FusedGemm <alpha = 0.5, activation = "LeakyRelu", activation_alpha = 0.2> (x, w, b)',
        "a = Gemm <alpha = 0.5> (x, w, b) y = LeakyRelu <alpha = 0.2> (a)",
    ),
    "FusedMatMul": (
        "(float[2,4,3] x, float[4,5] w) => (float[2,3,5] y)",
        "y = com.microsoft.FusedMatMul <alpha = 0.3, transA = 1> (x, w)",
        "t = Transpose <perm = [0,2,1]> (x) a = MatMul(t, w) y = Mul(a, f)",
    ),
    "FusedMatMul stretched": (
        "(float[1,4,3] x, float[2,5,3] w) => (float[2,4,5] y)",
        "y = com.microsoft.FusedMatMul <transB = 1> (x, w)",
        "t = Transpose <perm = [0,2,1]> (w) y = MatMul(x, t)",
    ),
    "FusedMatMul of heads": (
        "(float[4,2,3,5] x, float[6,2,3,5] w) => (float[2,3,4,6] y)",
        "y = com.microsoft.FusedMatMul <transBatchA = 1, transBatchB = 1, transB = 1> (x, w)",
        "s = Transpose <perm = [1,2,0,3]> (x) t = Transpose <perm = [1,2,3,0]> (w) y = MatMul(s, t)",
    ),
    "QuickGelu": (
        "(float[2,3] x) => (float[2,3] y)",
        "y = com.microsoft.QuickGelu <alpha = 1.5> (x)",
        "a = Mul(x, h) s = Sigmoid(a) y = Mul(x, s)",
    ),
    "BiasGelu": (
        "(float[2,3] x) => (float[2,3] y) <float[3] b>",
        "y = com.microsoft.BiasGelu (x, b)",
        "a = Add(x, b) y = com.microsoft.Gelu (a)",
    ),
    "FastGelu": (
        "(float[2,3] x) => (float[2,3] y) <float[3] b>",
        "y = com.microsoft.FastGelu (x, b)",
        "a = Add(x, b) y = com.microsoft.FastGelu (a)",
    ),
    "RotaryEmbedding": (
        "(float[1,2,3,4] x) => (float[1,2,3,4] y) <float[5,2] kc, float[5,2] ks, int64[1,3] k>",
        "y = com.microsoft.RotaryEmbedding (x, k, kc, ks)",
        """l, r = Split <axis = 3> (x) c = Gather(kc, k) s = Gather(ks, k) lc = Mul(l, c) ls = Mul(l, s)
        rc = Mul(r, c) rs = Mul(r, s) a = Sub(lc, rs) b = Add(ls, rc) y = Concat <axis = 3> (a, b)""",
    ),
    "SimplifiedLayerNormalization": (
        "(float[2,3,4] x) => (float[2,3,4] y) <float[4] w>",
        "y = SimplifiedLayerNormalization <epsilon = 0.5> (x, w)",
        f"a = Identity(x) {SQUARED} y = Mul(n, w)",
    ),
    "MeanVarianceNormalization": (
        "(float[2,3,4] x) => (float[2,3,4] y)",
        "y = MeanVarianceNormalization <axes = [2]> (x)",
        "m = ReduceMean <axes = [2]> (x) c = Sub(x, m) q = Mul(c, c) v = ReduceMean <axes = [2]> (q) r = Sqrt(v) y = Div(c, r)",
    ),
    "SkipLayerNormalization": (
        "(float[2,3,4] x, float[2,3,4] s) => (float[2,3,4] y, float[2,3,4] a) <float[4] w, float[4] b, float[4] z>",
        "y, , , a = com.microsoft.SkipLayerNormalization <epsilon = 0.5> (x, s, w, b, z)",
        f"o = Add(x, s) a = Add(o, z) {NORMED} p = Mul(n, w) y = Add(p, b)",
    ),
    "SkipSimplifiedLayerNormalization": (
        "(float[2,3,4] x, float[3,4] s) => (float[2,3,4] y, float[2,3,4] a) <float[4] w, float[4] b>",
        "y, , , a = com.microsoft.SkipSimplifiedLayerNormalization <epsilon = 0.5> (x, s, w, b)",
        f"o = Add(x, s) a = Add(o, b) {SQUARED} y = Mul(n, w)",
    ),
}
"""Interface, the fused node, and the nodes that it is made of."""


@pytest.mark.parametrize("name", ALIKE)
def test_a_fused_node_as_its_parts(name: str) -> None:
    interface, whole, parts = ALIKE[name]
    names = [word for word in "xswbz" if f"] {word}" in interface]
    extra = "float e, float f, float h"
    ends = f"{interface[:-1]}, {extra}>" if interface.endswith(">") else f"{interface} <{extra}>"
    assert_alike(
        [f"{ends} {{ {nodes} }}" for nodes in (whole, parts)], names, {"e": 0.5, "f": 0.3, "h": 1.5, "k": [4, 0, 2]}
    )


def test_rows_that_are_scaled() -> None:
    text = """(float[2,3] x) => (float[2,3] y) <float[3,3] w>
        { a = MatMul(x, w) y = ai.onnx.ml.Scaler <offset = [1.0, 2.0, 3.0], scale = [0.5, 2.0, 3.0]> (a) }"""
    made = differentiate(Model(build(text, domains=["ai.onnx.ml"])), ["y"], ["w"])
    session = onnxruntime.InferenceSession(made.model.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    x, seed = (np.random.default_rng(i).standard_normal((2, 3)).astype("f") for i in range(2))
    (found,) = session.run([made.gradients["w"]], {"x": x, "w": np.eye(3, dtype="f"), made.seeds["y"]: seed})
    np.testing.assert_allclose(found, x.T @ (seed * [0.5, 2.0, 3.0]), rtol=1e-5)
