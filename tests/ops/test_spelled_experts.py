"""Mixtures of experts that are spelled out: whole experts follow what the search for the best ones finds."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune import testing
from onnxprune.cost.cost_model import parameters
from onnxprune.cost.measure import measure
from onnxprune.errors import PlanError
from onnxprune.model.model import load
from tests.support.mixtures import (
    EXPERTS,
    FORMS,
    GATHERED,
    INSIDE,
    LOOPED,
    ROUTER,
    SWITCHED,
    TAKEN,
    WIDTH,
    contributions,
    mixture,
)
from tests.support.oracle import session

X = np.random.default_rng(0).standard_normal((4, 5, WIDTH)).astype(np.float32)
WHOLE = f"^{ROUTER}$"


def outputs(made: onnx.ModelProto) -> np.ndarray:
    return np.asarray(session(made).run(None, {"x": X})[0])


def weights(made: onnx.ModelProto) -> int:
    return sum(int(np.prod(t.dims)) for t in made.graph.initializer if t.data_type == 1 and t.name != "level")


@pytest.mark.parametrize("form", FORMS)
def test_what_is_left_is_the_model_whose_router_never_takes_the_others(form: str) -> None:
    made = mixture(form)
    result = onnxprune.prune(made, 0.5, only=[WHOLE], mixing=True, repair="none", time=False)
    (group,) = [g for g in result.report.groups if g.removed]
    assert group.grade == "mixing" and len(group.removed) == EXPERTS // 2
    silent = mixture(form, silent=tuple(group.removed))
    np.testing.assert_allclose(outputs(result.proto), outputs(silent), rtol=1e-4, atol=1e-5)
    always = 2 * WIDTH * WIDTH - WIDTH * (WIDTH - 3)  # what comes before the router and behind the experts
    assert weights(result.proto) - always == (weights(made) - always) // 2
    onnx.checker.check_model(result.proto, full_check=True)


@pytest.mark.parametrize("form", FORMS)
def test_channels_inside_of_experts_are_exact(form: str) -> None:
    made = mixture(form)
    result = onnxprune.prune(made, 0.5, only=[f"^{INSIDE[form]}$"], repair="none", time=False)
    assert sum(len(g.removed) for g in result.report.groups if g.grade == "exact") == 4
    testing.assert_equivalent(made, result, feeds={"x": X})


@pytest.mark.parametrize("form", FORMS)
def test_as_many_experts_stay_as_a_token_has(form: str) -> None:
    result = onnxprune.prune(mixture(form), 0.99, only=[WHOLE], mixing=True, repair="none", time=False)
    (group,) = [g for g in result.report.groups if g.removed]
    assert EXPERTS - len(group.removed) == (1 if form == SWITCHED else TAKEN)
    assert np.isfinite(outputs(result.proto)).all()


def test_a_plan_that_leaves_fewer_is_refused() -> None:
    made = mixture(GATHERED)
    plan = onnxprune.prune(made, 0.5, only=[WHOLE], mixing=True, repair="none", time=False).plan
    for axes in plan.removed.values():
        for axis in axes:
            axes[axis] = list(range(EXPERTS - 1))
    with pytest.raises(PlanError, match=re.escape(f"fewer than {TAKEN} of 'r:1'")):
        onnxprune.apply(plan, made)


@pytest.mark.parametrize("form", FORMS)
def test_with_data_experts_are_ranked_by_what_they_contribute(form: str) -> None:
    """The router's factor times the norm of the output, over the tokens that an expert has (REAP)."""
    made = mixture(form)
    analysis = onnxprune.analyze(made)
    calib = {"x": np.tile(X.reshape(1, -1, WIDTH), (8, 1, 1))}

    expected = contributions(made, form, X)
    groups = [g for g in analysis.groups if g.name == ROUTER]
    (found,) = onnxprune.score(analysis, "wanda", calib=calib, groups=groups)
    np.testing.assert_allclose(found, expected / expected.mean(), rtol=1e-3)


def test_costs_of_experts_in_a_loop_are_predicted() -> None:
    made = mixture(LOOPED)
    analysis = onnxprune.analyze(made)
    groups = [g for g in analysis.groups if g.name == ROUTER]
    result = onnxprune.prune(made, 0.5, only=[WHOLE], mixing=True, repair="none", time=False)
    left = parameters(analysis.coupling, groups).left(np.array([EXPERTS // 2]))
    assert left == measure(load(result.proto)).params


def test_experts_that_something_else_reads_stay() -> None:
    """Positions that are returned, or that arithmetic reads, mean the numbers of the original."""
    made = mixture(LOOPED)
    made.graph.node.append(onnx.helper.make_node("Add", ["c", "e1"], ["more"]))
    made.graph.output.append(onnx.helper.make_tensor_value_info("more", onnx.TensorProto.INT64, None))
    (group,) = [g for g in onnxprune.analyze(made).groups if g.name == ROUTER]
    assert str(group.grade) == "pinned" and any("reads positions along it" in why for why in group.reasons)
