"""Removal equals masking, on random graphs out of the supported operators."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.graph_builder import Seeded
from tests.support.lanes import spread
from tests.support.oracle import assert_equivalent, run_original
from tests.support.random_graphs import random_model

T = TypeVar("T")
EXAMPLES = int(os.environ.get("ONNXPRUNE_EXAMPLES", "60"))


class Drawn:
    """Decisions that hypothesis makes, and shrinks."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def integer(self, low: int, high: int) -> int:
        return self._data.draw(st.integers(low, high))

    def pick(self, options: Sequence[T]) -> T:
        return options[self.integer(0, len(options) - 1)]


def feeds_of(model: onnx.ModelProto, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        i.name: rng.standard_normal([1, *[d.dim_value for d in i.type.tensor_type.shape.dim[1:]]]).astype(np.float32)
        for i in model.graph.input
    }


def finite(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> bool:
    return all(np.isfinite(y).all() and np.abs(y).max(initial=0) < 1e6 for y in run_original(model, feeds))


@pytest.mark.slow
@settings(
    max_examples=EXAMPLES,
    print_blob=True,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
@given(st.data())
def test_removal_equals_masking(data: st.DataObject) -> None:
    model = random_model(Drawn(data), steps=10)
    feeds = feeds_of(model, 0)
    if finite(model, feeds):
        assert_equivalent(model, feeds, ratio=data.draw(st.sampled_from([0.25, 0.5, 0.75])), seed=1)


AT_ONCE = 10


@pytest.mark.slow
@pytest.mark.parametrize("start", spread(range(0, 200, AT_ONCE), 20))
def test_removal_equals_masking_on_seeded_graphs(start: int) -> None:
    pruned = 0
    for seed in range(start, start + AT_ONCE):
        model = random_model(Seeded(seed), steps=14)
        feeds = feeds_of(model, seed)
        if finite(model, feeds):
            print(f"seed {seed}")  # shown when the assertion fails
            pruned += assert_equivalent(model, feeds, 0.5, seed) > 0
    assert pruned > AT_ONCE * 0.4  # the property must not hold for lack of anything removed
