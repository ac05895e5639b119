"""What is learnt of a teacher: features that a model still has, and how much labels count beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxprune.calibration import open_samples
from onnxprune.model.model import load
from onnxprune.repair.distillation_teacher import views
from onnxprune.runtime.session import local_session
from onnxprune.training.finetune import Settings, features_left, finetune, label_share
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


class Labels:
    """The squared distance of the first output from labels."""

    outputs = ("y",)

    def __init__(self, wanted: NDArray[Any]) -> None:
        self._wanted = wanted

    def of(self, outputs: Sequence[NDArray[Any]], sample: int) -> float:
        return float(np.square(outputs[0] - self._wanted[sample]).sum())


@pytest.mark.parametrize(("more", "share"), [(0.0, 0.0), (0.5, 0.25 / 2.25), (10.0, 0.5)])
def test_labels_count_by_what_the_teacher_leaves_of_the_loss(more: float, share: float) -> None:
    """The model says nothing, and labels are larger than what the teacher says."""
    both = views(load(TEACHER), load(student({"c": np.zeros((4, 2))})))
    held = [{"x": FEEDS["x"][i : i + 1]} for i in range(32)]
    known = np.concatenate([local_session(both.teacher).run(["y"], one)[0] for one in held])
    assert label_share(Labels((1 + more) * known), both, held) == pytest.approx(share, abs=1e-6)  # type: ignore[arg-type]


def test_weights_are_chosen_by_what_is_trained() -> None:
    """Labels by their share, and half of the rest for the squared error of the outputs, a share of their variance."""
    teacher, model = load(TEACHER), load(student({"c": np.ones((4, 2))}))
    known, found = (local_session(m).run(["y"], FEEDS)[0].astype(np.float64) for m in (teacher, model))
    labels = known + np.random.default_rng(2).standard_normal(known.shape)
    of_teacher, of_labels = np.square(labels - known).mean(), np.square(labels - found).mean()
    share = of_teacher / of_labels
    assert 0.05 < share < 0.45
    error = np.square(found - known).sum() / np.square(known - known.mean()).sum()
    samples = open_samples({**FEEDS, "labels": labels.astype(np.float32)}, TEACHER)
    training = finetune(model, teacher, samples, samples, Settings(epochs=1))
    assert training.loss == "mse and teacher"
    assert training.before == pytest.approx(share * of_labels + 0.5 * (1 - share) * error, rel=1e-4)
