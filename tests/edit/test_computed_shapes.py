"""Shapes that the graph computes: what removal adds to compute others."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.testing import assert_equivalent
from tests.ops.case import build

HEADS = """(float[N,S,12] x) => (float[N,S,4] y)
    <float[12,24] a, float[24,4] b, int64[1] four = {4}, int64[1] six = {6}, int64[1] all = {-1},
     int64 zero = {0}, int64 one = {1}, int64[1] front = {0}> {
    p = MatMul (x, a)
    s = Shape (x)  n = Gather (s, zero)  t = Gather (s, one)
    nn = Unsqueeze (n, front)  tt = Unsqueeze (t, front)
    split = Concat <axis = 0> (nn, tt, four, six)
    q = Reshape (p, split)  r = Relu (q)
    merged = Concat <axis = 0> (nn, tt, LAST)
    u = Reshape (r, merged)  y = MatMul (u, b) }"""


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("last", ["width", "all"])
def test_constants_of_a_computed_shape_change_in_place(last: str) -> None:
    """Two of four heads go: the 4 in the concatenation becomes 2, the 24 becomes 12, and no node is added."""
    text = HEADS.replace("LAST", last).replace("int64[1] front", "int64[1] width = {24}, int64[1] front")
    original = build(text)
    result = onnxprune.prune(original, 0.5, repair="none", time=False)
    assert result.plan.changes_model and result.report.verified
    assert operators(result.model) == operators(original)
    assert_equivalent(
        original, result.model, result.plan, feeds={"x": np.random.default_rng(0).random((2, 5, 12), np.float32)}
    )


def test_a_shape_that_others_read_too_stays_for_them() -> None:
    """The model gives the computed shape out: the reshape reads another concatenation."""
    text = HEADS.replace("LAST", "all").replace("=> (float[N,S,4] y)", "=> (float[N,S,4] y, int64[4] split)")
    original = build(text)
    result = onnxprune.prune(original, 0.5, repair="none", time=False)
    assert result.plan.changes_model
    added = operators(result.model) - operators(original)
    assert added <= Counter({"Concat": 1})
    feeds = {"x": np.random.default_rng(0).random((1, 3, 12), np.float32)}
    assert_equivalent(original, result.model, result.plan, feeds=feeds)
