"""What the outputs make of other weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxprune.graph.graph import Graph
from onnxprune.importance import trials
from onnxprune.importance.trials import Trials, WeightChange
from onnxprune.layers.find import linear_layers
from onnxprune.model.model import load
from onnxprune.statistics.moments import means, observe
from tests.ops.case import build
from tests.support.oracle import session

NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,16,16] x) => (float[N,6,16,16] y)
<float[8,3,3,3] w1, float[6,8,1,1] w2>
{
  a = Conv <pads = [1, 1, 1, 1]> (x, w1)
  c = Relu (a)
  y = Conv (c, w2)
}
"""


def net() -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    model = onnx.parser.parse_model(NET)
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in ((8, 3, 3, 3), (6, 8, 1, 1))]
    for name, array in zip(("w1", "w2"), weights, strict=True):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model, weights[0], weights[1]


@pytest.mark.slow
@pytest.mark.parametrize("seen", [2**20, 5000])
def test_error_of_a_change(monkeypatch: pytest.MonkeyPatch, seen: int) -> None:
    """Squared error over variance; of long outputs a sample with every feature is compared."""
    monkeypatch.setattr(trials, "MAX_ELEMENTS", seen)
    proto, _, w2 = net()
    model = load(proto)
    x = np.random.default_rng(1).standard_normal((3, 8, 3, 16, 16)).astype(np.float32)
    batches = [{"x": part} for part in x]
    layers = linear_layers(Graph(model.proto))
    moments = observe(model, layers, batches, count=len(batches))
    last = next(layer for layer in layers if layer.weight.name == "w2")
    weight = last.matrix(w2).astype(np.float64)[0]
    changed = weight.copy()
    changed[4] *= 0.5  # one feature of six
    with Trials(model, means(moments), batches, [last.x.name]) as found:
        found.advance(0)
        assert found.error([WeightChange(last.name, 0, weight)]) == pytest.approx(0, abs=1e-12)
        error = found.error([WeightChange(last.name, 0, changed)])
    hidden = np.maximum(_convolved(x.reshape(-1, 3, 16, 16), proto), 0)
    y = np.einsum("oc,nchw->nohw", weight, hidden)
    other = np.einsum("oc,nchw->nohw", changed, hidden)
    other += ((weight - changed) @ hidden.mean((0, 2, 3)))[:, None, None]  # biases keep the means
    assert error == pytest.approx(np.mean((y - other) ** 2) / y.var(), rel=1e-3 if seen > 5000 else 0.1)


def _convolved(x: np.ndarray, proto: onnx.ModelProto) -> np.ndarray:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.output[:]
    copy.graph.output.append(onnx.ValueInfoProto(name="a"))
    return np.asarray(session(copy).run(None, {"x": x})[0], dtype=np.float64)


def test_means_of_all_groups_are_kept(rng: np.random.Generator) -> None:
    """A grouped convolution without a bias gets one for both groups at once."""
    weights = {"w": rng.standard_normal((4, 4, 1, 1)), "u": rng.standard_normal((6, 2, 1, 1))}
    text = "(float[N,4,5,5] x) => (float[N,6,5,5] y) <float[4,4,1,1] w, float[6,2,1,1] u>"
    model = load(build(f"{text} {{ h = Conv(x, w) r = Relu(h) y = Conv <group = 2> (r, u) }}", constants=weights))
    batches = [{"x": rng.standard_normal((8, 4, 5, 5)).astype(np.float32)}]
    layers = linear_layers(Graph(model.proto))
    moments = observe(model, layers, batches, count=1)
    last = next(layer for layer in layers if layer.weight.name == "u")
    halved = last.matrix(weights["u"].astype(np.float32)).astype(np.float64) / 2
    with Trials(model, means(moments), batches, [last.x.name]) as found:
        found.advance(0)
        error = found.error([WeightChange(last.name, block, halved[block]) for block in (0, 1)])
    y = session(model.proto).run(None, batches[0])[0].astype(np.float64)
    gap = y / 2 - (y / 2).mean(axis=(0, 2, 3), keepdims=True)
    assert error == pytest.approx(np.mean(gap**2) / y.var(), rel=1e-3)
