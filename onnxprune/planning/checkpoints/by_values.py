"""Which tensors of a checkpoint are which constants of a model: by their values, axes in any order."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph.graph import Graph
from onnxprune.model.model import Model
from onnxprune.planning.checkpoints.arrays import storage
from onnxprune.planning.checkpoints.cuts import Axes

Array = NDArray[Any]


def found_by_values(
    model: Model, constants: Collection[str], tensors: Mapping[str, Array]
) -> dict[str, tuple[str, Axes]]:
    """Constants that exactly one tensor has the values of, as they are or with their axes in another order.

    Axes of length 1 count for nothing: a scale of channels may have some behind it. A tensor that is stored once under
    several names is one.

    Args:
        model: The model that the checkpoint was exported to.
        constants: Names of constants to look for.
        tensors: The tensors of the checkpoint.

    Returns:
        The tensor of each constant, and for each of its axes the axis of the constant whose indices it has.
    """
    once = {storage(tensor): name for name, tensor in reversed(list(tensors.items()))}
    found: dict[str, tuple[str, Axes]] = {}
    for value in Graph(model.proto).constants():
        if value.key in constants and value.tensor is not None:
            array = model.array(value.tensor)
            alike = [(name, order) for name in once.values() if (order := _order(array, tensors[name])) is not None]
            if len(alike) == 1:
                name, order = alike[0]
                found[value.key] = name, [None if axis is None else (value.key, axis) for axis in order]
    return found


def _order(constant: Array, tensor: Array) -> list[int | None] | None:
    """For each axis of a tensor that of a constant of the same values, None for those of length 1; None for others."""
    if constant.size < 2 or constant.size != tensor.size:
        return None
    long = [axis for axis, length in enumerate(constant.shape) if length > 1]
    wanted = [length for length in tensor.shape if length > 1]
    for order in itertools.permutations(long):
        if [constant.shape[axis] for axis in order] == wanted:
            rest = [axis for axis in range(constant.ndim) if axis not in long]
            if np.array_equal(constant.transpose([*order, *rest]).reshape(tensor.shape), tensor):
                axes = iter(order)
                return [next(axes) if length > 1 else None for length in tensor.shape]
    return None
