"""Widths in the configuration of a Keras model follow its weights, whatever the layers are called."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxprune.planning.checkpoints.cuts import Cut
from onnxprune.planning.checkpoints.keras_files import _configuration, _resized


def layer(kind: str, name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": name, **config}}


def kept(axis: int, count: int) -> Cut:
    return Cut({axis: np.arange(count)})


def resized(layers: list[Any], cuts: dict[str, tuple[tuple[int, ...], Cut]]) -> list[dict[str, Any]]:
    arrays = {name: np.zeros(shape, np.float32) for name, (shape, _) in cuts.items()}
    config = {"class_name": "Sequential", "config": {"name": "net", "layers": layers}}
    found = _resized(config, arrays, {name: cut for name, (_, cut) in cuts.items()})
    return [one["config"] for one in found["config"]["layers"]]


def test_layers_are_counted_by_their_class() -> None:
    """Their names come from the session that made them, or from the user."""
    layers = [layer("Dense", "dense_1", units=8), layer("Dense", "dense_2", units=8), layer("Dense", "head", units=3)]
    cuts = {"layers/dense/vars/0": ((4, 8), kept(1, 5)), "layers/dense_1/vars/0": ((8, 8), kept(0, 5))}
    assert [one["units"] for one in resized(layers, cuts)] == [5, 8, 3]


@pytest.mark.parametrize(
    ("kind", "path", "key", "shape", "axis", "left"),
    [
        ("LSTM", "lstm/cell", "units", (4, 32), 1, 20),
        ("GRU", "gru/cell", "units", (4, 24), 1, 15),
        ("Embedding", "embedding", "output_dim", (30, 8), 1, 5),
        ("Conv2DTranspose", "conv2d_transpose", "filters", (3, 3, 8, 6), 2, 5),
    ],
)
def test_kinds_of_layers(kind: str, path: str, key: str, shape: tuple[int, ...], axis: int, left: int) -> None:
    cuts = {f"layers/{path}/vars/0": (shape, kept(axis, left))}
    assert resized([layer(kind, "one", **{key: 8})], cuts)[0][key] == 5


def test_inputs_of_a_transposed_convolution_are_no_filters() -> None:
    cuts = {"layers/conv2d_transpose/vars/0": ((3, 3, 8, 8), kept(3, 6))}
    assert resized([layer("Conv2DTranspose", "up", filters=8)], cuts)[0]["filters"] == 8


def test_models_inside_models_and_files_of_old_versions() -> None:
    inner = {"class_name": "Functional", "config": {"name": "f", "layers": [layer("Dense", "d", units=8)]}}
    made = resized([inner], {"layers/functional/layers/dense/vars/0": ((4, 8), kept(1, 5))})
    assert made[0]["layers"][0]["config"]["units"] == 5
    cuts = {"model_weights/head/head/kernel:0": ((4, 8), kept(1, 5))}
    assert resized([layer("Dense", "head", units=8)], cuts)[0]["units"] == 5


@pytest.mark.parametrize(
    ("kind", "path", "query", "width"),
    [
        ("MultiHeadAttention", "multi_head_attention/query_dense", "num_heads", "key_dim"),
        ("GroupQueryAttention", "grouped_query_attention/_query_dense", "num_query_heads", "head_dim"),
    ],
)
def test_heads_of_attention(kind: str, path: str, query: str, width: str) -> None:
    """A smaller width of the heads is another scale, which is said."""
    layers = [layer(kind, "mine", **{query: 4, width: 6})]
    config = {"class_name": "Sequential", "config": {"name": "net", "layers": layers}}
    arrays = {f"layers/{path}/vars/0": np.zeros((8, 4, 6)), f"layers/{path}/vars/1": np.zeros((4, 6))}
    for cut, left, warned in (({1: 3}, [3, 6], 0), ({1: 3, 2: 5}, [3, 5], 1)):
        cuts = {f"layers/{path}/vars/0": Cut({axis: np.arange(n) for axis, n in cut.items()})}
        made, warnings = _configuration(config, arrays, cuts)
        found = made["config"]["layers"][0]["config"]
        assert [found[query], found[width]] == left and len(warnings) == warned
    assert warnings[0].startswith("layer 'mine' divides by the root of a smaller width")
