"""CTC against all alignments, one by one, and its gradient against differences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxprune.losses.ctc import ctc


def collapsed(path: tuple[int, ...], blank: int) -> list[int]:
    return [c for i, c in enumerate(path) if c != blank and (i == 0 or path[i - 1] != c)]


@pytest.mark.parametrize("labels", [[1], [1, 2], [2, 2], [1, 2, 1], []])
@pytest.mark.parametrize("blank", [0, 3])
def test_the_sum_over_all_alignments(labels: list[int], blank: int) -> None:
    scores = np.random.default_rng(0).standard_normal((5, 4))
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    paths = itertools.product(range(4), repeat=5)
    likelihood = sum(np.prod(p[range(5), path]) for path in paths if collapsed(path, blank) == labels)
    padded = np.array([*labels, -1, -1])
    value, gradient = ctc(scores, padded, blank)
    assert value == pytest.approx(-np.log(likelihood))
    for at in np.ndindex(scores.shape):
        step = np.zeros_like(scores)
        step[at] = 1e-5
        slope = (ctc(scores + step, padded, blank)[0] - ctc(scores - step, padded, blank)[0]) / 2e-5
        assert gradient[at] == pytest.approx(slope, abs=1e-6)


def test_a_labelling_that_needs_more_steps_teaches_nothing() -> None:
    value, gradient = ctc(np.zeros((2, 3)), np.array([1, 1]))
    assert value == 0 and not gradient.any()


def test_long_sequences_stay_finite() -> None:
    scores = np.random.default_rng(1).standard_normal((400, 30)) * 5
    value, gradient = ctc(scores, np.arange(1, 29).repeat(3))
    assert np.isfinite(value) and np.isfinite(gradient).all() and np.allclose(gradient.sum(axis=1), 0)
