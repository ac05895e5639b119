"""Losses outside of the graph: CTC and functions of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import onnxprune
from onnxprune.errors import DataError, InputError
from onnxprune.losses.ctc import ctc
from onnxprune.losses.functions import FunctionLoss, sequence_output
from onnxprune.verification.comparable_outputs import Component
from tests.ops.case import build

LINEAR = "(float[N,4] x) => (float[N,1] y) <float[4,1] w> { y = MatMul(x, w) }"
STEPS = "(float[N,6,3] x) => (float[N,6,4] y) <float[3,4] w> { y = MatMul(x, w) }"
RNG = np.random.default_rng(0)
X = RNG.standard_normal((120, 4)).astype(np.float32)
SIDE = np.sign(X @ np.array([1.0, -2.0, 0.5, 0.0]))


def hinge(outputs: dict[str, NDArray[Any]], labels: NDArray[Any]) -> tuple[float, dict[str, NDArray[Any]]]:
    short = 1 - labels[:, None] * outputs["y"]
    return float(np.maximum(short, 0).mean()), {"y": -labels[:, None] * (short > 0) / len(labels)}


def weights(model: onnx.ModelProto) -> NDArray[Any]:
    return onnx.numpy_helper.to_array(model.graph.initializer[0])


@pytest.mark.slow
def test_a_function_is_learnt() -> None:
    model = build(LINEAR, constants={"w": np.full((4, 1), 0.1)})
    result = onnxprune.finetune(model, {"x": X, "labels": SIDE}, loss=hinge, epochs=60, rate=0.1)
    training = result.report.training
    assert training.loss == "hinge" and training.after < 0.6 * training.before  # type: ignore[operator]
    sides = np.sign(X @ weights(result.model))[:, 0]
    assert (sides == SIDE).mean() > 0.9 > (np.sign(X @ weights(model))[:, 0] == SIDE).mean()
    again = onnxprune.finetune(model, {"x": X, "labels": SIDE}, loss=hinge, epochs=60, rate=0.1)
    assert again.model.SerializeToString() == result.model.SerializeToString()


def test_a_function_that_squares_does_what_mse_does() -> None:
    """The same loss in the graph and outside of it; labels of positions keep samples as they are."""

    def squares(outputs: dict[str, NDArray[Any]], labels: NDArray[Any]) -> tuple[float, dict[str, NDArray[Any]]]:
        gap = outputs["y"][..., 0] - labels
        return float(np.square(gap).mean()), {"y": (2 * gap / gap.size)[..., None]}

    model = build("(float[N,5,4] x) => (float[N,5,1] y) <float[4,1] w> { y = MatMul(x, w) }")
    x = RNG.standard_normal((40, 5, 4)).astype(np.float32)
    data = {"x": x, "labels": (x @ np.array([1.0, 2.0, 3.0, 4.0])).astype(np.float32)}
    made = [onnxprune.finetune(model, data, loss=loss, epochs=3, rate=0.05).model for loss in (squares, "mse")]
    np.testing.assert_allclose(weights(made[0]), weights(made[1]), rtol=1e-4)


@pytest.mark.slow
def test_sequences() -> None:
    """Each step shows one class: the labels are the classes that differ from the one before, without blanks."""
    classes = RNG.integers(0, 3, (100, 6))
    x = (np.eye(3)[classes] + RNG.normal(0, 0.1, (100, 6, 3))).astype(np.float32)
    labels = np.full((100, 6), -1)
    for row, shown in zip(labels, classes, strict=True):
        spoken = [c + 1 for i, c in enumerate(shown) if i == 0 or shown[i - 1] != c]
        row[: len(spoken)] = spoken
    result = onnxprune.finetune(build(STEPS), {"x": x, "labels": labels}, loss="ctc", epochs=40, rate=0.1)
    assert result.report.training.loss == "ctc"
    assert result.report.training.after < 0.3 * result.report.training.before  # type: ignore[operator]


def test_the_axis_of_samples_is_told_by_one_sample() -> None:
    """Of a batch with as many samples as steps it could not be told."""
    labels = np.array([[1], [2], [1]])
    for shape, axis in (((1, 3, 4), 0), ((3, 1, 4), 1)):
        component, found = sequence_output([Component("y")], [np.zeros(shape, np.float32)], labels)
        assert (component.name, found) == ("y", axis)
        scores = RNG.standard_normal((3, 3, 4))
        loss, gradients = FunctionLoss("ctc", None, axis=axis)({"y": scores}, labels)
        singles = [ctc(scores.take(i, axis), labels[i]) for i in range(3)]
        assert loss == pytest.approx(np.mean([value for value, _ in singles]))
        for i, (_, gradient) in enumerate(singles):
            np.testing.assert_allclose(gradients["y"].take(i, axis), gradient / 3)


@pytest.mark.parametrize(
    ("loss", "labels", "says"),
    [
        ("ctc:4", [[1, 2], [1, -1]], "loss='ctc:4': the output has 4 classes"),
        ("ctc", [[1, 2], [1, 0]], "loss='ctc:0': labels have class 0 too, which is the blank"),
        ("ctc:-1", [[1, 2], [3, 0]], "labels have class 3 too, which is the blank"),
    ],
)
def test_the_blank_is_a_class_that_no_label_has(loss: str, labels: list[list[int]], says: str) -> None:
    """Padding with the blank would ask for it where nothing is."""
    data = {"x": RNG.standard_normal((8, 6, 3)).astype(np.float32), "labels": np.array(labels * 4)}
    with pytest.raises(DataError, match=says):
        onnxprune.finetune(build(STEPS), data, loss=loss, epochs=1)


def test_labels_are_of_one_sample_at_a_time() -> None:
    model = build("(float[4,4] x) => (float[4,1] y) <float[4,1] w> { y = MatMul(x, w) }")
    for loss in (hinge, None):
        with pytest.raises(DataError, match="the model takes 4 samples at a time"):
            onnxprune.finetune(model, {"x": X, "labels": SIDE}, loss=loss, epochs=1)


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        ("hinges", "unknown loss 'hinges'"),
        ("ctc:last", "the blank is the number of a class"),
        ("ctc", "labels of shape .* a sample fit no output for loss='ctc'"),
        ("nowhere:at_all", "there is no module nowhere"),
        (lambda outputs, labels: 0.5, "must return the loss and a mapping"),
        (lambda outputs, labels: (0.5, {"z": outputs["y"]}), "a gradient of 'z' that fits no output"),
        (lambda outputs, labels: (0.5, {"y": outputs["y"][:, 0]}), "a gradient of 'y' that fits no output"),
        (lambda outputs, labels: (0.5, {"y": [[1.0], [2.0, 3.0]]}), "a gradient of 'y' that fits no output"),
        (lambda outputs, labels: (outputs["y"], {}), "must return one number first"),
        (lambda outputs, labels: ("low", {}), "must return one number first"),
        (lambda outputs, labels: 1 / 0, "failed: ZeroDivisionError"),
    ],
)
def test_what_is_no_loss(loss: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        onnxprune.finetune(build(LINEAR), {"x": X, "labels": SIDE}, loss=loss, epochs=1)


def test_a_function_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_losses.py").write_text(
        "def side(outputs, labels):\n"
        "    return -(outputs['y'][:, 0] * labels).mean(), {'y': -labels[:, None] / len(labels)}\n"
    )
    monkeypatch.chdir(tmp_path)
    result = onnxprune.finetune(build(LINEAR), {"x": X, "labels": SIDE}, loss="my_losses:side", epochs=2)
    assert result.report.options["loss"] == result.report.training.loss == "my_losses:side"
