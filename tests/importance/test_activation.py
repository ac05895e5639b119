"""Criteria from data, against their formulas written out, and through the command."""

from __future__ import annotations

import numpy as np
import pytest

import onnxprune
from onnxprune.errors import InputError
from onnxprune.importance.activation import apoz, flap, standardised, wanda
from onnxprune.importance.obs import Consumer
from onnxprune.options import Options
from onnxprune.statistics.moments import Moments
from tests.support.paths import MODELS

_DRAWN = np.random.default_rng(0)
X = np.maximum(_DRAWN.standard_normal((500, 6)) + np.arange(6) - 3, 0).astype(np.float32)
W = _DRAWN.standard_normal((4, 6))
UNITS = np.array([[0, 1], [2, 3], [4, 5]])


def consumer(weight: np.ndarray = W) -> Consumer:
    seen = Moments.of(X[None])
    return Consumer(weight, seen.covariance(0), UNITS, seen.total[0] / seen.count, seen.zeros[0] / seen.count)


def test_wanda_is_weight_times_norm() -> None:
    norms = np.sqrt((X.astype(np.float64) ** 2).mean(axis=0))
    by_weight = np.abs(W) * norms  # as the paper has it, for single weights
    np.testing.assert_allclose(wanda([consumer()]), by_weight.sum(axis=0).reshape(3, 2).sum(axis=1), rtol=1e-5)


def test_flap_is_variance_times_squared_norm() -> None:
    each = X.astype(np.float64).var(axis=0) * (W**2).sum(axis=0)
    np.testing.assert_allclose(flap([consumer()]), each.reshape(3, 2).sum(axis=1), rtol=1e-4)


def test_a_constant_channel_scores_zero_by_flap_but_not_by_wanda() -> None:
    x = np.concatenate([X[:, :5], np.full((len(X), 1), 7, np.float32)], axis=1)
    seen = Moments.of(x[None])
    single = Consumer(
        W, seen.covariance(0), np.arange(6)[:, None], seen.total[0] / seen.count, seen.zeros[0] / seen.count
    )
    assert flap([single])[5] < 1e-3 * flap([single])[:5].max()
    assert wanda([single])[5] == pytest.approx(7 * np.abs(W[:, 5]).sum(), rel=1e-4)


def test_apoz_counts_zeros() -> None:
    alive = (X != 0).mean(axis=0).reshape(3, 2).mean(axis=1)
    np.testing.assert_allclose(apoz([consumer()]), alive)
    np.testing.assert_allclose(apoz([consumer(), consumer(2 * W)]), alive)  # a mean over readers, whatever they weigh


def test_scores_of_consumers_are_summed() -> None:
    for score in (wanda, flap):
        np.testing.assert_allclose(score([consumer(), consumer(-W)]), 2 * score([consumer()]))


def test_standardised_scores_are_comparable() -> None:
    a, b = standardised([np.array([1.0, 2.0, 3.0]), np.array([10.0, 40.0, 70.0])])
    np.testing.assert_allclose(a, b, atol=1e-12)
    assert min(a.min(), b.min()) == 0


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["wanda", "flap", "apoz"])
def test_through_the_command(criterion: str) -> None:
    calib = str(MODELS / "digits_calib_flat.npz")
    result = onnxprune.prune(MODELS / "sk_mlp.onnx", 0.5, importance=criterion, calib=calib, repair="none")
    plain = onnxprune.prune(MODELS / "sk_mlp.onnx", 0.5, importance="l2", repair="none")
    assert result.report.params == plain.report.params
    assert result.plan.removed != plain.plan.removed
    assert (
        onnxprune.prune(MODELS / "sk_mlp.onnx", target={"macs": 0.5}, importance=criterion, calib=calib)
        .report.targets["macs"]
        .met
    )
    with pytest.raises(InputError, match="needs calibration data"):
        Options.of(ratio=0.5, importance=criterion)
