"""What is predicted of every cost is what is counted once the channels are removed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxprune.cost.cost_model import macs, nbytes, parameters
from onnxprune.cost.measure import measure
from onnxprune.coupling.coupling import analyze
from onnxprune.coupling.groups import Grade
from onnxprune.edit.remove import remove
from onnxprune.graph.graph import Graph
from onnxprune.model.model import load
from onnxprune.model.tensors import WEIGHT_TYPES
from tests.ops import case as rows
from tests.support.graph_builder import Seeded
from tests.support.lanes import spread
from tests.support.random_graphs import random_model

ADDED = 400
"""Bytes by which a saved model may be smaller than predicted, for each node or tensor that removal may add."""


def predict_and_count(proto: onnx.ModelProto, seed: int) -> None:
    """Removes random units of all exact and mixing groups; each cost must be the predicted one."""
    model = load(proto)
    before = measure(model, run=True)
    coupling = analyze(Graph(model.proto), mixing=True)
    groups = [g for g in coupling.groups if g.grade != Grade.PINNED]
    rng = np.random.default_rng(seed)
    removed = np.array([rng.integers(0, g.units) for g in groups], dtype=np.int64)
    models = {"params": parameters(coupling, groups), "bytes": nbytes(coupling, groups, before.bytes)}
    if before.macs is not None:
        models["macs"] = macs(coupling, groups, before.shapes)
    nothing = np.zeros(len(groups), dtype=np.int64)
    assert models["params"].left(nothing) == before.params
    assert models["bytes"].left(nothing) == before.bytes
    assert before.macs is None or models["macs"].left(nothing) == before.macs
    gone = np.zeros(coupling.classes.elements, dtype=bool)
    for group, count in zip(groups, removed, strict=True):
        gone[rng.choice(group.channels, count, replace=False)] = True
    for g, group in enumerate(groups):  # what one more unit saves is the difference of what is left
        if removed[g] + 1 < group.units:
            further = removed.copy()
            further[g] += 1
            for cost in models.values():
                assert cost.saving(removed, g, 1) == pytest.approx(cost.left(removed) - cost.left(further), abs=1e-6)
    left = {name: cost.left(removed) for name, cost in models.items()}
    count = (
        len(coupling.ties.resizes)
        + len(coupling.ties.means)
        + len(coupling.ties.refills)
        + len(coupling.constant_cuts)
        + sum(1 for _ in coupling.graph.constants())
    )
    indices = sum(v.tensor.ByteSize() for v in coupling.graph.constants() if v.elem_type not in WEIGHT_TYPES)
    remove(model, coupling, gone)
    after = measure(model, run=True)
    assert left["params"] == after.params
    assert before.macs is None or left["macs"] == after.macs
    # What removal adds is bounded only, and positions that get shorter are not followed.
    assert after.bytes - ADDED <= left["bytes"] <= after.bytes + ADDED * count + indices


@pytest.mark.parametrize("row", spread(rows.every_row(), 15), ids=lambda r: r.name)
def test_costs_of_operators_are_predicted(row: rows.Case) -> None:
    predict_and_count(row.model(), 0)


@pytest.mark.parametrize("seed", spread(range(60)))
def test_costs_of_random_graphs_are_predicted(seed: int) -> None:
    predict_and_count(random_model(Seeded(seed)), seed)
