"""Which tensors of a checkpoint are which constants of a model: by their values, axes in any order."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph.graph import Graph
from onnxprune.model.model import Model
from onnxprune.planning.checkpoints.cuts import TensorMap

Array = NDArray[Any]


def found_by_values(model: Model, constants: Collection[str], tensors: Mapping[str, Array]) -> TensorMap:
    """Maps tensors that have the values of exactly one constant, as they are or with their axes in another order.

    Args:
        model: The model that the checkpoint was exported to.
        constants: Names of constants to look for.
        tensors: The tensors of the checkpoint.
    """
    found: dict[str, list[tuple[str, int] | None]] = {}
    for value in Graph(model.proto).constants():
        if value.key in constants and value.key not in tensors and value.tensor is not None:
            array = model.array(value.tensor)
            alike = [(name, order) for name, t in tensors.items() if (order := _order(array, t)) is not None]
            if len(alike) == 1:
                name, order = alike[0]
                found[name] = [(value.key, axis) for axis in order]
    return TensorMap(found)


def _order(constant: Array, tensor: Array) -> tuple[int, ...] | None:
    """The axes of a constant in the order of a tensor of the same values; None where it has others."""
    if sorted(constant.shape) != sorted(tensor.shape) or constant.size < 2:
        return None
    for order in itertools.permutations(range(constant.ndim)):
        turned = constant.transpose(order)
        if turned.shape == tensor.shape and np.array_equal(turned, tensor):
            return order
    return None
