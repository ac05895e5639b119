"""Choices of classes: which outputs make them, how many stay, and what accuracy that costs."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.model.model import Model
from onnxprune.verification.comparable_outputs import class_scores
from onnxprune.verification.decisions import DecisionSums, loss_estimate, share_estimate
from onnxprune.verification.output_sums import class_axis_if_any
from tests.support.text_models import text_model


def decided(before: np.ndarray, after: np.ndarray, *, scores: bool = True):  # type: ignore[no-untyped-def]
    sums = DecisionSums("y", scores=scores)
    for a, b in zip(np.array_split(before, 3), np.array_split(after, 3), strict=True):
        sums.add(a, b)
    return sums.decisions()


def test_loss_is_what_the_probabilities_of_the_original_expect() -> None:
    before = np.array([[0.7, 0.3], [0.6, 0.4], [0.9, 0.1], [0.2, 0.8]])
    after = np.array([[0.9, 0.1], [0.1, 0.9], [0.8, 0.2], [0.6, 0.4]])
    found = decided(before, after)
    assert found.agreement.mean == 0.5
    assert found.lost.mean == pytest.approx((0.2 + 0.6) / 4)


def test_logits_count_as_their_softmax() -> None:
    rng = np.random.default_rng(0)
    logits, others = 3 * rng.standard_normal((2, 50, 4))
    powers = np.exp(logits)
    found, same = decided(logits, others), decided(powers / powers.sum(axis=1, keepdims=True), others)
    assert found.lost.mean == pytest.approx(same.lost.mean)


def test_sigmoids_are_probabilities_as_they_are() -> None:
    found = decided(np.array([[0.9, 0.8], [0.3, 0.6]]), np.array([[0.1, 0.2], [0.3, 0.6]]))
    assert found.lost.mean == pytest.approx((0.9 - 0.8) / 2)


def test_the_expected_loss_is_the_real_one_where_the_original_is_calibrated() -> None:
    rng = np.random.default_rng(1)
    logits = 2 * rng.standard_normal((4000, 5))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(5, p=row) for row in p])
    worse = logits + 1.5 * rng.standard_normal(logits.shape)
    real = (logits.argmax(1) == labels).mean() - (worse.argmax(1) == labels).mean()
    found = decided(logits, worse)
    assert found.lost.low - 0.01 < real < found.lost.high + 0.01
    assert real > 0.05


def test_numbers_that_choose_nothing_are_no_classes() -> None:
    rng = np.random.default_rng(2)
    embedding = rng.standard_normal((200, 128))
    assert decided(embedding, embedding, scores=False) is None
    classes = embedding.copy()
    classes[np.arange(200), rng.integers(0, 128, 200)] += 6
    assert decided(classes, classes, scores=False).agreement.mean == 1
    assert decided(rng.random((200, 1)), rng.random((200, 1)), scores=False) is None
    assert decided(rng.random((20, 7, 9)), rng.random((20, 7, 9)), scores=False) is None


def test_every_position_of_a_sample_counts() -> None:
    before = np.zeros((4, 3, 8, 8))
    before[:, 1] = 5
    after = before.copy()
    after[0, 2, :4] = 9
    found = decided(before, after)
    assert found.agreement.mean == pytest.approx(1 - 0.5 / 4)


def test_the_axis_of_the_classes_may_be_the_longer_one() -> None:
    """A map of 5 classes at 2 x 3 positions: the last axis is shorter."""
    before = np.zeros((4, 5, 2, 3))
    before[:, 4] = 9
    sums = DecisionSums("y", scores=True, axis=1)
    sums.add(before, np.roll(before, 1, axis=1))
    assert sums.decisions().agreement.mean == 0


def test_class_ids_are_classes() -> None:
    found = decided(np.array([1, 2, 3, 4]), np.array([1, 2, 4, 4]))
    assert found.agreement.mean == found.lost.mean + 0.5 == 0.75


def test_masked_scores_and_other_shapes() -> None:
    before = np.array([[1.0, -np.inf, 0.0], [np.nan, 3.0, 0.0]])
    assert decided(before, before).agreement.mean == 1
    assert decided(before, before[:, :2]) is None


def test_intervals_hold_the_truth() -> None:
    """Shares and losses that are known, drawn many times: 95% intervals contain them nearly as often."""
    rng = np.random.default_rng(3)
    shares = losses = 0
    for _ in range(400):
        same = rng.random(60) < 0.93
        lost = np.where(same, 0.0, rng.choice([1.0, -0.4], 60, p=[0.8, 0.2]))
        one, other = share_estimate(same.astype(float)), loss_estimate(lost)
        shares += one.low <= 0.93 <= one.high
        losses += other.low <= 0.07 * (0.8 - 0.08) <= other.high
    assert shares >= 0.92 * 400
    assert losses >= 0.85 * 400  # few losses make a skewed mean


def test_nothing_lost_in_few_samples_is_not_nothing_lost() -> None:
    assert loss_estimate(np.zeros(30)).high == pytest.approx(0.1)
    assert share_estimate(np.ones(30)).low < 0.9


@pytest.mark.parametrize(
    ("body", "output", "found"),
    [
        ("h = MatMul(x, w) y = Softmax(h)", "float[N,5] y", {"y": -1}),
        ("h = MatMul(x, w) y = Softmax<axis = 0>(h)", "float[N,5] y", {"y": 0}),
        ("h = MatMul(x, w) s = Softmax(h) y = Identity(s)", "float[N,5] y", {"y": None}),
        ("h = MatMul(x, w) y = ArgMax<axis = 1>(h)", "int64[N,1] y", {"y": 1}),
        ("h = MatMul(x, w) t = Transpose<perm = [1, 0]>(h) y = ArgMax(t)", "int64[1,N] y", {"y": 1}),
        ("h = MatMul(x, w) y = ArgMin<axis = 1>(h)", "int64[N,1] y", {"y": None}),
        ("y = MatMul(x, w)", "float[N,5] y", {}),
        ("h = MatMul(x, w) y = Cast<to = 7>(h)", "int64[N,5] y", {}),
    ],
)
def test_the_graph_tells_which_outputs_choose(body: str, output: str, found: dict[str, int | None]) -> None:
    model = text_model(np.random.default_rng(0), body, "float[N,4] x", output, w=(4, 5))
    assert class_scores(Model(model)) == found


def test_classes_of_a_pooled_map() -> None:
    """Scores of shape (samples, classes, 1, 1) choose one class a sample, whether a softmax made them or not."""
    scores = np.eye(4)[[0, 1, 2, 3, 0]] * 9.0
    other = scores[[0, 1, 2, 0, 0]]
    for known in (True, False):
        sums = DecisionSums("y", scores=known)
        sums.add(scores[:, :, None, None], other[:, :, None, None])
        found = sums.decisions()
        assert found is not None and not found.positions
        assert found.agreement.mean == pytest.approx(0.8)
    assert class_axis_if_any([5, 1000, 1, 1]) == 1 and class_axis_if_any([None, 1, 1, 10]) == 3
    assert class_axis_if_any([5, 21, 32, 32]) == 1 and class_axis_if_any([5, 1, 1]) is None


@pytest.mark.parametrize("shape", [(30,), (30, 1)])
def test_one_number_a_sample_is_no_choice(shape: tuple[int, ...]) -> None:
    """The axis of samples is not that of classes."""
    values = np.random.default_rng(0).standard_normal(shape)
    assert decided(values, values) is None and decided(values, values, scores=False) is None


def test_outputs_that_are_not_numbers_choose_nothing() -> None:
    """A broken model agrees with nothing, and loses all that the original was right about."""
    before = np.random.default_rng(0).random((60, 3))
    before[:, 0] += 4  # the class that comes first, which nothing may count as
    found = decided(before / before.sum(axis=1, keepdims=True), np.full_like(before, np.nan))
    assert found.agreement.mean == 0 and found.lost.mean > 0.7
