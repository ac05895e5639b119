"""Losses of labels: the one that fits, its value, and that the graph computes the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxprune.errors import InputError
from onnxprune.gradients.trainable import Trainable
from onnxprune.losses.label_loss import TARGET, LabelLoss, label_loss
from onnxprune.model.model import Model, load
from onnxprune.runtime.session import local_session
from onnxprune.verification.comparable_outputs import with_comparable_outputs
from tests.ops.case import build

CLASSES = "(float[N,4] x) => (float[N,3] y) <float[4,3] w> { s = MatMul(x, w) y = HEAD }"
PIXELS = "(float[N,2,4,4] x) => (float[N,3,4,4] y) <float[3,2,1,1] w> { s = Conv(x, w) y = HEAD }"
IDS = np.array([2, 0, 1, 1])
MAPS = np.arange(64).reshape(4, 4, 4) % 3
FLAGS = (np.arange(12).reshape(4, 3) % 2).astype(np.int64)
CASES: dict[str, tuple[str, str, str | None, NDArray[Any], str]] = {
    "classes": (CLASSES, "Softmax <axis = -1> (s)", None, IDS, "cross-entropy"),
    "scores of classes": (CLASSES, "Identity(s)", None, IDS, "cross-entropy"),
    "probabilities of classes": (CLASSES, "Softmax <axis = -1> (s)", None, np.eye(3)[IDS], "cross-entropy"),
    "classes of pixels": (PIXELS, "Softmax <axis = 1> (s)", None, MAPS, "cross-entropy"),
    "scores of pixels": (PIXELS, "Identity(s)", None, MAPS, "cross-entropy"),
    "classes that stand alone": (CLASSES, "Sigmoid(s)", None, FLAGS, "bce"),
    "their scores": (CLASSES, "Identity(s)", "bce", FLAGS, "bce"),
    "quantities": (CLASSES, "Identity(s)", None, FLAGS - 0.25, "mse"),
    "whole numbers as quantities": (CLASSES, "Identity(s)", "mse", FLAGS, "mse"),
}


def prepared(text: str, head: str, kind: str | None, labels: NDArray[Any]) -> tuple[Model, Any, LabelLoss]:
    """The model with the values that losses are computed of, a batch, and the loss."""
    view, components = with_comparable_outputs(load(build(text.replace("HEAD", head))))
    shape = (4, 4) if text is CLASSES else (4, 2, 4, 4)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    outputs = local_session(view).run([c.name for c in components], {"x": x[:1]})
    return view, {"x": x}, label_loss(kind, components, outputs, labels)


@pytest.mark.parametrize("case", list(CASES))
def test_the_graph_computes_the_mean_of_the_samples(case: str) -> None:
    text, head, kind, labels, name = CASES[case]
    view, feeds, loss = prepared(text, head, kind, labels)
    assert loss.kind == name
    targets = {TARGET: np.concatenate(list(loss.targets))}
    trained = Trainable(view, feeds, targets, lambda graph, write: loss.write(graph, write, 4), [loss.output])
    weights = {name: p.array for name, p in trained.parameters.items()}
    value, gradients = trained.step({**feeds, **targets}, weights)
    each = [loss.of(trained.outputs({"x": feeds["x"][i : i + 1]}, weights)[0], i) for i in range(4)]
    assert value == pytest.approx(np.mean(each), rel=1e-5)
    step = 1e-3 / float(np.abs(gradients["w"]).max())
    lower, _ = trained.step({**feeds, **targets}, {"w": weights["w"] - np.float32(step) * gradients["w"]})
    assert value - lower == pytest.approx(step * float(np.square(gradients["w"]).sum()), rel=0.05)


@pytest.mark.parametrize("case", list(CASES))
def test_the_gradient_is_that_of_the_value(case: str) -> None:
    view, batch, loss = prepared(*CASES[case][:4])
    value = local_session(view).run([loss.output], {"x": batch["x"][1:2]})[0].astype(np.float64)
    found, step = loss.gradient(value, 1), 1e-4
    assert found.shape == value.shape
    for at in np.ndindex(value.shape):
        high, low = value.copy(), value.copy()
        high[at] += step
        low[at] -= step
        assert found[at] == pytest.approx((loss.of(high, 1) - loss.of(low, 1)) / (2 * step), abs=1e-5)


def test_values_by_hand() -> None:
    _, _, loss = prepared(*CASES["scores of classes"][:4])
    scores = np.log(np.array([[0.5, 0.25, 0.25]]))
    assert loss.of(scores, 0) == pytest.approx(np.log(4)) and loss.of(scores, 1) == pytest.approx(np.log(2))
    _, _, loss = prepared(*CASES["classes that stand alone"][:4])
    assert loss.of(np.array([[0.5, 0.75, 0.5]]), 0) == pytest.approx((2 * np.log(2) - np.log(0.75)) / 3)
    _, _, loss = prepared(*CASES["quantities"][:4])
    assert loss.of(np.array([[0.75, 0.75, 0.75]]), 0) == pytest.approx((1 + 0 + 1) / 3)


@pytest.mark.parametrize(
    ("head", "kind", "labels", "says"),
    [
        ("Softmax <axis = -1> (s)", None, np.array([3, 0, 0, 0]), r"\(int64 from 0 to 3\) fit no output"),
        ("Identity(s)", None, np.array([1.0, 0, np.nan, 2]), r"\(float64 from 0 to 2, some not finite\) fit no"),
        ("Identity(s)", None, np.array(["a", "b", "a", "a"]), r"a sample \(str\d*\) fit no output"),
        ("Softmax <axis = -1> (s)", None, np.zeros((4, 2), np.int64), "fit no output"),
        ("Sigmoid(s)", "bce", np.full((4, 3), 1.5), "fit no output for"),
        ("Identity(s)", "crossentropy", IDS, "unknown loss"),
    ],
)
def test_labels_that_fit_nothing(head: str, kind: str | None, labels: NDArray[Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        prepared(CLASSES, head, kind, labels)
