"""Costs as functions of what stays, and budgets met at the least damage."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import onnxprune
from onnxprune.allocation import budget
from onnxprune.allocation.counts import Limits, Width
from onnxprune.cost.cost_model import Removed, macs, parameters
from onnxprune.cost.measure import measure, static_shapes
from onnxprune.edit.remove import remove
from onnxprune.errors import InputError
from onnxprune.model.model import load
from onnxprune.model.skeleton import inlined_skeleton
from onnxprune.runtime.sample_inputs import input_dims
from tests.support.paths import MODELS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pt_resnet_folded", "pt_mobilenet", "pt_transformer", "pt_bilstm", "keras_cnn"])
def test_costs_foretell_those_of_the_pruned_model(name: str) -> None:
    analysis = onnxprune.analyze(MODELS / f"{name}.onnx")
    groups = [g for g in analysis.groups if str(g.grade) == "exact"]
    before = measure(analysis.model)
    slim = inlined_skeleton(analysis.model.proto)
    shapes = static_shapes(slim, input_dims(slim))
    foretold = {"params": parameters(analysis.coupling, groups), "macs": macs(analysis.coupling, groups, shapes)}
    none = np.zeros(len(groups), dtype=np.int64)
    assert foretold["params"].left(none) == before.params
    assert foretold["macs"].left(none) == before.macs
    removed = np.array([(3 * i) % g.units for i, g in enumerate(groups)])
    expected = {kind: model.left(removed) for kind, model in foretold.items()}
    gone = np.zeros(analysis.coupling.classes.elements, dtype=bool)
    for group, count in zip(groups, removed, strict=True):
        gone[group.channels[:count]] = True
    remove(analysis.model, analysis.coupling, gone)
    after = measure(analysis.model)
    assert (expected["params"], expected["macs"]) == (after.params, after.macs)


class Linear:
    """A cost that falls by a fixed amount a unit."""

    def __init__(self, prices: list[float]) -> None:
        self.prices = np.array(prices)

    def left(self, removed: Removed) -> float:
        return float(100 - self.prices @ removed)

    def saving(self, removed: Removed, group: int, more: int) -> float:
        return float(self.prices[group] * more)


@pytest.mark.parametrize("limit", [95.0, 80.0, 70.0])
def test_convex_curves_are_allocated_at_the_least_damage(limit: float) -> None:
    """With equal prices greedy steps are the optimum: compare with all allocations."""
    curves = [np.array([0, 1, 3, 6, 10.0]), np.array([0, 2, 5, 9, 14.0]), np.array([0, 0.5, 4, 9, 20.0])]
    found = budget.allocate(curves, [5, 5, 5], [budget.Target(Linear([5, 5, 5]), limit)], [Limits()] * 3)
    assert found.met
    best = min(
        sum(c[n] for c, n in zip(curves, counts, strict=True))
        for counts in itertools.product(range(5), repeat=3)
        if 100 - 5 * sum(counts) <= limit
    )
    assert sum(c[n] for c, n in zip(curves, found.removed, strict=True)) == pytest.approx(best)


def test_what_saves_more_for_the_same_damage_goes_first() -> None:
    curves = [np.array([0, 1, 2.0]), np.array([0, 1, 2.0])]
    found = budget.allocate(curves, [3, 3], [budget.Target(Linear([1, 10]), 90)], [Limits()] * 2)
    assert found.removed == [0, 1]


def test_a_budget_that_cannot_be_met_takes_all_it_may() -> None:
    found = budget.allocate([np.array([0, 1.0])], [2], [budget.Target(Linear([5]), 10)], [Limits()])
    assert (found.removed, found.met, found.left) == ([1], False, [95.0])


def test_rounding_is_honoured() -> None:
    curve = np.arange(16.0)
    found = budget.allocate([curve], [16], [budget.Target(Linear([1]), 95)], [Limits(1, (Width(multiple=4),))])
    assert found.removed == [8]  # 5 are too few; 12 stay after 4, 8 after 8


@pytest.mark.slow
@pytest.mark.parametrize("target", ["0.6", "60k", "x", "-1", "0"])
def test_targets(target: str) -> None:
    """Fractions are of what there is, larger numbers and units are amounts; the rest is refused."""
    model = MODELS / "pt_resnet_folded.onnx"
    if target in ("x", "-1", "0"):
        with pytest.raises(InputError):
            onnxprune.prune(model, target={"params": target}, verify=False, repair="none")
        return
    report = onnxprune.prune(model, target={"params": target}, verify=False, repair="none").report
    asked = 0.6 * measure(load(model)).params if target == "0.6" else 60_000
    assert report.targets["params"].asked == pytest.approx(asked)
    assert report.targets["params"].met == (report.params.after <= asked)
    assert report.targets["params"].left == report.params.after


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["params", "macs", "bytes"])
def test_a_budget_is_met_to_within_a_unit(kind: str) -> None:
    report = onnxprune.prune(MODELS / "pt_resnet_bn.onnx", target={kind: 0.5}, verify=False, repair="none").report
    cost = getattr(report, kind)
    left = cost.after / cost.before
    assert 0.47 < left <= 0.5 + (0.01 if kind == "bytes" else 0)


def test_a_costly_first_unit_does_not_hide_the_cheap_ones_after_it() -> None:
    """Whole segments of the hull: four units at 1.15 in place of four at 1.6."""
    curves = [np.array([0, 1.0, 1.05, 1.1, 1.15]), np.array([0, 0.4, 0.8, 1.2, 1.6])]
    found = budget.allocate(curves, [5, 5], [budget.Target(Linear([1, 1]), 96)], [Limits()] * 2)
    assert found.removed == [4, 0]


def test_a_segment_is_not_begun_for_what_one_unit_of_another_group_meets() -> None:
    curves = [np.array([0, 1.0, 1.05, 1.1, 1.15]), np.array([0, 0.4, 0.8, 1.2, 1.6])]
    found = budget.allocate(curves, [5, 5], [budget.Target(Linear([1, 1]), 99)], [Limits()] * 2)
    assert found.removed == [0, 1]


def test_savings_are_shares_of_what_each_target_still_lacks() -> None:
    """One unit of the second group meets both: 30 of 30 and 2 of 2. In sum the first saves more, 33 + 1."""
    curves = [np.array([0, 1.0]), np.array([0, 1.0])]
    targets = [budget.Target(Linear([33, 30]), 70.0), budget.Target(Linear([1, 2]), 98.0)]
    assert budget.allocate(curves, [2, 2], targets, [Limits()] * 2).removed == [0, 1]
