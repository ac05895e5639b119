"""Channels in another order: no output changes, and what must keep its order keeps it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune.coupling.coupling import Coupling, analyze
from onnxprune.coupling.groups import Grade
from onnxprune.edit.permute import (
    axis_order,
    constant_orders,
    identity_source,
    permutable_units,
    permute_original,
    reorder_constants,
    set_order,
)
from onnxprune.edit.remove import remove
from onnxprune.graph.graph import Graph
from onnxprune.model.model import Model, load
from onnxprune.pipeline.rounds import channel_correspondence
from onnxprune.runtime.sample_inputs import sample_inputs
from tests.ops.case import build, coupling_of
from tests.support.graph_builder import Seeded
from tests.support.oracle import assert_order_is_free, draw_removal, reordered
from tests.support.paths import MODELS
from tests.support.random_graphs import random_model
from tests.test_equivalence import feeds_of, finite

PATHS = sorted(MODELS.glob("*.onnx"))


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_permuted_trained_models_are_equivalent(path: Path) -> None:
    model = onnx.load(path)
    assert assert_order_is_free(model, sample_inputs(model)) > 16


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 60, 20))
def test_permuted_random_graphs_are_equivalent(start: int) -> None:
    moved = 0
    for seed in range(start, start + 20):
        model = random_model(Seeded(seed), steps=14)
        feeds = feeds_of(model, seed)
        if finite(model, feeds):
            print(f"seed {seed}")  # shown when the assertion fails
            moved += assert_order_is_free(model, feeds, seed) > 0
    assert moved > 8


def units(coupling: Coupling) -> dict[str, int]:
    return {m.group.name: m.units for m in permutable_units(coupling)}


CHAIN = """(float[N,3,4,4] x) => (float[N,2,4,4] y) <float[6,3,1,1] w, float[6] b, float[2,6,1,1] u{more}>
    {{ h = Conv(x, w, b)  {between}  y = Conv(g, u) }}"""


@pytest.mark.parametrize(
    ("between", "more", "free"),
    [
        ("g = Relu(h)", "", True),
        ("g = Softmax <axis = 1> (h)", "", True),
        ("g = LRN <size = 3> (h)", "", False),
        ("a = Constant <value = int64 {1}> ()  g = CumSum(h, a)", "", False),
        ("m = ReduceMean <axes = [1]> (h)  g = Sub(h, m)", "", True),
    ],
)
def test_units_are_permuted_only_if_the_order_does_not_matter(between: str, more: str, free: bool) -> None:
    model = build(CHAIN.format(between=between, more=more))
    assert units(coupling_of(model, mixing=True)) == ({"w:0": 6} if free else {})


def test_inputs_and_outputs_keep_their_order() -> None:
    """Even if they may lose slices, and are thus not pinned."""
    model = build(
        "(float[N,6] x) => (float[N,6] y) <float[6,6] w, float[6,6] u> { h = MatMul(x, w)  y = MatMul(h, u) }"
    )
    coupling = analyze(Graph(load(model).proto), shrinking=["x", "y"])
    assert all(g.grade == Grade.EXACT for g in coupling.groups)
    assert units(coupling) == {"w:1": 6}


def test_tables_of_indices_keep_their_order() -> None:
    """Indices are renumbered on removal but not on permutation, so units that a table indexes are not permuted."""
    model = build(
        """(float[N,4] x) => (float[N,2] y) <float[4,6] w, int64[1,6] i = {5, 4, 3, 2, 1, 0}, float[6,2] u>
        { h = MatMul(x, w)  g = Gather <axis = 1> (h, i)  f = Squeeze <axes = [1]> (g)  y = MatMul(f, u) }""",
        opset=11,
    )
    assert units(coupling_of(model)) == {}


def test_a_shared_constant_is_duplicated() -> None:
    """A bias shared by two layers is copied for the one whose channels are permuted."""
    model = build("""(float[N,3] x) => (float[N,4] y) <float[3,4] v, float[3,4] w, float[4] b, float[4,4] u>
        { h = Gemm(x, v, b)  a = MatMul(x, w)  s = Add(a, b)  t = MatMul(s, u)  y = Add(h, t) }""")
    copy = load(model)
    coupling = analyze(Graph(copy.proto))
    assert units(coupling) == {"w:1": 4}
    source = identity_source(coupling)
    set_order(coupling, source, permutable_units(coupling)[0], np.array([3, 2, 1, 0]))
    entries = constant_orders(coupling, source)
    assert {(s.key, s.original): s.change for s in entries} == {
        ("w", "w"): {1: (3, 2, 1, 0)},
        ("u", "u"): {0: (3, 2, 1, 0)},
        ("b_1", "b"): {0: (3, 2, 1, 0)},
    }
    reorder_constants(copy, coupling.graph, entries)
    assert {t.name for t in copy.proto.graph.initializer} == {"v", "w", "b", "u", "b_1"}


def test_constants_follow_the_order_of_elements() -> None:
    model = build(CHAIN.format(between="g = Relu(h)", more=""))
    moved, _ = reordered(model, 5)
    old, new = ({t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer} for m in (model, moved))
    order = [int(np.flatnonzero(old["b"] == x)[0]) for x in new["b"]]
    assert order != list(range(6))
    np.testing.assert_array_equal(new["w"], old["w"][order])
    np.testing.assert_array_equal(new["u"], old["u"][:, order])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pt_resnet_bn", "pt_mobilenet", "pt_bilstm", "pt_transformer"])
def test_permutation_and_removal_commute(name: str) -> None:
    """Permuting the original like the pruned model and then removing gives the pruned model."""
    path = MODELS / f"{name}.onnx"
    pruned, first = load(path), load(path)
    before, again = analyze(Graph(pruned.proto)), analyze(Graph(first.proto))
    gone = draw_removal(before, 0.4, 0)
    remove(pruned, before, gone)
    after = analyze(Graph(pruned.proto))
    origin, rng, source = channel_correspondence(again, gone, after), np.random.default_rng(0), identity_source(after)
    moves = [(m, rng.permutation(m.units)) for m in permutable_units(after)]
    assert moves
    for m, order in moves:
        set_order(after, source, m, order)
    reorder_constants(pruned, after.graph, constant_orders(after, source))
    permute_original(first, again, origin, moves)
    remove(first, analyze(Graph(first.proto)), gone)
    assert contents(first) == contents(pruned)


def contents(model: Model) -> dict[str, bytes]:
    return {t.name: onnx.numpy_helper.to_array(t).tobytes() for t in model.proto.graph.initializer}


def test_other_axes_keep_their_order() -> None:
    coupling = coupling_of(build(CHAIN.format(between="g = Relu(h)", more="")))
    weight = next(v for v in coupling.graph.constants() if v.key == "w")
    source = identity_source(coupling)
    set_order(coupling, source, permutable_units(coupling)[0], np.array([1, 0, 2, 3, 4, 5]))
    assert axis_order(coupling, source, weight.axis(0)).tolist() == [1, 0, 2, 3, 4, 5]
    assert axis_order(coupling, source, weight.axis(1)).tolist() == [0, 1, 2]
