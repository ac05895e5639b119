"""Weights that a model computes: what is stored of them has no channels that a plan could name."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.errors import InputError
from tests.ops.case import build

NORMED = """(float[N,4] x) => (float[N,3] y) <float[4,6] v, float[1,6] g, float[6,3] u, int64[1] axis = {0}>
    { n = ReduceL2(v, axis)  d = Div(v, n)  w = Mul(d, g)  h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, u) }"""


def test_a_weight_of_its_norm_and_direction() -> None:
    model = build(NORMED)
    state = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    made = onnxprune.prune(model, 0.5, importance="l2", repair="none", verify=False, time=False)
    assert made.plan.computed == ["v", "g"]
    with pytest.raises(InputError, match=r"the plan cuts what the model computes of '[vg]', not the constant itself"):
        onnxprune.slice_state(made.plan, state)
    tensor_map = {"tensors": {"v": ["", "u:0"], "g": ["", "u:0"]}}
    found = onnxprune.slice_state(made.plan, state, tensor_map=tensor_map)
    assert found["v"].shape == (4, 3) and found["g"].shape == (1, 3)
    kept = np.delete(np.arange(6), made.plan.removed["u"]["0"])
    np.testing.assert_array_equal(found["v"], state["v"][:, kept])
