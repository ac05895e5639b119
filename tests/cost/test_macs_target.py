"""`--target macs`: met means that the MACs of the result, counted again, are within what was asked."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.cost.measure import measure
from onnxprune.errors import InputError
from onnxprune.model.model import load
from tests.ops.case import build
from tests.support.lanes import spread

MS = ("com.microsoft",)
QUERIES = "q = MatMul(b, wq) k = MatMul(b, wk) v = MatMul(b, wv)"
MODELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Einsum": (
        """(float[N,8,16] x) => (float[N,8,10] y) <float[16,64] w1, float[64,64] w2, float[64,10] w3>
        { a = MatMul(x, w1)  b = Relu(a)  c = Einsum <equation="bij,jk->bik"> (b, w2)  d = Relu(c)  y = MatMul(d, w3) }""",
        (),
    ),
    "fused attention": (
        f"""(float[N,32,16] x) => (float[N,32,10] y)
        <float[16,16] w1, float[16,32] wq, float[16,32] wk, float[16,32] wv, float[32,10] w3>
        {{ a = MatMul(x, w1)  b = Relu(a)  {QUERIES}
           c = com.microsoft.MultiHeadAttention <num_heads=8> (q, k, v)  y = MatMul(c, w3) }}""",
        MS,
    ),
    "packed attention": (
        """(float[N,32,16] x) => (float[N,32,10] y) <float[16,16] w1, float[16,96] w, float[96] b1, float[32,10] w3>
        { a = MatMul(x, w1)  b = Relu(a)  c = com.microsoft.Attention <num_heads=8> (b, w, b1)  y = MatMul(c, w3) }""",
        MS,
    ),
    "free lengths": (
        """(float[B,T,16] x) => (float[B,T,10] y) <float[16,64] w1, float[64,64] w2, float[64,10] w3>
        { a = MatMul(x, w1)  b = Relu(a)  c = MatMul(b, w2)  d = Relu(c)  y = MatMul(d, w3) }""",
        (),
    ),
    "lengths that only a run tells": (
        """(float[B,T,16] x) => (float[M,10] y) <float[16,64] w1, float[64,64] w2, float[64,10] w3>
        { n = NonZero(x)  i = Slice(n, zero, one, zero)  g = Squeeze(i, zero)  r = Reshape(x, rows)  p = Gather(r, g)
          a = MatMul(p, w1)  b = Relu(a)  c = MatMul(b, w2)  d = Relu(c)  y = MatMul(d, w3) }""",
        (),
    ),
}


def model_of(name: str) -> onnx.ModelProto:
    text, domains = MODELS[name]
    model = build(text, domains=domains)
    numbers = {"zero": np.array([0]), "one": np.array([1]), "rows": np.array([-1, 16])}
    used = {i for node in model.graph.node for i in node.input}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in numbers.items() if k in used)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("share", spread([0.7, 0.5]))
@pytest.mark.parametrize("name", MODELS)
def test_what_is_met_is_counted(name: str, share: float) -> None:
    model = model_of(name)
    result = onnxprune.prune(model, target={"macs": share}, importance="l2", repair="none")
    target = result.report.targets["macs"]
    counted = measure(load(result.proto), run=True).macs
    assert counted is not None and target.left == counted
    assert target.met == (counted <= target.asked)
    assert target.met, "each of these has more than enough to remove"
    assert result.report.macs.after == counted <= share * result.report.macs.before


def test_inputs_that_are_too_short_have_no_macs() -> None:
    """A window that is longer than the signal gives a negative length by the formula: nothing that could be met."""
    model = build("""(float[N,1,L] x) => (float[N,4,K] y) <float[4,1,400] w> { y = Conv(x, w) }""")
    assert measure(load(model), {"x": (1, 1, 8)}, run=True).macs is None
    assert measure(load(model), {"x": (1, 1, 401)}).macs == 2 * 4 * 400
    with pytest.raises(InputError, match="MACs cannot be counted"):
        onnxprune.prune(model, target={"macs": 0.5}, input_shapes={"x": (1, 1, 8)})


@pytest.mark.slow
@pytest.mark.parametrize("run", spread([True, False]))
def test_free_lengths_are_guessed_longer_until_a_model_runs(run: bool) -> None:
    """A window of 400 samples: of 8 samples nothing is left, and a target would be met by counting nothing."""
    text = """(float[N,samples] x) => (float[N,2,K] y)
    <float[32,1,400] w, float[4,32,1] v, float[2,4,1] o, int64[1] one = {1}, int64[2] sum = {0, 1}> {
        u = Unsqueeze(x, one)  a = Conv<strides = [160]>(u, w)  r = Relu(a)  b = Conv(r, v)
        MORE
        y = Conv(c, o)
    }"""
    by_values = "s = ReduceSum<keepdims = 0>(b, sum)  all = Equal(s, s)  c = Compress<axis = 2>(b, all)"
    model = build(text.replace("MORE", by_values if run else "c = Relu(b)"))
    frames = (1024 - 400) // 160 + 1
    assert measure(load(model), run=run).macs == frames * (32 * 400 + 4 * 32 + 2 * 4)
    for repair in ("none", "auto"):
        report = onnxprune.prune(model, target={"macs": 0.5}, repair=repair).report
        assert report.verified and 0 < report.macs.after <= 0.5 * report.macs.before
        assert report.targets["macs"].met
