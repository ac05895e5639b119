"""Zeros by magnitude, straight on stored weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.coupling.coupling import Coupling
from onnxprune.graph.graph import Value
from onnxprune.layers.dequantize import dequantised
from onnxprune.model.model import Model
from onnxprune.patterns import Pattern
from onnxprune.sparsity.layout import Weight
from onnxprune.sparsity.masks import Mask

_FLOATS = ("float16", "bfloat16", "float32", "float64")
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
"""The unsigned type of so many bytes."""


def zero_smallest(
    model: Model, coupling: Coupling, targets: Sequence[Weight], pattern: Pattern, across: bool
) -> dict[str, Mask]:
    """Sets the smallest elements of weights to zero, in place; zero of a quantised weight is its zero point.

    Args:
        model: The model whose proto was analysed.
        coupling: Its analysis.
        targets: Weights to thin out; other patterns than ``weights`` need their layout.
        pattern: The pattern.
        across: Rank the elements or blocks of all weights together; each weight is first divided by its root mean
            square.

    Returns:
        Constant -> mask of the elements that were set to zero.
    """
    chosen: list[Mask] = []
    if across:
        sizes = [np.abs(real(model, coupling, w.value)) for w in targets]
        chosen = pattern.masks(sizes, [w.layout for w in targets])
    done = {}
    for i, weight in enumerate(targets):
        assert weight.value.tensor is not None
        array = model.array(weight.value.tensor)  # once: every look at an inline one copies it
        gone = (
            chosen[i] if across else pattern.mask(_worth(model, coupling, weight.value, array, pattern), weight.layout)
        )
        if gone.any():
            clear(model, coupling, weight.value, gone, array)
            done[weight.value.key] = gone
    return done


def _worth(model: Model, coupling: Coupling, value: Value, array: NDArray[Any], pattern: Pattern) -> NDArray[Any]:
    """What ranks the elements of a weight: magnitudes, or of floats their bits less the sign, a view's work.

    Blocks sum what their elements are worth, and need the numbers.
    """
    array = np.ascontiguousarray(array)
    if (
        not (pattern.elementwise or pattern.local)
        or array.dtype.name not in _FLOATS
        or value in coupling.ties.quantised
    ):
        return np.abs(real(model, coupling, value, array))
    kind = np.dtype(_UNSIGNED[array.dtype.itemsize])
    found: NDArray[Any] = np.bitwise_and(array.view(kind), kind.type(np.iinfo(kind).max // 2))
    return found


def clear(model: Model, coupling: Coupling, value: Value, gone: Mask, array: NDArray[Any] | None = None) -> None:
    """Sets the masked elements of one constant to zero, in place; `array` is what is stored, where it has been read."""
    assert value.tensor is not None
    array = model.array(value.tensor) if array is None else array
    model.set_array(value.tensor, cleared(model, coupling, value, array, gone))


def cleared(model: Model, coupling: Coupling, value: Value, array: NDArray[Any], gone: Mask) -> NDArray[Any]:
    """The array with its masked elements zero, or the zero point of a quantised weight."""
    if value in coupling.ties.quantised:
        _, zero, axis = coupling.ties.quantised[value]
        if zero is not None and zero.tensor is not None:
            points = -model.array(zero.tensor).astype(np.float32)
            nothing = dequantised(np.zeros(array.shape, np.float32), np.ones(1, np.float32), points, axis)
            return np.where(gone, nothing.astype(array.dtype), array)
    return without(array, gone)


def without(array: NDArray[Any], gone: Mask) -> NDArray[Any]:
    """The array with its masked elements zero, by way of its bits: without a branch that every other element takes."""
    kind = np.dtype(_UNSIGNED[array.dtype.itemsize])
    kept = gone.astype(kind)
    kept -= kind.type(1)  # no bits where an element goes, else all of them
    kept &= np.ascontiguousarray(array).view(kind)
    return kept.view(array.dtype)


def real(model: Model, coupling: Coupling, value: Value, array: NDArray[Any] | None = None) -> NDArray[np.float32]:
    """The numbers that a weight stands for; `array` is what is stored, where it has been read."""
    assert value.tensor is not None
    array = model.array(value.tensor) if array is None else array
    if value in coupling.ties.quantised:
        scale, zero, axis = coupling.ties.quantised[value]
        if scale.tensor is not None:
            points = model.array(zero.tensor) if zero is not None and zero.tensor is not None else None
            return dequantised(array, model.array(scale.tensor), points, axis)
    return array.astype(np.float32)
