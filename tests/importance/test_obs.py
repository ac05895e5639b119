"""Structured OBS against the definition: remove, refit what is left, measure."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.importance.obs import DAMPING, Consumer, removal_curve


def layer(seed: int, units: int, width: int, outputs: int) -> Consumer:
    rng = np.random.default_rng(seed)
    columns = units * width
    data = rng.standard_normal((3 * columns, columns)) @ rng.standard_normal((columns, columns))
    return Consumer(
        rng.standard_normal((outputs, columns)), np.cov(data, rowvar=False), np.arange(columns).reshape(units, width)
    )


def refitted_loss(consumer: Consumer, gone: list[int]) -> float:
    """Output error after the removal of some units and a least-squares refit of the others."""
    h = consumer.covariance + DAMPING * np.diag(consumer.covariance).mean() * np.eye(len(consumer.covariance))
    keep = np.setdiff1d(np.arange(len(h)), consumer.columns[gone].ravel())
    new = np.zeros_like(consumer.weight)
    new[:, keep] = consumer.weight @ h[:, keep] @ np.linalg.inv(h[np.ix_(keep, keep)])
    wrong = consumer.weight - new
    return float(np.einsum("oi,ij,oj->", wrong, h, wrong)) / consumer.energy


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("readers", [1, 2])
def test_every_step_removes_the_unit_with_the_least_loss(width: int, readers: int) -> None:
    consumers = [layer(seed, 7, width, 5) for seed in range(readers)]
    curve = removal_curve(consumers, 7, 4)
    gone: list[int] = []
    for step in range(4):
        before = sum(refitted_loss(c, gone) for c in consumers)
        added = {u: sum(refitted_loss(c, [*gone, u]) for c in consumers) - before for u in range(7) if u not in gone}
        best = min(added, key=lambda u: added[u])
        assert curve.order[step] == best
        gone.append(best)
        assert curve.loss[step + 1] == pytest.approx(sum(refitted_loss(c, gone) for c in consumers), rel=1e-6)


def test_of_two_redundant_units_only_one_is_cheap() -> None:
    """After the removal of one of two equal inputs, the other one costs as much as both."""
    rng = np.random.default_rng(0)
    data = rng.standard_normal((500, 4))
    data[:, 1] = data[:, 0]
    consumer = Consumer(rng.standard_normal((3, 4)) + 2, np.cov(data, rowvar=False), np.arange(4)[:, None])
    curve = removal_curve([consumer], 4, 4)
    assert curve.order[0] in (0, 1)
    assert curve.loss[1] < 0.02
    assert {0, 1} != set(curve.order[:2].tolist())


def test_probes_record_the_compensated_weights() -> None:
    consumer = layer(3, 6, 2, 4)
    ((count, (weight,)),) = removal_curve([consumer], 6, 4, probes=(0.5,)).probes
    assert count == 3
    gone = removal_curve([consumer], 6, 3).order
    h = consumer.covariance + DAMPING * np.diag(consumer.covariance).mean() * np.eye(12)
    keep = np.setdiff1d(np.arange(12), consumer.columns[gone].ravel())
    expected = np.zeros_like(consumer.weight)
    expected[:, keep] = consumer.weight @ h[:, keep] @ np.linalg.inv(h[np.ix_(keep, keep)])
    np.testing.assert_allclose(weight, expected, atol=1e-8)
