"""Weights that are not finite (a mask of -inf, a broken channel) are left out of scores, zeros and fits."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

import onnxprune
from onnxprune.importance.damage_curves import curve_from_scores
from tests.ops.case import build
from tests.support.lanes import spread
from tests.support.oracle import session

NET = """(float[N,8] x) => (float[N,4] y) <float[8,16] w, float[16] m, float[16,12] v, float[12] b, float[12,4] u>
    { a = MatMul(x, w)  c = Max(a, m)  d = MatMul(c, v)  e = Add(d, b)  f = Relu(e)  y = MatMul(f, u) }"""
"""The lower bounds ``m`` are of channels, and may be -inf."""

ALL = ["l1", "l2", "fpgm", "lamp", "bn-scale", "obs", "wanda", "flap"]


def net(**broken: dict[tuple[int, ...], float]) -> onnx.ModelProto:
    """The model with other elements: constant -> index -> value."""
    model = build(NET)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        for index, value in broken.get(tensor.name, {}).items():
            array[index] = value
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


MASKED = {"m": {(i,): -np.inf for i in (1, 4, 11)}}
ZEROED = {"m": {(i,): 0.0 for i in (1, 4, 11)}}


def data() -> dict[str, NDArray[np.float32]]:
    return {"x": np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)}


def weights(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


@pytest.mark.parametrize("criterion", [c for c in ALL if c not in ("obs", "wanda", "flap")])
@pytest.mark.parametrize("value", [-np.inf, np.inf, np.nan])
def test_they_count_as_zero_in_scores(criterion: str, value: float) -> None:
    masked = {"m": dict.fromkeys(MASKED["m"], value), "v": {(2, 3): value}}
    zeroed = {"m": ZEROED["m"], "v": {(2, 3): 0.0}}
    found, expected = (onnxprune.score(onnxprune.analyze(net(**b)), criterion) for b in (masked, zeroed))
    for mine, theirs in zip(found, expected, strict=True):
        assert np.isfinite(mine).all() and np.array_equal(mine, theirs)


AMOUNTS: list[dict[str, Any]] = [{"ratio": 0.5}, {"ratio": 0.5, "global_ranking": True}, {"target": {"params": 0.6}}]


@pytest.mark.slow
@pytest.mark.parametrize(("amount", "criterion"), spread(itertools.product(AMOUNTS, ALL)))
def test_whatever_ranks_them_something_goes(amount: dict[str, Any], criterion: str) -> None:
    """The request is met, as without the mask."""
    result = onnxprune.prune(net(**MASKED), importance=criterion, repair="none", calib=data(), **amount)
    assert result.report.params.before is not None and result.report.params.after is not None
    assert result.report.params.after <= 0.7 * result.report.params.before
    assert all(target.met for target in result.report.targets.values()) and result.report.verified


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "importance", "repair"),
    spread(itertools.product(["weights=0.5", "2:4", "4x1=0.5"], ["l2", "wanda", "obs"], ["none", "calibrated"])),
)
def test_zeros_spare_them(pattern: str, importance: str, repair: str) -> None:
    """A weight that holds one keeps it, and has the zeros that the pattern asks for elsewhere."""
    made = onnxprune.prune(
        net(v={(5, 7): -np.inf}), pattern=pattern, importance=importance, repair=repair, calib=data(), verify=False
    )
    v = weights(made.proto)["v"]
    assert v[5, 7] == -np.inf and (v == 0).sum() == v.size // 2


def test_ranks_across_weights_are_those_of_the_others() -> None:
    """The one element does not scale its whole weight down."""
    plain, broken = (
        weights(onnxprune.prune(m, pattern="weights=0.5", global_ranking=True, repair="none", verify=False).proto)
        for m in (net(), net(v={(5, 7): np.inf}))
    )
    for name in plain:
        same = (plain[name] == 0) == (broken[name] == 0)
        assert same.mean() > 0.95
    assert broken["v"][5, 7] == np.inf


@pytest.mark.slow
def test_a_layer_that_holds_one_is_not_fitted() -> None:
    """It keeps every weight that is left of it; those around it are fitted to finite samples, where there are any."""
    model = net(u={(0, 2): np.inf}, **MASKED)
    result = onnxprune.prune(model, 0.5, importance="l2", repair="calibrated", calib=data(), only=["^v"], verify=False)
    assert result.report.repair is not None
    assert {r.layer: r.penalty is None for r in result.report.repair}["y"]
    kept = np.delete(np.arange(12), result.plan.removed["u"]["0"])
    assert np.array_equal(weights(result.proto)["u"], weights(model)["u"][kept])


@pytest.mark.slow
def test_a_mask_does_not_keep_layers_from_being_fitted() -> None:
    model = net(**MASKED)
    plain, refitted = (
        onnxprune.prune(model, 0.5, importance="l2", repair=repair, calib=data()) for repair in ("none", "calibrated")
    )
    assert refitted.report.calibration is not None and plain.report.calibration is not None
    assert refitted.report.calibration.relative_error < 0.8 * plain.report.calibration.relative_error  # type: ignore[operator]
    assert np.isneginf(weights(refitted.proto)["m"]).sum() == np.isneginf(weights(plain.proto)["m"]).sum()
    assert np.isfinite(session(refitted.proto).run(None, data())[0]).all()


def test_units_of_infinite_score_go_last() -> None:
    """A criterion may return infinity: a curve of damage puts a number on it, and no NaN."""
    curve = curve_from_scores(np.array([np.inf, 2.0, 1.0, np.inf]), 3)
    assert curve.order.tolist() == [2, 1, 0]
    assert np.isfinite(curve.loss).all() and (np.diff(curve.loss) > 0).all()
    assert curve.loss[3] - curve.loss[2] > 1e5 * (curve.loss[2] - curve.loss[0])
    result = onnxprune.prune(
        net(), target={"params": 0.6}, importance=lambda g: np.where(np.arange(g.units) < 2, np.inf, 1.0), repair="none"
    )
    assert result.report.targets["params"].met and not set(result.plan.removed["w"]["1"]) & {0, 1}
