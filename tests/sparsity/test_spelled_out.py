"""Weights that constants scale before a product: integers with their scale spelled out, and floats."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

import onnxprune
from tests.ops.case import build
from tests.support.lanes import spread
from tests.support.oracle import assert_equivalent, session

SCALED = """(float[N,16] x) => (float[N,8] y) <{kind}[16,32] q, float{scale} s, float{zero} z, {kind}[32,8] r, float t>
    {{ {first}  b = Relu(a)  f2 = Cast <to = 1> (r)  {second}  y = MatMul(b, w2) }}"""
FIRST = {
    "plain": "f = Cast <to = 1> (q)  w = Mul(f, s)  a = MatMul(x, w)",
    "commuted": "f = Cast <to = 1> (q)  w = Mul(s, f)  a = MatMul(x, w)",
    "zero point": "f = Cast <to = 1> (q)  g = Sub(f, z)  w = Mul(g, s)  a = MatMul(x, w)",
    "turned twice": """f = Cast <to = 1> (q)  w = Mul(f, s)  v = Transpose <perm = [1, 0]> (w)
                      a = Gemm <transB = 1> (x, v)""",
}
SCALES = {"[1,32]": (1, 32), "[32]": (32,), "[1]": (1,), "": (), "[16,1]": (16, 1)}


def model(first: str, scale: str, kind: str = "int8") -> tuple[onnx.ModelProto, NDArray[np.float32]]:
    """A model and the real values of its first weight."""
    rng = np.random.default_rng(0)
    zero = "[1,32]" if scale not in ("", "[1]") else ""
    second = "w2 = Mul(f2, t)" if kind == "int8" else "g2 = Sub(f2, t)  w2 = Mul(g2, t)"
    low, high = (-128, 128) if kind == "int8" else (0, 256)
    q, r = rng.integers(low, high, (16, 32)), rng.integers(low, high, (32, 8))
    s = rng.uniform(0.1, 10, SCALES[scale]).astype(np.float32)
    z = (rng.integers(100, 130, SCALES[zero]) if kind == "uint8" else np.zeros(SCALES[zero])).astype(np.float32)
    text = SCALED.format(kind=kind, scale=scale, zero=zero, first=FIRST[first], second=second)
    made = build(text, constants={"q": q, "s": s, "z": z, "r": r, "t": 3.0})
    return made, (q.astype(np.float32) - (z if first == "zero point" else 0)) * s


def effective(proto: onnx.ModelProto, first: str) -> NDArray[np.float32]:
    """The first weight as the product reads it: what the model makes of the unit matrix."""
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    del made.graph.output[:]
    made.graph.output.append(onnx.helper.make_tensor_value_info("a", 1, None))
    found: NDArray[np.float32] = session(made).run(None, {"x": np.eye(16, dtype=np.float32)})[0]
    return found


@pytest.mark.parametrize(("first", "scale"), spread(itertools.product(FIRST, SCALES), 6))
def test_zeros_are_zeros_of_what_is_meant(first: str, scale: str) -> None:
    """Two of every four inputs stay, those with the largest real values."""
    proto, real = model(first, scale, "uint8" if first == "zero point" else "int8")
    result = onnxprune.prune(proto, pattern="2:4", repair="none")
    assert set(result.report.zeroed) == {"q", "r"} and result.report.dense == {}
    w = effective(result.proto, first)
    runs, before = w.reshape(4, 4, 32), np.abs(real).reshape(4, 4, 32)
    assert ((runs != 0).sum(axis=1) <= 2).all()
    kept = np.where(runs != 0, before, np.inf).min(axis=1)
    gone = np.where(runs == 0, before, 0).max(axis=1)
    assert (kept >= gone * (1 - 1e-5)).all()
    assert np.allclose(w[w != 0], real[w != 0], rtol=1e-5)


@pytest.mark.parametrize("first", FIRST)
def test_channels_are_ranked_by_real_values(first: str) -> None:
    """A channel of small numbers with a large scale is a large channel."""
    proto, real = model(first, "[1,32]", "uint8" if first == "zero point" else "int8")
    r = next(numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == "r").astype(np.float32)
    theirs = 3 * (r - 3) if first == "zero point" else 3 * r
    expected = np.sqrt(np.square(real).sum(axis=0) + np.square(theirs).sum(axis=1))
    (scores,) = (s for s in onnxprune.score(onnxprune.analyze(proto), "l2") if len(s) == 32)
    assert np.allclose(scores / scores.sum(), expected / expected.sum(), rtol=1e-4)


@pytest.mark.parametrize("first", ["plain", "commuted", "turned twice"])
def test_removal_is_exact(first: str) -> None:
    proto, _ = model(first, "[1,32]")
    assert assert_equivalent(proto, {"x": np.random.default_rng(1).standard_normal((3, 16)).astype(np.float32)}) == 16


def weights(proto: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


@pytest.mark.parametrize("node", ["Mul(w, s)", "Mul(s, w)", "Div(w, s)"])
def test_floats_may_be_scaled_too(node: str) -> None:
    proto = build(f"(float[N,16] x) => (float[N,8] y) <float[16,8] w, float[8] pos_s> {{ v = {node}  y = MatMul(x, v) }}"
                  .replace("(w, s)", "(w, pos_s)").replace("(s, w)", "(pos_s, w)"))  # fmt: skip
    result = onnxprune.prune(proto, pattern="2:4", repair="none")
    assert ((weights(result.proto)["w"].reshape(4, 4, 8) == 0).sum(axis=1) == 2).all()
    assert set(result.report.zeroed) == {"w"}


@pytest.mark.parametrize(
    "text",
    [
        "<float[16,8] w, float[16,8] m> { v = Mul(w, m)  y = MatMul(x, v) }",  # a mask of its own
        "<float[16,8] w, float[8] m> { v = Sub(w, m)  y = MatMul(x, v) }",  # zero is another number there
        "<float[8] w, float[16,1] m> { v = Mul(w, m)  y = MatMul(x, v) }",  # stretched
    ],
)
def test_what_is_no_scaled_weight_is_left_alone(text: str) -> None:
    proto = build(f"(float[N,16] x) => (float[N,8] y) {text}")
    result = onnxprune.prune(proto, pattern="2:4", repair="none")
    assert result.report.zeroed == {} and result.report.whole_because == ["no weight is left open to zeros"]
