"""IR version 3, whose initializers should be graph inputs too: files in which they are not are pruned alike."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxprune
from onnxprune.cost.measure import measure
from onnxprune.model.model import load
from onnxprune.testing import assert_equivalent
from tests.ops.case import build

FLOAT = """(float[1,3,8,8] x) => (float[1,4,4,4] y) <float[16,3,3,3] w1, float[16] b1, float[4,16,3,3] w2>
{ a = Conv(x, w1, b1) r = Relu(a) y = Conv(r, w2) }"""
QUANTISED = """(float[1,3,8,8] x) => (float[1,4,4,4] y)
<float s, uint8 z, int8[16,3,3,3] w1, int8[4,16,3,3] w2, float t, int8 n>
{
    q = QuantizeLinear(x, s, z)
    a = QLinearConv(q, s, z, w1, t, n, s, z)
    b = QLinearConv(a, s, z, w2, t, n, s, z)
    y = DequantizeLinear(b, s, z)
}"""


SCALES = {"s": 0.1, "z": 128, "t": 0.02, "n": 0}


def model(text: str, ir_version: int, *, constants: bool = False) -> onnx.ModelProto:
    """A model with random weights, as initializers without inputs or in Constant nodes."""
    found = build(text, opset=11, ir=ir_version, constants=SCALES)
    if constants:
        nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in found.graph.initializer]
        body = [*nodes, *found.graph.node]
        del found.graph.initializer[:], found.graph.node[:]
        found.graph.node.extend(body)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("constants", [False, True])
@pytest.mark.parametrize("text", [FLOAT, QUANTISED])
def test_weights_that_are_no_inputs_are_pruned(text: str, constants: bool) -> None:
    old, new = (model(text, version, constants=constants) for version in (3, 4))
    assert measure(load(old)) == measure(load(new))
    results = [onnxprune.prune(proto, ratio=0.5, repair="none") for proto in (old, new)]
    assert results[0].plan.removed == results[1].plan.removed != {}
    assert results[0].proto.graph == results[1].proto.graph
    assert results[0].proto.ir_version == 3 and results[0].report.verified
    assert_equivalent(old, results[0])


@pytest.mark.slow
def test_one_with_inputs_stays_valid() -> None:
    """As the specification asks for it: what the repair adds has its input as well, or is a Constant node."""
    old = model(FLOAT, 3)
    old.graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in old.graph.initializer)
    onnx.checker.check_model(old)
    result = onnxprune.prune(
        old, ratio=0.5, calib={"x": np.random.default_rng(1).standard_normal((8, 3, 8, 8)).astype("f")}
    )
    assert result.proto.ir_version == 3 and any(entry.penalty is not None for entry in result.report.repair)
    onnx.checker.check_model(result.proto, full_check=True)
