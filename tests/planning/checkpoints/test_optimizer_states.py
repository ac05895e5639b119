"""States of PyTorch's optimizers: whose they are, where they have no names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxprune.errors import InputError
from onnxprune.planning.checkpoints.cuts import Cut
from onnxprune.planning.checkpoints.optimizer_states import numbered

SHAPES = {"a.weight": (8, 3), "a.bias": (8,), "b.weight": (8, 8), "b.bias": (8,), "mask": (4, 4), "c.weight": (8, 8)}
PARAMETERS = {name: np.zeros(shape) for name, shape in SHAPES.items()}


def cut(*kept: int) -> Cut:
    return Cut({0: np.array(kept)})


CUTS = {"a.weight": cut(0, 2), "a.bias": cut(0, 2), "b.weight": cut(1, 5), "b.bias": cut(1, 5)}


def optimizer(*groups: list[str]) -> dict[str, Any]:
    """One whose groups have these parameters, numbered in their order."""
    names = [name for group in groups for name in group]
    state = {i: {"step": np.zeros(()), "exp_avg": np.zeros(SHAPES[name])} for i, name in enumerate(names)}
    numbers = iter(range(len(names)))
    return {"state": state, "param_groups": [{"params": [next(numbers) for _ in group]} for group in groups]}


@pytest.mark.parametrize(
    "groups",
    [
        [["a.weight", "a.bias", "b.weight", "b.bias", "c.weight"]],
        [["a.weight", "b.weight", "c.weight"], ["a.bias", "b.bias"]],
        [["b.weight", "c.weight"], ["a.weight"], ["a.bias", "b.bias"]],
    ],
)
def test_groups_have_the_order_of_the_file(groups: list[list[str]]) -> None:
    """With other tensors in between: buffers, and those of other groups."""
    names = [name for group in groups for name in group]
    assert numbered(optimizer(*groups), CUTS, PARAMETERS) == {i: n for i, n in enumerate(names) if n in CUTS}


@pytest.mark.parametrize("groups", [[["b.bias"]], [["a.weight", "c.weight"], ["a.bias"]], [["a.bias", "a.weight"]]])
def test_what_the_order_does_not_tell_is_refused(groups: list[list[str]]) -> None:
    """Layers of the same shape, of which only some are trained."""
    with pytest.raises(InputError, match="in an order that tells them apart"):
        numbered(optimizer(*groups), CUTS, PARAMETERS)


def test_it_does_not_matter_which_one_it_is_where_both_are_cut_alike() -> None:
    assert numbered(optimizer(["b.bias"]), {"b.bias": cut(1), "a.bias": cut(1)}, PARAMETERS) == {0: "a.bias"}


def test_names_are_numbers_too() -> None:
    """As `torch.distributed.checkpoint` stores them."""
    by_name = {"state": {"b.weight": {"exp_avg": np.zeros((8, 8))}}, "param_groups": [{"params": ["b.weight"]}]}
    assert numbered(by_name, CUTS, PARAMETERS) == {"b.weight": "b.weight"}


def test_states_of_other_shapes_are_refused() -> None:
    made = optimizer(list(SHAPES))
    made["state"][0]["row"] = np.zeros((8, 1))
    with pytest.raises(InputError, match=r"a state of the optimizer for 'a.weight' has not its shape"):
        numbered(made, CUTS, PARAMETERS)
