"""Query heads of grouped attention: as many go of each key head, and caches keep their interface."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import onnxprune
from onnxprune import testing
from tests.support.oracle import session
from tools.decoder_graph import Shape, decoder, feeds, random_weights

HEADS = r"^layers\.\d\.(q|qkv)\.weight:1"
IDS = np.random.default_rng(3).integers(0, 32, (1, 7))


def run(model: onnx.ModelProto, parts: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
    """Logits of a text that is given in parts, with caches between them; shape (batch, length, vocabulary)."""
    runner, caches, logits = session(model), dict[str, NDArray[np.float32]](), []
    names = [v.name for v in model.graph.output]
    for ids in parts:
        caches = dict(zip(names, runner.run(None, feeds(model, ids, caches)), strict=True))
        logits.append(caches["logits"])
    return np.concatenate(logits, axis=1)


def heads_of(model: onnx.ModelProto) -> list[tuple[int, int]]:
    """Heads of queries and of keys that each fused attention has."""
    fused = [n for n in model.graph.node if n.op_type == "GroupQueryAttention"]
    found = [{a.name: a.i for a in n.attribute} for n in fused]
    return [(a["num_heads"], a["kv_num_heads"]) for a in found]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["raw", "fused", "packed"])
@pytest.mark.parametrize(("heads", "keys"), [(8, 2), (4, 1), (6, 2)])
def test_as_many_queries_of_each_key_go(kind: str, heads: int, keys: int) -> None:
    """Equivalent to the masked original; steps with caches make what the whole text does."""
    shape = Shape(heads=heads, keys=keys)
    model = decoder(shape, random_weights(shape), kind)
    result = onnxprune.prune(model, 0.5, only=HEADS, repair="none", time=False)
    pruned, left = result.model, heads // keys - heads // keys // 2
    testing.assert_equivalent(model, result)
    dims = {t.name: list(t.dims) for t in pruned.graph.initializer}
    assert dims["layers.1.o.weight"] == [keys * left * shape.size, shape.width]
    assert kind == "raw" or heads_of(pruned) == [(keys * left, keys)] * 2
    assert list(pruned.graph.input) == list(model.graph.input)
    whole, steps = run(pruned, [IDS]), run(pruned, [IDS[:, :4], IDS[:, 4:5], IDS[:, 5:]])
    np.testing.assert_allclose(steps, whole, atol=2e-5)


@pytest.mark.slow
def test_where_caches_may_shrink_key_heads_go_with_their_queries() -> None:
    shape = Shape(heads=6, keys=3)
    model = decoder(shape, random_weights(shape), "fused")
    result = onnxprune.prune(
        model, 0.34, only=HEADS, shrink=["past", "present"], repair="none", time=False
    )
    testing.assert_equivalent(model, result)
    assert heads_of(result.model) == [(4, 2)] * 2
    whole, steps = run(result.model, [IDS]), run(result.model, [IDS[:, :1], IDS[:, 1:]])
    np.testing.assert_allclose(steps, whole, atol=2e-5)
