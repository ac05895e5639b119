"""Which tensors of a checkpoint are which constants of a model: by their values, axes in any order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.planning.checkpoints.arrays import storage
from onnxprune.planning.checkpoints.cuts import Axes

Array = NDArray[Any]
Order = tuple[int | None, ...]
"""For each axis of a tensor that of a constant, None for one of length 1."""

FIRST = 16
"""Elements that are compared before all of them are."""


def found_by_values(constants: Mapping[str, Array], tensors: Mapping[str, Array]) -> dict[str, tuple[str, Order]]:
    """Constants that exactly one tensor has the values of, as they are or with their axes in another order.

    Axes of length 1 count for nothing: a scale of channels may have some behind it. A tensor that is stored once under
    several names is one.

    Args:
        constants: The constants of the model that the checkpoint was exported to, by name.
        tensors: The tensors of the checkpoint.

    Returns:
        The tensor of each constant, and for each of its axes the axis of the constant whose indices it has.
    """
    once = stored_once(tensors)
    found = {}
    for key, array in constants.items():
        alike = [(name, order) for name, tensor in once.items() if (order := _order(array, tensor)) is not None]
        if len(alike) == 1:
            found[key] = alike[0]
    return found


def fillers(constants: Mapping[str, Array], tensors: Mapping[str, Array]) -> set[str]:
    """Constants of one value that no tensor has: the zeros or ones of a bias or scale that a layer lacks.

    Args:
        constants: Constants of the model that the checkpoint was exported to, by name.
        tensors: The tensors of the checkpoint.
    """
    found = set()
    for key, array in constants.items():
        alike = (tensor for tensor in tensors.values() if tensor.size == array.size)
        if array.size and (array == array.flat[0]).all() and not any((t == array.flat[0]).all() for t in alike):
            found.add(key)
    return found


def stored_once(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Tensors under the first of the names that each is stored under."""
    names = {storage(tensor): name for name, tensor in reversed(list(tensors.items()))}
    return {name: tensors[name] for name in names.values()}


def axes_of(constant: str, order: Order) -> Axes:
    """Where the indices of the axes of a tensor come from, if it has those of a constant in some order."""
    return [None if axis is None else (constant, axis) for axis in order]


def orders(constant: Array, tensor: Array) -> Iterator[tuple[Order, Array]]:
    """The orders of a constant's axes that give the shape of a tensor, and the constant in each of them."""
    if constant.size < 2 or constant.size != tensor.size:
        return
    long = [axis for axis, length in enumerate(constant.shape) if length > 1]
    wanted = [length for length in tensor.shape if length > 1]
    rest = [axis for axis in range(constant.ndim) if axis not in long]
    for order in itertools.permutations(long):
        if [constant.shape[axis] for axis in order] == wanted:
            axes = iter(order)
            turned = constant.transpose([*order, *rest]).reshape(tensor.shape)
            yield tuple(next(axes) if length > 1 else None for length in tensor.shape), turned


def _order(constant: Array, tensor: Array) -> Order | None:
    """The order in which a constant has the values of a tensor; None for others."""
    return next((order for order, turned in orders(constant, tensor) if _same(turned, tensor)), None)


def _same(one: Array, other: Array) -> bool:
    """Whether arrays of one shape are equal; the first elements tell most layers of one shape apart."""
    return np.array_equal(one.flat[:FIRST], other.flat[:FIRST]) and np.array_equal(one, other)
