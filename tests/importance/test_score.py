"""Criteria against their definitions, written out index by index."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

import onnxprune
from onnxprune import api
from onnxprune.extensions.points import Scale, criteria
from onnxprune.importance.geometric_median import fpgm
from onnxprune.importance.magnitude import lamp, power_sums
from onnxprune.layers.dequantize import dequantised
from onnxprune.model.values import Whole
from tests.ops.case import build

WEIGHTS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=1, max_dims=4, max_side=4), elements=st.floats(-10, 10, width=32)
)


@pytest.mark.slow
@given(WEIGHTS, st.integers(1, 2))
def test_power_sums(weight: NDArray[np.float32], power: int) -> None:
    found = power_sums(Whole(weight), range(weight.ndim), power)
    for axis in range(weight.ndim):
        expected = [0.0] * weight.shape[axis]
        for at in itertools.product(*map(range, weight.shape)):
            expected[at[axis]] += abs(float(weight[at])) ** power
        np.testing.assert_allclose(found[axis], expected, rtol=1e-5, atol=1e-5)


def test_power_sums_do_not_overflow_in_half_precision() -> None:
    found = power_sums(Whole(np.full((2, 4), 300, np.float16)), [0], 2)
    assert found[0].tolist() == [360000.0, 360000.0]


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("shape", [(3, 5), (2000, 3), (3, 5, 2)])
def test_power_sums_of_half_precision(shape: tuple[int, ...], power: int) -> None:
    """As in double precision, the smallest numbers too; what is not finite counts as zero."""
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal(shape) * np.exp2(rng.integers(-24, 8, shape))).astype(np.float16)
    weight[0, 1], weight[1, 0], weight[2, 2] = np.inf, -np.inf, np.nan
    finite = np.where(np.isfinite(weight), weight, 0).astype(np.float64)
    for axis, sums in power_sums(Whole(weight), [0, 1], power).items():
        others = tuple(i for i in range(weight.ndim) if i != axis)
        np.testing.assert_allclose(sums, (np.abs(finite) ** power).sum(axis=others), rtol=1e-5)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=8, unique=True))
def test_lamp(squares: list[float]) -> None:
    found = lamp(np.array(squares))
    for score, mine in zip(found, squares, strict=True):
        assert score == pytest.approx(mine / sum(w for w in squares if w >= mine))


def test_lamp_of_the_largest_is_one_and_of_zero_is_zero() -> None:
    assert lamp(np.array([1.0, 3.0, 2.0]))[1] == 1
    assert lamp(np.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.slow
@given(
    hnp.arrays(np.float32, (4, 3), elements=st.floats(-5, 5, width=16)),
    hnp.arrays(np.float32, (4, 2), elements=st.floats(-5, 5, width=16)),
)
def test_fpgm(a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
    rows = [[float(v) for v in (*x, *y)] for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(fpgm([a, b]), [sum(math.dist(p, q) for q in rows) for p in rows], rtol=1e-5, atol=1e-3)


NET = """(float[N,3,4,4] x) => (float[N,2,4,4] y)
    <float[5,3,1,1] w, float[5] b, float[5] s, float[5] z, float[5] m, float[5] posv, float[4,5,3,3] u, float[2,4,1,1] v>
    { h = Conv(x, w, b)  n = BatchNormalization(h, s, z, m, posv)  r = Relu(n)
      k = Conv <pads = [1, 1, 1, 1]> (r, u)  y = Conv(k, v) }"""


@pytest.fixture(scope="module")
def analysis() -> onnxprune.Analysis:
    return onnxprune.analyze(build(NET))


def owned(analysis: onnxprune.Analysis) -> list[list[float]]:
    """All weights of each channel between the first two convolutions: producer, norm and consumer."""
    w = {t.name: analysis.model.array(t) for t in analysis.model.proto.graph.initializer}
    return [
        [
            *w["w"][i].ravel().tolist(),
            *(float(w[p][i]) for p in ("b", "s", "z", "m", "posv")),
            *w["u"][:, i].ravel().tolist(),
        ]
        for i in range(5)
    ]


def scores(analysis: onnxprune.Analysis, criterion: str, **options: Any) -> NDArray[np.float64]:
    group = next(g for g in analysis.groups if g.name == "w:0")
    (found,) = onnxprune.score(analysis, criterion, groups=[group], **options)
    return found


@pytest.mark.parametrize("power", [1, 2])
def test_every_slice_counts(analysis: onnxprune.Analysis, power: int) -> None:
    raw = [sum(abs(v) ** power for v in row) ** (1 / power) for row in owned(analysis)]
    np.testing.assert_allclose(scores(analysis, f"l{power}"), np.array(raw) / np.mean(raw), rtol=1e-5)


def test_lamp_of_channels(analysis: onnxprune.Analysis) -> None:
    squares = [sum(v * v for v in row) for row in owned(analysis)]
    expected = [s / sum(t for t in squares if t >= s) for s in squares]
    np.testing.assert_allclose(scores(analysis, "lamp"), expected, rtol=1e-5)


def test_fpgm_of_channels(analysis: onnxprune.Analysis) -> None:
    rows = owned(analysis)
    raw = [sum(math.dist(p, q) for q in rows) for p in rows]
    np.testing.assert_allclose(scores(analysis, "fpgm"), np.array(raw) / np.mean(raw), rtol=1e-4)


def test_scales_of_normalisations(analysis: onnxprune.Analysis) -> None:
    gamma = np.abs(analysis.model.array(next(t for t in analysis.model.proto.graph.initializer if t.name == "s")))
    np.testing.assert_allclose(scores(analysis, "bn-scale"), gamma / gamma.mean(), rtol=1e-5)


def test_without_a_normalization_the_magnitude_counts(analysis: onnxprune.Analysis) -> None:
    group = next(g for g in analysis.groups if g.name == "u:0")
    (by_scale,) = onnxprune.score(analysis, "bn-scale", groups=[group])
    (by_size,) = onnxprune.score(analysis, "l2", groups=[group])
    np.testing.assert_allclose(by_scale, by_size)


@pytest.mark.parametrize("criterion", ["l1", "l2", "fpgm", "bn-scale"])
def test_scores_of_a_group_have_mean_one(analysis: onnxprune.Analysis, criterion: str) -> None:
    for values in onnxprune.score(analysis, criterion):
        assert values.mean() == pytest.approx(1)


def test_random_scores_follow_the_seed(analysis: onnxprune.Analysis) -> None:
    assert np.array_equal(scores(analysis, "random", seed=3), scores(analysis, "random", seed=3))
    assert not np.array_equal(scores(analysis, "random", seed=3), scores(analysis, "random", seed=4))


@pytest.mark.slow
@pytest.mark.parametrize(
    "criterion", [c for c in criteria.names() if criteria.get(c).needs == "weights" and c != "random"]
)
def test_scores_are_reproducible(criterion: str) -> None:
    a, b = (onnxprune.score(onnxprune.analyze(build(NET)), criterion) for _ in range(2))
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_dead_weights_score_zero() -> None:
    model = build(
        "(float[N,3] x) => (float[N,2] y) <float[3,4] w, float[4,2] v> { h = MatMul(x, w)  y = MatMul(h, v) }",
        constants={"w": np.zeros((3, 4)), "v": np.zeros((4, 2))},
    )
    assert all(not s.any() and np.isfinite(s).all() for s in onnxprune.score(onnxprune.analyze(model), "l2"))


def test_scores_are_summed_over_the_indices_of_a_unit() -> None:
    """A head owns its dimensions in every projection."""
    model = build(
        """(float[N,3] x) => (float[N,2] y) <float[3,12] w, float[12,2] v, int64[3] a, int64[2] b>
        { h = MatMul(x, w)  r = Reshape(h, a)  e = Softmax <axis = 0> (r)  t = Softmax <axis = -1> (e)  f = Reshape(t, b)
          y = MatMul(f, v) }""",
        constants={"a": [0, 3, 4], "b": [0, 12]},
    )
    analysis = onnxprune.analyze(model)
    group = next(g for g in analysis.groups if g.name == "w:1")
    w, v = (analysis.model.array(t).astype(float) for t in analysis.model.proto.graph.initializer[:2])
    raw = [np.sqrt((w[:, 4 * i : 4 * i + 4] ** 2).sum() + (v[4 * i : 4 * i + 4] ** 2).sum()) for i in range(3)]
    (found,) = onnxprune.score(analysis, "l2", groups=[group])
    np.testing.assert_allclose(found, np.array(raw) / np.mean(raw), rtol=1e-5)


# --- quantised weights


@pytest.mark.parametrize(
    ("scale", "zero", "axis"),
    [
        ([0.5], None, 0),
        ([0.5], [3], 1),
        ([0.5, 2.0], [1, -1], 0),
        ([1.0, 2.0, 3.0, 4.0], None, 1),
        ([1.0, 2.0, 3.0, 4.0], [0, 1, 2, 3], -1),
        ([[1.0, 2.0], [3.0, 4.0]], [[1, 2], [3, 4]], 1),
    ],
)
def test_dequantised(scale: list[Any], zero: list[Any] | None, axis: int) -> None:
    weight = np.array([[1, -2, 3, 4], [5, 6, -7, 8]], np.int8)
    s, z = np.array(scale, np.float32), None if zero is None else np.array(zero, np.int8)
    found = dequantised(weight, s, z, axis)
    for i, j in itertools.product(range(2), range(4)):
        if s.ndim == 2:
            at: tuple[int, ...] = (i, j // 2)  # blocks of two along the second axis
        else:
            at = (0,) if s.size == 1 else ((i,) if axis == 0 else (j,))
        offset = 0 if z is None else int(z[at])
        assert found[i, j] == pytest.approx((int(weight[i, j]) - offset) * float(s[at]))


def test_quantised_weights_are_scored_by_their_real_values() -> None:
    model = build(
        """(float[N,3] x) => (float[N,2] y) <int8[3,4] w, float[4] pos_s, int8[4] z, float[4,2] v>
        { k = DequantizeLinear <axis = 1> (w, pos_s, z)  h = MatMul(x, k)  y = MatMul(h, v) }""",
        constants={"w": [[1, 10, 5, 3]] * 3, "z": [0, 10, 4, 0], "pos_s": [1, 9, 2, 0.5], "v": np.zeros((4, 2))},
    )
    analysis = onnxprune.analyze(model)
    (found,) = onnxprune.score(analysis, "l1", groups=[g for g in analysis.groups if g.name == "w:1"])
    np.testing.assert_allclose(found, np.array([3, 0, 6, 4.5]) / np.mean([3, 0, 6, 4.5]))
    assert api.plan(analysis, 0.25, importance="l1").removed["w"] == {"1": [1]}


@pytest.mark.parametrize("scale", ["mean", "none", "standard"])
@pytest.mark.parametrize("across", [False, True])
def test_a_unit_of_infinite_score_goes_last_and_leaves_the_order_of_the_others(scale: Scale, across: bool) -> None:
    """Infinity keeps a unit; it must not make the scores of the others equal."""
    order = np.random.default_rng(3).permutation(32).astype(float)
    scores = np.where(order == 0, np.inf, order)

    try:
        onnxprune.criterion("guarded", scale=scale)(lambda group: scores[: group.units])
        made = onnxprune.prune(
            build(
                "(float[N,8] x) => (float[N,4] y) <float[8,32] w, float[32,4] u> { h = MatMul(x, w)  y = MatMul(h, u) }"
            ),
            0.5,
            importance="guarded",
            repair="none",
            verify=False,
            global_ranking=across,
        )
    finally:
        criteria.remove("guarded")
    assert made.plan.removed["w"]["1"] == sorted(np.argsort(scores)[:16].tolist())
