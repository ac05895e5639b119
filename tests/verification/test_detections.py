"""What is found at many positions, and how much of it a pruned model still finds."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.graph.operators import Postprocessing
from onnxprune.verification.comparable_outputs import Component
from onnxprune.verification.decisions import Decisions, class_mean_estimate, ratio_estimate
from onnxprune.verification.detections import DetectionSums
from onnxprune.verification.output_values import OutputValues

SOFTMAX, SIGMOID = Postprocessing.SOFTMAX, Postprocessing.SIGMOID


def found(before: np.ndarray, after: np.ndarray, *components: Component) -> Decisions | None:
    """What is found of one output, from two batches."""
    sums, values = DetectionSums(components), OutputValues(components)
    for a, b in zip(np.array_split(before, 2), np.array_split(after, 2), strict=True):
        parts = [np.array_split(x, len(components), axis=1) for x in (a, b)]
        sums.add(values.reference(parts[0]), values.of(parts[1]))
    return sums.decisions().get("y")


def classes(chosen: np.ndarray, classes: int = 3, sure: float = 9.0) -> np.ndarray:
    """Inputs of a softmax over the last axis that choose classes."""
    return sure * np.eye(classes)[chosen]


def test_f1_of_what_is_found_besides_the_background() -> None:
    before, after = np.zeros((2, 4, 100), dtype=int)
    before[:, :6] = 1
    after[:, 2:10] = 1  # 4 of 6 found, 4 found wrongly
    after[0, 50] = 2
    one = found(classes(before), classes(after), Component("y", SOFTMAX, -1, output="y"))
    assert one is not None and one.positions
    assert one.agreement.mean == pytest.approx(2 * 16 / (24 + 33))
    assert one.lost.mean == pytest.approx((8 + 16 + 1) / (24 + 33), rel=1e-3)
    assert one.agreement.low < one.agreement.mean < one.agreement.high


def test_an_unsure_original_loses_less() -> None:
    before, after = np.zeros((2, 4, 100), dtype=int)
    before[:, :6] = 1
    sure, unsure = (
        found(classes(before, sure=s), classes(after), Component("y", SOFTMAX, -1, output="y")) for s in (9.0, 0.5)
    )
    assert sure.lost.mean == pytest.approx(1, rel=1e-2) and 0 < unsure.lost.mean < 0.3
    assert sure.agreement.mean == unsure.agreement.mean == 0


def test_classes_that_share_the_positions_all_count() -> None:
    rng = np.random.default_rng(0)
    before = rng.integers(0, 3, (4, 100))
    after = np.where(rng.random(before.shape) < 0.2, (before + 1) % 3, before)
    one = found(classes(before), classes(after), Component("y", SOFTMAX, -1, output="y"))
    assert one.agreement.mean == pytest.approx((before == after).mean())


def test_classes_of_a_map_count_alike() -> None:
    """A class of few positions that is lost costs as much as a large one; of the background nothing is said."""
    before = np.zeros((4, 10, 10), dtype=int)
    before[:, 0], before[:, 1:4] = 1, 2
    after = before.copy()
    after[before == 1] = 2
    one = found(classes(before), classes(after), Component("y", SOFTMAX, -1, output="y"))
    assert one.positions and one.by_class
    assert one.agreement.mean == pytest.approx((0 + 30 / 40) / 2)
    assert one.lost.mean == pytest.approx((1 + 10 / 40) / 2, rel=1e-2)
    as_row = found(
        classes(before.reshape(4, -1)), classes(after.reshape(4, -1)), Component("y", SOFTMAX, -1, output="y")
    )
    assert not as_row.by_class and as_row.agreement.mean == pytest.approx(2 * 30 / (40 + 40))


def test_a_class_that_the_original_never_finds_is_none_of_the_mean() -> None:
    before = np.ones((4, 10, 10), dtype=int)
    before[:, :4] = 2
    after = before.copy()
    after[0, 0, 0] = 0
    one = found(classes(before), classes(after), Component("y", SOFTMAX, -1, output="y"))
    assert one.agreement.mean == pytest.approx(159 / 160)  # the larger class is the background


def test_intervals_of_the_mean_over_classes_hold_the_truth() -> None:
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(300):
        wholes = rng.poisson([6, 2, 1], (60, 3)).astype(float)
        parts = rng.binomial(wholes.astype(int), [0.7, 0.8, 0.9]).astype(float)
        one = class_mean_estimate(parts, wholes, wholes.any(axis=0))
        hits += one.low <= 0.8 <= one.high
    assert 0.9 < hits / 300 <= 0.99
    alone = np.zeros((30, 2))
    alone[:, 0], alone[0, 1] = 4, 4
    doubtful = class_mean_estimate(alone * [0.5, 1], alone, np.array([True, True]))
    assert doubtful.mean == 0.75 and doubtful.low < 0.55  # the second class is seen in one sample only
    sure = class_mean_estimate(alone[:, :1], alone[:, :1], np.array([True]))
    assert sure.mean == sure.high == 1 and sure.low == pytest.approx(0.9)


def test_channels_of_a_sigmoid_are_classes_by_themselves() -> None:
    before, after = np.full((2, 4, 5, 8, 8), 0.1)
    before[:, 1, 0, :4] = 0.9
    after[:, 1, 0, 1:4] = 0.9
    after[:, 3, 0, 0] = 0.6
    one = found(before, after, Component("y", SIGMOID, output="y"))
    assert one.agreement.mean == pytest.approx(2 * 3 / (4 + 4))
    assert one.lost.mean == pytest.approx((0.8 + 0.8) / 8)


def test_the_heads_of_one_output_are_counted_together() -> None:
    before, after = np.zeros((2, 4, 100), dtype=int)
    before[:, :6], before[:, 90:] = 1, 1
    after[:, :6] = 1
    heads = [Component(name, SOFTMAX, -1, output="y") for name in ("small", "large")]
    assert found(classes(before), classes(after), *heads).agreement.mean == pytest.approx(2 * 6 / (16 + 6))


def test_nothing_is_said_where_nothing_is_found_or_one_choice_is_made() -> None:
    empty = np.zeros((4, 100), dtype=int)
    component = Component("y", SOFTMAX, -1, output="y")
    assert found(classes(empty), classes(empty), component) is None
    assert found(classes(empty[:, 0]), classes(empty[:, 0]), component) is None


def test_intervals_of_ratios_hold_the_truth() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        wholes = rng.poisson(6, 60)
        low_high = ratio_estimate(rng.binomial(wholes, 0.7).astype(float), wholes.astype(float))
        hits += low_high.low <= 0.7 <= low_high.high
    assert 0.9 < hits / 300 <= 0.99
    sure = ratio_estimate(np.full(30, 4.0), np.full(30, 4.0))
    assert sure.mean == sure.high == 1 and sure.low == pytest.approx(0.9)
    assert ratio_estimate(np.array([2.0]), np.array([4.0])).low == 0
