"""Allocations where costs grow in steps, against all allocations that there are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.allocation import budget
from onnxprune.allocation.counts import Limits
from onnxprune.allocation.refine import descend, exchange, refine
from onnxprune.allocation.target import Target, damage_of, missed
from onnxprune.cost.cost_model import Removed


class Blocks:
    """A chain of layers, each of which takes its inputs times its outputs, both in blocks."""

    def __init__(self, units: list[int], blocks: list[int]) -> None:
        self.units, self.blocks = np.array(units), np.array(blocks)

    def left(self, removed: Removed) -> float:
        kept = -(-(self.units - removed) // self.blocks) * self.blocks
        chain = np.array([3, *kept, 2])
        return float((chain[1:] * chain[:-1]).sum())

    def saving(self, removed: Removed, group: int, more: int) -> float:
        further = removed.copy()
        further[group] += more
        return self.left(removed) - self.left(further)


def problem(seed: int) -> tuple[list[np.ndarray], list[int], Blocks, float]:
    """Three groups with random convex curves and blocks, and a limit between a third and all of the cost."""
    rng = np.random.default_rng(seed)
    units = rng.integers(4, 13, size=3).tolist()
    cost = Blocks(units, rng.integers(1, 5, size=3).tolist())
    curves = [np.concatenate([[0.0], np.cumsum(np.sort(rng.exponential(size=n - 1)))]) for n in units]
    return curves, units, cost, float(rng.uniform(0.35, 0.95)) * cost.left(np.zeros(3, dtype=np.int64))


def optimum(curves: list[np.ndarray], cost: Blocks, limit: float) -> float:
    """By trying all."""
    every = itertools.product(*(range(len(c)) for c in curves))
    return min(
        (damage_of(curves, np.array(at)) for at in every if cost.left(np.array(at)) <= limit), default=float("inf")
    )


def allocated(seed: int) -> tuple[float, float]:
    """Damage of the allocation, and the least that there is."""
    curves, units, cost, limit = problem(seed)
    found = budget.allocate(curves, units, [Target(cost, limit)], [Limits()] * 3)
    best = optimum(curves, cost, limit)
    if best == float("inf"):
        assert not found.met
        return 1.0, 1.0
    assert found.met and found.left == [cost.left(np.array(found.removed))] and found.left[0] <= limit
    return damage_of(curves, np.array(found.removed)), best


@pytest.mark.slow
@pytest.mark.parametrize("count", [10, pytest.param(120, marks=pytest.mark.slow)])
def test_allocations_are_near_the_optimum(count: int) -> None:
    """Of many problems with steps nearly all are solved, and what the others miss is little."""
    found, best = np.array([allocated(seed) for seed in range(count)]).T
    assert (found >= best - 1e-9).all()
    assert (found <= best + 1e-9).mean() >= 0.95
    assert found.sum() <= 1.005 * best.sum()
    assert (found <= 1.5 * best + 1e-9).all()


@pytest.mark.slow
@given(st.integers(0, 10**6))
def test_what_can_be_met_is_met_at_no_more_damage_than_that_of_all(seed: int) -> None:
    curves, units, cost, limit = problem(seed)
    steps = [np.arange(n) for n in units]
    most = np.array(units) - 1
    targets = [Target(cost, limit)]
    found = refine(curves, steps, targets)
    if missed(targets, most):
        assert found is None
        return
    assert found is not None and not missed(targets, found)
    assert damage_of(curves, found) <= damage_of(curves, most)


def test_only_counts_among_the_steps_are_taken() -> None:
    curves, units, cost, limit = problem(3)
    steps = [np.arange(0, n, 2) for n in units]
    found = refine(curves, steps, [Target(cost, limit)])
    assert found is None or all(n % 2 == 0 for n in found)


def test_a_flat_step_is_given_back() -> None:
    """Four units go for one block; a path that goes unit by unit goes one further, which saves nothing."""
    cost = Blocks([8], [4])
    curves = [np.arange(8.0)]
    start = np.array([5])
    assert exchange(curves, [np.arange(8)], [Target(cost, cost.left(np.array([4])))], start).tolist() == [4]


def test_descent_passes_over_units_that_save_nothing() -> None:
    """No single unit saves anything, and the target needs eight: a greedy path by single units never begins."""
    cost = Blocks([16, 16], [8, 8])
    curves = [np.arange(16.0), 2 * np.arange(16.0)]
    found = descend(curves, [np.arange(16)] * 2, [Target(cost, cost.left(np.array([8, 0])))])
    assert found is not None and found.tolist() == [8, 0]


def test_several_targets_are_met_together() -> None:
    curves, units = [np.arange(12.0), np.arange(12.0)], [12, 12]
    targets = [Target(Blocks(units, [4, 1]), 120.0), Target(Blocks(units, [1, 3]), 110.0)]
    found = budget.allocate(curves, units, targets, [Limits()] * 2)
    assert found.met and all(left <= t.limit for left, t in zip(found.left, targets, strict=True))
    every = itertools.product(range(12), repeat=2)
    best = min(damage_of(curves, np.array(at)) for at in every if not missed(targets, np.array(at)))
    assert damage_of(curves, np.array(found.removed)) == pytest.approx(best)
