"""Features of a teacher that a model is trained on: those that it still has, by name, shape and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.model.model import load
from onnxprune.repair.distillation_teacher import views
from onnxprune.training.finetune import features_left
from tests.ops.case import build

TEXT = """(float[N,6] x) => (float[N,2] y) <float[6,6] a, float[6,4] b, float[4,2] c>
    { h = MatMul(x, a)  r = Relu(h)  k = MatMul(r, b)  s = Relu(k)  y = MatMul(s, c) }"""
TEACHER = build(TEXT)
FEEDS = {"x": np.random.default_rng(0).standard_normal((32, 6)).astype(np.float32)}


def student(changed: Mapping[str, NDArray[Any]], text: str = TEXT) -> onnx.ModelProto:
    made = build(text)
    for mine in made.graph.initializer:
        own = next(t for t in TEACHER.graph.initializer if t.name == mine.name)
        array = changed.get(mine.name, onnx.numpy_helper.to_array(own))
        mine.CopyFrom(onnx.numpy_helper.from_array(np.asarray(array, np.float32), mine.name))
    return made


def left(proto: onnx.ModelProto) -> list[str]:
    return features_left(views(load(TEACHER), load(proto)), FEEDS)


def test_those_that_it_still_has() -> None:
    assert left(student({})) == ["r", "s"]


def test_not_those_of_another_shape() -> None:
    kept = [0, 2, 3]
    b, c = (onnx.numpy_helper.to_array(t) for t in TEACHER.graph.initializer if t.name in ("b", "c"))
    narrow = TEXT.replace("float[6,4] b, float[4,2] c", "float[6,3] b, float[3,2] c")
    assert left(student({"b": b[:, kept], "c": c[kept]}, narrow)) == ["r"]


def test_not_those_of_a_net_that_was_trained_apart() -> None:
    """Its nodes have the same names, and its features another meaning."""
    draw = np.random.default_rng(1)
    others = {t.name: 3 * draw.standard_normal(tuple(t.dims)) for t in TEACHER.graph.initializer}
    assert left(student(others)) == []
