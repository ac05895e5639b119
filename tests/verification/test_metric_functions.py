"""The package's own metrics, against values worked out by hand or by definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxprune.errors import DataError
from onnxprune.extensions.metrics import metrics

SCORES = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.4, 0.35, 0.25]])
LABELS = np.array([1, 1, 2, 0])
RIGHT = [1.0, 0.0, 1.0, 1.0]


def computed(name: str, outputs: dict[str, Any], labels: Any) -> Any:
    metric, labels = metrics.get(name), np.asarray(labels)
    function = metric.bind(labels) if metric.bind else metric.function
    return function(outputs, labels)


@pytest.mark.parametrize(
    "labels",
    [
        LABELS,
        LABELS[:, None],
        LABELS.astype(np.float32),
        LABELS.astype(np.uint8),
        np.eye(3)[LABELS],
        np.eye(3, dtype=bool)[LABELS],
    ],
)
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 1, 1), (4, 1, 1, 3)])
def test_top1_of_scores(labels: np.ndarray, shape: tuple[int, ...]) -> None:
    assert computed("top1", {"y": SCORES.reshape(shape)}, labels).tolist() == RIGHT


@pytest.mark.parametrize("dtype", ["int64", "int32", "float32"])
def test_top1_of_chosen_classes(dtype: str) -> None:
    chosen = SCORES.argmax(axis=1)
    assert computed("top1", {"class": chosen}, LABELS.astype(dtype)).tolist() == RIGHT
    names = np.array(["a", "b", "c"])
    assert computed("top1", {"class": names[chosen].astype(object)}, names[LABELS]).tolist() == RIGHT


def test_top1_takes_an_output_that_has_all_classes() -> None:
    """Boxes have one axis too, and too few numbers for the classes."""
    boxes = np.zeros((4, 2))
    assert computed("top1", {"boxes": boxes, "scores": SCORES}, LABELS).tolist() == RIGHT


@pytest.mark.parametrize("last", [True, False])
def test_top1_of_positions(last: bool) -> None:
    """Of 2 x 3 positions those labelled 255 or below 0 do not count, and a sample without any has no value."""
    labels = np.array([[[0, 1, 2], [2, 1, 255]], [[-1, 255, 255], [255, 255, 255]]])
    scores = np.zeros((2, 2, 3, 4)) if last else np.zeros((2, 4, 2, 3))
    np.moveaxis(scores, -1 if last else 1, -1)[..., 1] = 1.0  # always class 1
    values = computed("top1", {"y": scores}, labels)
    assert values[0] == pytest.approx(2 / 5) and np.isnan(values[1])


def test_top5() -> None:
    scores = np.arange(24, dtype=float).reshape(2, 12)  # classes 7 to 11 are the largest
    assert computed("top5", {"y": scores}, [7, 6]).tolist() == [1.0, 0.0]
    with pytest.raises(DataError, match="metric top5 needs an output of scores of more than 5 classes"):
        computed("top5", {"y": SCORES}, LABELS)


def test_scores_that_are_not_numbers_choose_nothing_right() -> None:
    broken = SCORES.copy()
    broken[0] = [0.0, np.nan, -1.0]
    assert computed("top1", {"y": broken}, LABELS).tolist() == [0.0, *RIGHT[1:]]


@pytest.mark.parametrize(
    ("outputs", "labels", "words"),
    [
        ({"y": np.zeros((4, 1))}, LABELS, r"y \[1\], and of its label \[\]"),
        ({"y": np.zeros((4, 2))}, LABELS, r"y \[2\]"),
        ({"y": SCORES}, [0.5, 1, 2, 0], "not whole numbers"),
        ({"y": SCORES}, ["a", "b", "c", "a"], "metric top1 needs"),
    ],
)
def test_outputs_that_do_not_fit(outputs: dict[str, Any], labels: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        computed("top1", outputs, labels)


def test_mse_and_psnr() -> None:
    truth = np.zeros((2, 1, 2, 2), dtype=np.uint8)
    made = np.array([[[0, 0], [0, 2]], [[3, 3], [3, 3]]], dtype=np.float32)[:, None]
    assert computed("mse", {"other": np.zeros((2, 5)), "y": made}, truth).tolist() == [1.0, 9.0]
    truth[0, 0, 0, 0] = made[0, 0, 0, 0] = 200  # of values up to 255
    expected = [10 * np.log10(255**2), 10 * np.log10(255**2 / 9)]
    assert computed("psnr", {"y": made}, truth) == pytest.approx(expected)
    ones = np.ones((1, 4))
    assert computed("psnr", {"y": ones - 0.1}, ones) == pytest.approx([20.0])  # of values up to 1
    with pytest.raises(DataError, match="metric mse needs"):
        computed("mse", {"y": made}, truth[:, :, 0])


def by_pairs(score: np.ndarray, member: np.ndarray) -> float:
    """Share of the pairs of a member and another that are in order."""
    differences = score[member][:, None] - score[~member][None, :]
    return float(((differences > 0) + 0.5 * (differences == 0)).mean())


def test_auc_of_two_classes(rng: np.random.Generator) -> None:
    score = rng.integers(0, 8, 60).astype(np.float32)  # with ties
    truth = rng.integers(0, 2, 60)
    expected = by_pairs(score, truth == 1)
    pair = np.stack([-score, np.zeros_like(score)], axis=1)
    for output in (score, score[:, None], pair):
        for labels in (truth, truth > 0, 2 * truth - 1):
            assert computed("auc", {"y": output}, labels) == pytest.approx(expected)


def test_auc_of_several_classes(rng: np.random.Generator) -> None:
    logits, truth = rng.normal(size=(60, 4)), rng.integers(0, 3, 60)  # class 3 does not occur
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = np.mean([by_pairs(p[:, c], truth == c) for c in range(3)])
    assert computed("auc", {"y": logits}, truth) == pytest.approx(expected)
    assert computed("auc", {"y": p}, truth) == pytest.approx(expected)
    several = rng.integers(0, 2, (60, 4))
    expected = np.mean([by_pairs(logits[:, c], several[:, c] == 1) for c in range(4)])
    assert computed("auc", {"y": logits}, several) == pytest.approx(expected)


def test_auc_of_several_sigmoids() -> None:
    """Each is a probability by itself; their softmax would rank the second sample last for the classes 0 and 2."""
    sigmoids = np.array([[0.8, 0.1, 0.1], [0.9, 0.95, 0.9], [0.1, 0.2, 0.7]])
    assert computed("auc", {"y": sigmoids}, [0, 1, 2]) == pytest.approx((1 / 2 + 1 + 1 / 2) / 3)


def test_auc_without_two_classes() -> None:
    assert np.isnan(computed("auc", {"y": np.arange(3.0)}, [1, 1, 1]))
    with pytest.raises(DataError, match="metric auc needs"):
        computed("auc", {"y": np.arange(3.0)}, [0, 1, 2])  # one score, three classes


def test_outputs_without_any_number_are_never_right() -> None:
    """Not even for the first class, which the largest of equal scores would be."""
    for name in ("top1", "top5"):
        found = computed(name, {"y": np.full((4, 7), np.nan)}, np.zeros(4, np.int64))
        assert found.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("name", ["top1", "psnr"])
def test_labels_that_are_no_numbers_are_refused(name: str) -> None:
    for labels in (np.array([0.0, np.nan, 1.0, 2.0]), np.array(["cat", "dog", "cat", "dog"])):
        with pytest.raises(DataError):
            computed(name, {"y": SCORES}, labels)
