"""How outputs that decide at many positions are compared."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.graph.operators import Postprocessing
from onnxprune.verification.comparable_outputs import Component
from onnxprune.verification.output_error import Errors
from onnxprune.verification.output_values import OutputValues, class_shares

SOFTMAX, SIGMOID = Postprocessing.SOFTMAX, Postprocessing.SIGMOID
RNG = np.random.default_rng(0)


def logits(p: np.ndarray) -> np.ndarray:
    """Inputs of a softmax of two classes, the second of which has probability p."""
    return np.stack([np.zeros_like(p), np.log(p / (1 - p))], axis=-1)


def background(samples: int = 4, positions: int = 1000) -> np.ndarray:
    """Probabilities of something at each position: at one in a hundred there is."""
    p = RNG.uniform(0.0001, 0.001, (samples, positions))
    p[:, ::100] = RNG.uniform(0.9, 0.99, (samples, positions // 100))
    return p


def test_missing_everything_that_is_detected_is_as_bad_as_losing_all_of_the_background() -> None:
    p = background()
    found = np.where(p > 0.5, 0.0005, p)
    everywhere = np.where(p > 0.5, p, 0.95)
    errors = Errors(2, [Component("scores", SOFTMAX)])
    errors.add([logits(p)], [[logits(found)], [logits(everywhere)]])
    missed, false = errors.shares()
    assert missed > 0.5 and 0.5 < missed / false < 2
    plain = Errors(1)
    plain.add([logits(p)], [[logits(found)]])
    assert missed > 10 * plain.shares()[0] / logits(p).var()  # which the mean over all positions hardly sees


def test_probabilities_of_a_sigmoid() -> None:
    p = background()[..., None]
    errors = Errors(2, [Component("scores", SIGMOID)])
    errors.add([p], [[np.where(p > 0.5, 0.0, p)], [np.where(p > 0.5, p, 1.0)]])
    missed, false = errors.shares()
    assert missed > 0.5 and 0.5 < missed / false < 2


@pytest.mark.parametrize("moved", [False, True])
def test_the_class_axis_may_be_any(moved: bool) -> None:
    scores = RNG.standard_normal((2, 6, 5, 7))
    other = scores + RNG.standard_normal(scores.shape)
    last = Errors(1, [Component("scores", SOFTMAX, -1)])
    last.add([np.moveaxis(scores, 1, -1)], [[np.moveaxis(other, 1, -1)]])
    first = Errors(1, [Component("scores", SOFTMAX, 1)])
    first.add([scores], [[other]])
    assert first.shares() == pytest.approx(last.shares())


def test_one_decision_a_sample_is_not_weighted() -> None:
    scores, other = RNG.standard_normal((2, 32, 10))
    errors = Errors(1, [Component("scores", SOFTMAX)])
    errors.add([scores], [[other + 5]])
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (scores, other))
    assert errors.shares()[0] == pytest.approx(np.square(a - b).mean() / a.var())


@pytest.mark.slow
def test_batches_and_limits_do_not_change_the_measure() -> None:
    p = background(8, 20_000)
    wrong = logits(p) + RNG.standard_normal((8, 20_000, 2))
    components = [Component("scores", SOFTMAX)]
    whole, parts, limited = (Errors(1, components) for _ in range(3))
    whole.add([logits(p)], [[wrong]])
    for i in range(0, 8, 2):
        parts.add([logits(p[i : i + 2])], [[wrong[i : i + 2]]])
    assert parts.shares() == pytest.approx(whole.shares(), rel=1e-3)
    some = OutputValues(components, limit=200_000)
    reference = some.reference([logits(p)])
    assert all(r is not None and r.array.size < 200_000 for r in reference)
    limited.add_values(reference, [some.of([wrong])])
    assert limited.shares() == pytest.approx(whole.shares(), rel=0.1)


def test_masked_scores_count_nowhere() -> None:
    scores, other = RNG.standard_normal((2, 4, 50, 5))
    masked, wrong = scores.copy(), other.copy()
    masked[:, :, 2], wrong[:, :, 2] = -np.inf, 7.0
    errors = Errors(1, [Component("scores", SOFTMAX)])
    errors.add([masked], [[np.where(np.isinf(masked), -np.inf, wrong)]])
    assert np.isfinite(errors.shares()[0])


@pytest.mark.parametrize(
    ("positions", "shares"),
    [
        ([100.0], [1.0]),
        ([90.0, 5.0, 5.0], [0.5, 0.25, 0.25]),
        ([40.0, 30.0, 30.0], [1 / 3, 1 / 3, 1 / 3]),
        ([100.0, 0.0, 0.0], [1.0, 0.0, 0.0]),
        ([1000.0, 3.0, 0.0], [0.5, 0.5, 0.0]),
    ],
)
def test_how_much_classes_count(positions: list[float], shares: list[float]) -> None:
    assert class_shares(np.array(positions)) == pytest.approx(shares)
