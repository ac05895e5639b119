"""The search for an order of columns: what it finds is an order, keeps more, and is the best where all can be tried."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxprune.graph.operators import WeightLayout
from onnxprune.sparsity.permutation_search import Stripes, search
from onnxprune.sparsity.stripes import ReadingWeight, gather
from tests.support.paths import MODELS
from tests.support.stripe_groups import SHARINGS, kept, stripe_groups

Values = NDArray[np.float32]


def drawn(columns: int, rows: int, seed: int) -> Values:
    rng = np.random.default_rng(seed)
    scales = rng.lognormal(size=(columns, 1)) * rng.lognormal(size=(1, rows))
    return np.abs(rng.standard_normal((columns, rows)) * scales).astype(np.float32)


def stripes(values: Values, m: int) -> Stripes:
    """All columns in their order, m by m."""
    slots = np.full(-(-len(values) // m) * m, -1)
    slots[: len(values)] = np.arange(len(values))
    return Stripes(values, slots.reshape(-1, m))


def found(values: Values, n: int = 2, m: int = 4, seed: int = 0, work: float = 1e8) -> NDArray[np.int64]:
    return search([stripes(values, m)], n, np.random.default_rng(seed), work)


@pytest.mark.slow
@settings(max_examples=50)
@given(st.integers(1, 8), st.integers(1, 7), st.integers(1, 30), st.integers(1, 20), st.integers(0, 9))
def test_the_order_keeps_at_least_as_much(n: int, more: int, columns: int, rows: int, seed: int) -> None:
    """For every N:M, with and without a tail."""
    values = drawn(columns, rows, seed)
    order = found(values, n, n + more, work=1e7)
    assert sorted(order) == list(range(columns))
    before = kept(values, np.arange(columns), n, n + more)
    assert kept(values, order, n, n + more) >= before * (1 - 1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_two_stripes_are_optimal(seed: int) -> None:
    values = drawn(8, 12, seed)
    best = max(kept(values, sharing) for sharing in SHARINGS)
    assert kept(values, found(values)) == pytest.approx(best, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "m", "columns"), [(1, 2, 6), (1, 4, 8), (3, 4, 8), (2, 4, 6), (2, 3, 6), (4, 8, 9)])
def test_few_columns_are_optimal(n: int, m: int, columns: int) -> None:
    """Compared with all divisions of the columns into stripes."""
    for seed in range(4):
        values = drawn(columns, 9, seed)
        best = 0.0
        for first in combinations(range(columns), min(m, columns)):
            rest = [i for i in range(columns) if i not in first]
            for second in combinations(rest, min(m, len(rest))):
                order = [*first, *second, *(i for i in rest if i not in second)]
                best = max(best, kept(values, np.array(order), n, m))
        assert kept(values, found(values, n, m), n, m) == pytest.approx(best, rel=1e-6)


def test_a_tail_takes_the_columns_that_would_lose_most() -> None:
    """Two columns in a tail lose nothing under 2:4."""
    values = np.ones((6, 5), np.float32)
    values[[1, 4]] = 9
    values[0] = 8
    order = found(values)
    assert kept(values, order) == 5 * (9 + 9 + 8 + 1)


@pytest.mark.slow
def test_the_same_seed_finds_the_same() -> None:
    values = drawn(32, 40, 0)
    assert found(values, seed=3).tolist() == found(values, seed=3).tolist()


def test_columns_that_are_not_permuted_count() -> None:
    """A stripe that is half filled with large fixed columns is not given further large ones."""
    values = np.array([[5], [5], [1], [1]], np.float32)
    slots = np.array([[0, 1, -1, -1], [2, 3, -1, -1]])
    fixed = np.zeros((2, 4, 1), np.float32)
    fixed[0, 2:] = 9
    order = search([Stripes(values, slots, fixed)], 2, np.random.default_rng(0), 1e7)
    assert set(order[2:]) == {0, 1}


@pytest.mark.slow
def test_parts_count_together() -> None:
    """For two weights with different stripes, the best order for their sum is found."""
    one, other = drawn(6, 4, 1), drawn(6, 7, 2)
    parts = [
        Stripes(one, np.array([[0, 1, 2, 3], [4, 5, -1, -1]])),
        Stripes(other, np.array([[-1, -1, 0, 1], [2, 3, 4, 5]])),
    ]

    def both(order: NDArray[np.int64]) -> float:
        return sum(float(np.sort(p.contents(np.arange(2), order), axis=1)[:, -2:].sum(dtype=np.float64)) for p in parts)

    best = max(both(np.array(order)) for order in permutations(range(6)))
    assert both(search(parts, 2, np.random.default_rng(0), 1e8)) == pytest.approx(best, rel=1e-6)


def trained() -> dict[str, Values]:
    """Weights of the project's own models, input by input."""
    matrices = {}
    for file in ("pt_resnet_bn", "pt_transformer", "sk_mlp"):
        for tensor in onnx.load(MODELS / f"{file}.onnx").graph.initializer:
            weight = np.abs(numpy_helper.to_array(tensor))
            axis = 1 if weight.ndim == 4 else 0
            if (
                weight.dtype == np.float32
                and weight.ndim in (2, 4)
                and weight.shape[axis] % 4 == 0
                and 16 <= weight.shape[axis] <= 64
            ):
                matrices[f"{file}:{tensor.name}"] = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    return matrices


@pytest.mark.slow
def test_no_worse_than_pairs_of_stripes() -> None:
    """In total over trained weights, at least as much is kept as by exhaustive search over pairs of stripes."""
    ours, theirs, plain = 0.0, 0.0, 0.0
    matrices = sorted(trained().items())[::2]
    assert len(matrices) >= 4
    for _, values in matrices:
        part = values[:, :128]
        whole = float(part.sum(dtype=np.float64))
        plain += kept(part, np.arange(len(part))) / whole
        ours += kept(part, found(part, work=5e8)) / whole
        theirs += kept(part, stripe_groups(part, escapes=10)) / whole
    assert plain < theirs <= ours * (1 + 1e-6)


def test_units_with_several_indices() -> None:
    """A unit with one index in each of several blocks contributes rows for each of them."""
    weight = drawn(8, 3, 0).T  # 3 outputs of 2 blocks of 4
    (part,) = gather(
        [ReadingWeight(weight, WeightLayout(1, 0), np.arange(8).reshape(2, 4).T)], 4, 1.0, np.random.default_rng(0)
    )
    assert part.slots.tolist() == [[0, 1, 2, 3]]
    np.testing.assert_array_equal(part.values, np.concatenate([weight[:, :4], weight[:, 4:]]).T)


def test_consecutive_indices_of_one_unit_are_skipped() -> None:
    """Units of 4 consecutive indices fill whole stripes in any order."""
    weight = drawn(8, 3, 0).T
    assert not gather(
        [ReadingWeight(weight, WeightLayout(1, 0), np.arange(8).reshape(2, 4))], 4, 1.0, np.random.default_rng(0)
    )


def test_columns_of_other_units_are_fixed() -> None:
    """Units in the middle of an axis share stripes with other columns."""
    weight = drawn(8, 3, 0).T
    (part,) = gather(
        [ReadingWeight(weight, WeightLayout(1, 0), np.array([[3], [4]]))], 4, 1.0, np.random.default_rng(0)
    )
    assert part.slots.tolist() == [[-1, -1, -1, 0], [1, -1, -1, -1]]
    assert part.fixed is not None
    np.testing.assert_array_equal(part.fixed[0, :3], weight[:, :3].T)
    np.testing.assert_array_equal(part.fixed[1, 1:], weight[:, 5:].T)
    assert not part.fixed[0, 3].any()
