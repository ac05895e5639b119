"""The group lasso against its definition."""

from __future__ import annotations

import numpy as np
import pytest

import onnxprune
from onnxprune.errors import InputError
from tests.ops.case import build

NET = """(float[N,3,4,4] x) => (float[N,2,4,4] y) <float[5,3,1,1] w, float[5] b, float[2,5,3,3] u>
    { h = Conv(x, w, b)  r = Relu(h)  y = Conv <pads = [1, 1, 1, 1]> (r, u) }"""


def test_by_hand() -> None:
    model = build(NET)
    analysis = onnxprune.analyze(model)
    weights = {t.name: analysis.model.array(t).astype(np.float64) for t in analysis.model.proto.graph.initializer}
    w, b, u = weights["w"], weights["b"], weights["u"]
    norms = [np.sqrt((w[c] ** 2).sum() + b[c] ** 2 + (u[:, c] ** 2).sum()) for c in range(5)]
    owned = 3 + 1 + 2 * 9
    assert onnxprune.group_lasso(analysis.groups, weights) == pytest.approx(np.sqrt(owned) * sum(norms))


def test_without_parameters() -> None:
    with pytest.raises(InputError, match="no parameter has the name of a constant"):
        onnxprune.group_lasso(onnxprune.analyze(build(NET)).groups, {"other": np.zeros(3)})
