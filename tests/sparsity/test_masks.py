"""Zeros that leave every shape as it is: exactly as many as asked for, the smallest ones, and nothing else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx import numpy_helper

import onnxprune
from onnxprune import sparsity
from onnxprune.common.math import share
from onnxprune.planning.masks import unpack_mask
from onnxprune.sparsity.unstructured import smallest, smallest_across
from tests.ops.case import build, coupling_of

SIZES = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=5), elements=st.floats(0, 100, width=16))
RATIOS = st.floats(0, 1, exclude_max=True)


@pytest.mark.slow
@given(SIZES, RATIOS)
def test_the_smallest(sizes: NDArray[np.float32], ratio: float) -> None:
    mask = smallest(sizes, ratio)
    assert mask.shape == sizes.shape
    assert mask.sum() == share(ratio, sizes.size)
    order = sorted(range(sizes.size), key=lambda i: (sizes.ravel()[i], i))
    assert np.flatnonzero(mask.ravel()).tolist() == sorted(order[: int(mask.sum())])


@pytest.mark.parametrize("order", ["mixed", "sorted", "in turn", "of few values"])
@pytest.mark.parametrize("ratio", [0.0, 1e-5, 0.3, 0.5, 0.99, 1 - 1e-5])
def test_the_smallest_of_many(order: str, ratio: float) -> None:
    """Selection by sampling, also for values that a sample does not represent."""
    sizes = np.random.default_rng(0).standard_normal(200_000)
    if order == "sorted":
        sizes.sort()
    elif order == "in turn":  # every place of the sample has a large one
        sizes[::12] += 100
    elif order == "of few values":
        sizes = np.rint(sizes)
    mask = smallest(sizes, ratio)
    expected = np.zeros(sizes.size, bool)
    expected[np.argsort(sizes, kind="stable")[: share(ratio, sizes.size)]] = True
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.slow
@given(st.lists(SIZES, min_size=1, max_size=4), RATIOS)
def test_the_smallest_of_all_together(sizes: list[NDArray[np.float32]], ratio: float) -> None:
    masks = smallest_across(sizes, ratio)
    assert [m.shape for m in masks] == [s.shape for s in sizes]
    assert sum(int(m.sum()) for m in masks) == share(ratio, sum(s.size for s in sizes))


def test_tensors_are_scaled_by_their_root_mean_square() -> None:
    """Ranking together divides each tensor by its root mean square first."""
    shape = np.array([1, 2, 3, 4], np.float32)
    one, other = smallest_across([shape, 1000 * shape], 0.5)
    assert one.tolist() == other.tolist() == [True, True, False, False]


def test_empty_tensors() -> None:
    assert smallest_across([], 0.5) == []


NET = """(float[N,3,4,4] x) => (float[N,2] y) <float[6,3,3,3] w, float[6] b, float[6] s, float[6] z, float[6] m, float[6] posv,
    float[96,7] u, float[2,7] t, float[2] c, float[1,6,1,1] scale>
    { h = Conv <pads = [1, 1, 1, 1]> (x, w, b)  n = BatchNormalization(h, s, z, m, posv)  g = Mul(n, scale)  f = Flatten(g)
      k = MatMul(f, u)  tt = Transpose(t)  p = MatMul(k, tt)  y = Add(p, c) }"""


def weights_of(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def test_only_factors_of_products_are_weights() -> None:
    assert {w.value.key for w in sparsity.weights(coupling_of(build(NET)))} == {"w", "u", "t"}


@pytest.mark.parametrize("ratio", [0.0, 0.29, 0.5, 0.999])
def test_each_weight_loses_its_share(ratio: float) -> None:
    model = build(NET)
    result = onnxprune.prune(model, pattern=f"weights={ratio}", verify=False)
    before, after = weights_of(model), weights_of(result.proto)
    for name, old in before.items():
        new = after[name]
        zeroed = share(ratio, old.size) if name in ("w", "u", "t") else 0
        assert (new == 0).sum() == zeroed
        assert np.array_equal(new[new != 0], old[new != 0])
        if zeroed > 0:
            assert np.abs(old[new == 0]).max() <= np.abs(old[new != 0]).min()


def test_across_ranks_all_weights_together() -> None:
    model = build(NET)
    after = weights_of(onnxprune.prune(model, pattern="weights=0.5", global_ranking=True, verify=False).proto)
    zeros = {n: int((after[n] == 0).sum()) for n in ("w", "u", "t")}
    assert sum(zeros.values()) == share(0.5, sum(after[n].size for n in zeros))
    assert any(zeros[n] != share(0.5, after[n].size) for n in zeros)


def test_nothing_but_the_weights_changes() -> None:
    model = build(NET)
    result = onnxprune.prune(model, pattern="weights=0.5", verify=False).proto
    for proto in (model, result):
        del proto.graph.initializer[:]
    assert model == result


def test_only_and_ignore() -> None:
    model = build(NET)
    for options, zeroed in (({"only": ["^w$"]}, {"w"}), ({"ignore": ["u"]}, {"w", "t"})):
        result = onnxprune.prune(model, pattern="weights=0.5", verify=False, **options)  # type: ignore[arg-type]
        assert set(result.plan.zeroed) == zeroed == {n for n, a in weights_of(result.proto).items() if (a == 0).any()}


def test_the_plan_has_the_masks() -> None:
    model = build(NET)
    result = onnxprune.prune(model, pattern="weights=0.5", verify=False)
    for name, new in weights_of(result.proto).items():
        if name in result.plan.zeroed:
            entry = result.plan.zeroed[name]
            assert np.array_equal(unpack_mask(entry["mask"], new.shape), new == 0)
            assert entry["ratio"] == pytest.approx((new == 0).mean())
    assert not result.plan.removed


def test_a_plan_zeroes_the_same_elements_elsewhere() -> None:
    model, other = build(NET), build(NET)
    for t in other.graph.initializer:
        t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t) + 5, t.name))
    result = onnxprune.prune(model, pattern="weights=0.5", verify=False)
    plan = onnxprune.Plan.from_json(result.plan.to_json())
    old, new, first = weights_of(other), weights_of(onnxprune.apply(plan, other).proto), weights_of(result.proto)
    for name in new:
        expected = np.where(first[name] == 0, 0, old[name]) if name in plan.zeroed else old[name]
        assert np.array_equal(new[name], expected)


def test_zero_of_a_quantised_weight_is_its_zero_point() -> None:
    model = build(
        """(float[N,3] x) => (float[N,4] y) <int8[3,4] w, float[4] pos_s, int8[4] z>
        { k = DequantizeLinear <axis = 1> (w, pos_s, z)  y = MatMul(x, k) }""",
        constants={"w": [[9, 2, 3, 40], [5, 6, 7, 80], [1, 1, 1, 1]], "z": [5, 5, 5, 5], "pos_s": [1, 1, 1, 1]},
    )
    new = weights_of(onnxprune.prune(model, pattern="weights=0.5", verify=False).proto)["w"]
    # distances from 5: 4 3 2 35 / 0 1 2 75 / 4 4 4 4; the six smallest go, equal ones from the front
    assert new.tolist() == [[5, 5, 5, 40], [5, 5, 5, 80], [1, 1, 1, 1]]
