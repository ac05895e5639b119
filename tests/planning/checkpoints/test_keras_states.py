"""States of the optimizer in files of Keras, which has no names for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxprune.planning.checkpoints.cuts import Cut
from onnxprune.planning.checkpoints.keras_optimizer import state_cuts

LAYERS = [("Conv2D", "a"), ("BatchNormalization", "b"), ("Dense", "c"), ("Dense", "d")]
CONFIG = {"layers": [{"class_name": kind, "config": {"name": name}} for kind, name in LAYERS]}
WEIGHTS = {
    "layers/dense/vars/0": (8, 5),
    "layers/dense/vars/1": (5,),
    "layers/dense_1/vars/0": (5, 2),
    "layers/conv2d/vars/0": (3, 3, 3, 8),
    **{f"layers/batch_normalization/vars/{i}": (8,) for i in range(4)},
}
TRAINED = ["conv2d/vars/0", "batch_normalization/vars/0", "batch_normalization/vars/1"]
TRAINED += ["dense/vars/0", "dense/vars/1", "dense_1/vars/0"]
CUTS = {
    "layers/conv2d/vars/0": Cut({3: np.arange(4)}),
    **{f"layers/batch_normalization/vars/{i}": Cut({0: np.arange(4)}) for i in range(4)},
    "layers/dense/vars/0": Cut({0: np.arange(4)}),
}


def arrays(states: list[tuple[int, ...]]) -> dict[str, Any]:
    shapes = {**WEIGHTS, **{f"optimizer/vars/{i}": shape for i, shape in enumerate([(), (), *states])}}
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("each", [1, 2, 3])
def test_states_are_in_the_order_of_the_layers(each: int) -> None:
    """All of a variable together; means and variances have none, and layers are not in the order of their names."""
    names = [f"layers/{name}" for name in TRAINED for _ in range(each)]
    found = state_cuts(CONFIG, arrays([WEIGHTS[name] for name in names]), CUTS)
    assert found is not None
    wanted = {f"optimizer/vars/{i + 2}": CUTS[name] for i, name in enumerate(names) if name in CUTS}
    assert found.keys() == wanted.keys() and all(found[n].same_as(wanted[n]) for n in wanted)


def test_states_that_nothing_tells_apart() -> None:
    states = [WEIGHTS[f"layers/{name}"] for name in TRAINED]
    assert state_cuts(None, arrays(states), CUTS) is None  # a file of weights alone
    assert state_cuts(CONFIG, arrays([*states, *states]), CUTS) is None  # averages of all, and then moments of all
    assert state_cuts(CONFIG, arrays([]), CUTS) == {} == state_cuts(None, arrays(states), {})


def test_parts_of_attention_are_not_in_the_order_of_their_names() -> None:
    parts = ("query", "key", "value", "output")
    shapes = {f"layers/multi_head_attention/{part}_dense/vars/0": (6, 2, 3) for part in sorted(parts)}
    stored = {**shapes, **{f"optimizer/vars/{i}": (6, 2, 3) for i in range(4)}}
    config = {"layers": [{"class_name": "MultiHeadAttention", "config": {}}]}
    cuts = {f"layers/multi_head_attention/{part}_dense/vars/0": Cut({0: np.arange(i)}) for i, part in enumerate(parts)}
    found = state_cuts(config, {name: np.zeros(shape, np.float32) for name, shape in stored.items()}, cuts)
    assert found is not None and [len(found[f"optimizer/vars/{i}"].kept[0]) for i in range(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("weight", "state"),
    [
        ("model_weights/dense_1/dense_1/kernel", "optimizer_weights/adam/dense_1_kernel_momentum"),
        ("model_weights/dense_1/dense_1/kernel:0", "optimizer_weights/training/Adam/dense_1/kernel/m:0"),
    ],
)
def test_old_files_name_them(weight: str, state: str) -> None:
    stored = {weight: np.zeros((4, 8)), weight.replace("_1", ""): np.zeros((4, 8)), state: np.zeros((4, 8))}
    cuts = {weight: Cut({1: np.arange(5)}), weight.replace("_1", ""): Cut({1: np.arange(3)})}
    assert state_cuts(None, stored, cuts) == {state: cuts[weight]}
    assert state_cuts(None, {**stored, "optimizer_weights/other": np.zeros(3)}, cuts) is None
