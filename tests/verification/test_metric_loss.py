"""What is lost of a metric, with its interval: how often it holds the truth."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.verification.decisions import loss_estimate
from onnxprune.verification.metric_loss import CONFIDENCE, _student, from_estimate, paired_drop


def test_a_drop_by_hand() -> None:
    """Values that are no hits: the mean difference, and Student's interval around it (t is 3.182 for 3 degrees)."""
    before, after = np.array([3.0, 4.0, 5.0, 6.0]), np.array([2.0, 4.0, 3.0, 5.0])
    drop, at_most = paired_drop(before, after)
    error = np.std([1, 0, 2, 1], ddof=1) / 2
    assert drop is not None and at_most is not None
    assert drop.mean == 1.0 and drop.high - 1 == pytest.approx(3.182 * error, rel=0.02)
    assert at_most - 1 == pytest.approx(1.638 * error, rel=0.01)
    lower, _ = paired_drop(before, after, sign=-1.0)
    assert lower is not None and (lower.mean, lower.low) == (-1.0, -drop.high)


@pytest.mark.parametrize(("freedom", "quantile"), [(4, 2.776), (10, 2.228), (30, 2.042), (1000, 1.962)])
def test_quantiles_of_student(freedom: int, quantile: float) -> None:
    """Against the tables for 95%."""
    assert _student(1.959964, freedom) == pytest.approx(quantile, rel=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("lost", "gained", "count"), [(0.004, 0.0, 300), (0.02, 0.01, 300), (0.01, 0.01, 1000)])
def test_the_bound_of_hits_holds_as_often_as_it_says(lost: float, gained: float, count: int) -> None:
    """Also where few samples change, or none: without the two added samples it would then hold too seldom."""
    rng, runs = np.random.default_rng(0), 2000
    held = 0
    for _ in range(runs):
        change = rng.random(count)
        before = np.where(change < lost, 1.0, np.where(change < lost + gained, 0.0, 1.0))
        after = np.where(change < lost, 0.0, 1.0)
        _, at_most = paired_drop(before, after)
        assert at_most is not None
        held += at_most >= lost - gained
    assert held / runs >= CONFIDENCE - 0.02


def test_nothing_changed_is_not_sure() -> None:
    """The fewer samples, the less."""
    bounds = [paired_drop(np.ones(n), np.ones(n))[1] for n in (10, 100, 1000)]
    assert bounds[0] is not None and bounds[1] is not None and bounds[2] is not None
    assert bounds[0] > 0.1 > bounds[1] > 0.01 > bounds[2] > 0.001


def test_what_is_not_finite_has_no_drop() -> None:
    assert paired_drop(np.array([1.0, np.inf]), np.array([1.0, 1.0])) == (None, None)
    assert paired_drop(np.zeros(0), np.zeros(0)) == (None, None)


def test_the_bound_of_an_estimate_is_within_its_interval() -> None:
    estimate = loss_estimate(np.array([0.0, 0.3, -0.1, 0.2]))
    loss = from_estimate(estimate, 4)
    assert loss.at_most is not None and estimate.mean < loss.at_most < estimate.high and not loss.labelled


@pytest.mark.parametrize("samples", [1, 30, 1000])
def test_where_no_sample_loses_anything_the_bound_is_what_chance_hides(samples: int) -> None:
    """A loss of that share would show in no sample once in ten times."""
    bound = from_estimate(loss_estimate(np.zeros(samples)), samples).at_most
    assert bound is not None and (1 - bound) ** samples == pytest.approx(1 - CONFIDENCE)
