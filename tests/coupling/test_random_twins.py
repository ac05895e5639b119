"""Random graphs with a free batch have the groups of their static twins, and are pruned exactly at any batch."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxprune.coupling.coupling import analyze
from onnxprune.graph.graph import Graph
from tests.coupling.test_dynamic_twins import groups
from tests.support.folded_nodes import FOLDED_STEPS
from tests.support.graph_builder import Seeded
from tests.support.oracle import prune_and_mask, run_original, session
from tests.support.random_graphs import random_model

WEIGHTED = {f"{name} {i}": step for i in range(4) for name, step in FOLDED_STEPS.items()}
IN_BATCH = {name: step for name, step in WEIGHTED.items() if not name.startswith("frames")}
BATCHES = (2, 4, 6)
FIXED = 7


def static(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """The twin with a fixed batch."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    for info in [*twin.graph.input, *twin.graph.output]:
        info.type.tensor_type.shape.dim[0].dim_value = batch
    return twin


def feeds_of(model: onnx.ModelProto, batch: int) -> dict[str, np.ndarray]:
    """Random inputs."""
    rng = np.random.default_rng(batch)
    return {
        i.name: rng.standard_normal([batch, *(d.dim_value for d in i.type.tensor_type.shape.dim[1:])]).astype(
            np.float32
        )
        for i in model.graph.input
    }


AT_ONCE = 20
SEEDS = [0, *(pytest.param(s, marks=pytest.mark.slow) for s in range(AT_ONCE, 400, AT_ONCE))]


@pytest.mark.slow
@pytest.mark.parametrize("start", SEEDS)
def test_a_free_batch_costs_nothing(start: int) -> None:
    compared = 0
    for seed in range(start, start + AT_ONCE):
        print(f"seed {seed}")  # shown when the assertion fails
        model = random_model(Seeded(seed), steps=14, more=IN_BATCH, rows=False)
        fixed = analyze(Graph(static(model, FIXED)))
        taken = [choice.taken.name for choice in fixed.ties.choices if choice.taken is not None]
        if f"along {FIXED}" in taken:
            continue  # a fixed batch is a number, which a reshape may be cut by, too
        free, still = ([g for g in groups(m) if g[1] == "exact"] for m in (model, static(model, FIXED)))
        assert free == still
        compared += 1
    assert compared > AT_ONCE / 2


@pytest.mark.slow
@pytest.mark.parametrize("start", SEEDS)
def test_what_goes_is_right_at_every_batch(start: int) -> None:
    pruned_models = 0
    for seed in range(start, start + AT_ONCE):
        print(f"seed {seed}")
        model = random_model(Seeded(seed), steps=14, more=WEIGHTED)
        pruned, masked, count = prune_and_mask(model, 0.5, seed)
        runs = None
        for batch in BATCHES:
            feeds = feeds_of(model, batch)
            try:
                before = run_original(masked, feeds)
            except Exception:  # a batch or size that the original does not take
                continue
            if not all(np.isfinite(y).all() and np.abs(y).max(initial=0) < 1e6 for y in before):
                continue
            runs = runs or session(pruned)
            for a, b in zip(before, runs.run(None, feeds), strict=True):
                assert a.shape == b.shape
                scale = max(float(np.sqrt(np.mean(np.square(a, dtype=np.float64)))), 1e-6)
                assert float(np.sqrt(np.mean(np.square(a.astype(np.float64) - b)))) < 1e-4 * scale
            pruned_models += count > 0
    assert pruned_models > 10  # the property must not hold for lack of anything removed
