"""Which tensors of a checkpoint are in which constants of a model, where exporters folded a BatchNormalization.

With its weight g, bias b, mean m and variance v, and a layer of weights W and biases c before it, the model has the
constants s W and b + s (c - m), where s = g / sqrt(v + eps), or s and b - s m themselves where no layer took them
(Ioffe and Szegedy, 2015, https://arxiv.org/abs/1502.03167). So W is found by its channels, of which those of the
constant are multiples, and g and v by the multiples, as one eps holds for all channels; b, m and c lie beside them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.planning.checkpoints.by_values import Order, orders, stored_once

Array = NDArray[Any]

MAX_EPSILON = 0.01
"""What a BatchNormalization adds to variances, at most: frameworks have 1e-5 or 1e-3 unless told otherwise."""
ROUNDING = 64
"""Tolerance of what was computed in a few steps, in units of the last place."""


@dataclass(frozen=True)
class Folded:
    """A constant of a model that a BatchNormalization was folded into, or that is its scale.

    Attributes:
        constant: The constant.
        axis: Its axis of channels.
        layer: The tensor that was scaled, with the order of the constant's axes that it has; None for the scale itself.
        vectors: Tensors of the normalization, and of the biases of the layer: one element a channel.
        shifts: Constants of the model that were computed of the biases and means.
    """

    constant: str
    axis: int
    layer: tuple[str, Order] | None
    vectors: tuple[str, ...]
    shifts: tuple[str, ...]


def folded(constants: Mapping[str, Array], tensors: Mapping[str, Array], known: Mapping[str, str]) -> list[Folded]:
    """Constants that a BatchNormalization of the checkpoint was folded into, where its values tell without doubt.

    Args:
        constants: The constants of the model that the checkpoint was exported to, by name.
        tensors: The tensors of the checkpoint.
        known: Constants that have the values of one of the tensors, with its name.
    """
    whole = {*known.values()}
    rest = {n: t for n, t in stored_once(tensors).items() if t.dtype.kind == "f" and n not in whole}
    vectors = {name: tensor.astype(float) for name, tensor in rest.items() if tensor.ndim == 1}
    changed = {name: array for name, array in constants.items() if array.dtype.kind == "f" and name not in known}
    shifts = {name: array.ravel().astype(float) for name, array in changed.items() if _is_vector(array)}
    found = (_one(name, array, rest, vectors, shifts) for name, array in changed.items())
    return [one for one in found if one is not None]


@dataclass(frozen=True)
class _Scaled:
    """A constant as a multiple of a tensor, channel by channel; of ones, where it is a vector."""

    axis: int
    scale: NDArray[np.float64]
    layer: tuple[str, Order] | None


def _one(
    name: str, constant: Array, tensors: Mapping[str, Array], vectors: Mapping[str, Array], shifts: Mapping[str, Array]
) -> Folded | None:
    tolerance = ROUNDING * float(np.finfo(constant.dtype).eps)
    found = {
        (scaled.axis, scaled.layer, place): (scaled, place, used)
        for scaled in _scaled(constant, tensors, tolerance)
        for place, used in _normalizations(scaled.scale, vectors, tolerance)
    }
    if len(found) != 1:
        return None
    scaled, place, used = next(iter(found.values()))
    own = _beside(place, vectors, scaled.scale)
    biases = _beside(_parent(scaled.layer[0]), vectors, scaled.scale) if scaled.layer is not None else {}
    rest = [vector for name, vector in own.items() if name not in used]
    made = (n for n, s in shifts.items() if n != name and _shifts(s, scaled, rest, [*biases.values()], tolerance))
    return Folded(name, scaled.axis, scaled.layer, (*own, *biases), tuple(made))


def _normalizations(
    scale: Array, vectors: Mapping[str, Array], tolerance: float
) -> Iterator[tuple[str, tuple[str | None, str]]]:
    """Layers whose variance, with a weight or without, makes a scale, and the names of weight and variance."""
    for place in sorted({_parent(name) for name in vectors}):
        own = _beside(place, vectors, scale)
        for weight, variance in itertools.product((*own, None), own):
            factor = 1.0 if weight is None else own[weight]
            if weight != variance and _normalizes(scale, factor, own[variance], tolerance):
                yield place, (weight, variance)


def _scaled(constant: Array, tensors: Mapping[str, Array], tolerance: float) -> Iterator[_Scaled]:
    """The tensors that a constant is a multiple of, channel by channel; a vector is one of ones."""
    if _is_vector(constant):
        axis = int(np.argmax(constant.shape))
        yield _Scaled(axis, constant.ravel().astype(float), None)
        return
    for name, tensor in tensors.items():
        for order, turned in orders(constant, tensor):
            for position, source in enumerate(order):
                if source is not None and 1 < tensor.shape[position] < tensor.size:
                    scale = _multiples(np.moveaxis(turned, position, 0), np.moveaxis(tensor, position, 0), tolerance)
                    if scale is not None and (np.abs(scale - 1) > tolerance).any():
                        yield _Scaled(source, scale, (name, order))


def _multiples(constant: Array, tensor: Array, tolerance: float) -> NDArray[np.float64] | None:
    """By how much the channels of a tensor, its first axis, were multiplied; None where a constant is something else.

    Channels that are zero in the tensor tell nothing, and are NaN.
    """
    for count in (2, len(tensor)):  # the first two tell most layers of one shape apart
        after, before = (a[:count].reshape(min(count, len(a)), -1).astype(float) for a in (constant, tensor))
        power = np.square(before).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            scale: NDArray[np.float64] = np.where(power > 0, (after * before).sum(axis=1) / power, np.nan)
        error = np.abs(after - np.nan_to_num(scale)[:, None] * before)
        if (error > tolerance * np.abs(after).max(axis=1, keepdims=True)).any():
            return None
    return scale


def _normalizes(scale: Array, weight: Array | float, variance: Array, tolerance: float) -> bool:
    """Whether a scale is weight / sqrt(variance + eps), with one eps for all channels."""
    told = np.isfinite(scale) & (scale != 0)
    if told.sum() < 2 or (variance < 0).any():
        return False
    spread = np.square(np.broadcast_to(weight, scale.shape)[told] / scale[told])
    epsilon = np.clip(np.median(spread - variance[told]), 0, MAX_EPSILON)
    return bool((np.abs(spread - variance[told] - epsilon) <= tolerance * (spread + variance[told])).all())


def _shifts(shift: Array, scaled: _Scaled, rest: Sequence[Array], biases: Sequence[Array], tolerance: float) -> bool:
    """Whether a constant is bias + scale * (layer's bias - mean), any of them maybe lacking, but not all."""
    if shift.shape != scaled.scale.shape or not (rest or biases):
        return False
    told = np.isfinite(scaled.scale)
    shift, scale, zero = shift[told], scaled.scale[told], np.zeros(told.sum())
    for bias, mean in itertools.permutations([*(vector[told] for vector in rest), zero, zero], 2):
        for own in (*(vector[told] for vector in biases), zero):
            size = np.abs(bias) + np.abs(scale * mean) + np.abs(scale * own)
            if size.any() and (np.abs(bias + scale * (own - mean) - shift) <= tolerance * size).all():
                return True
    return False


def _is_vector(array: Array) -> bool:
    return array.size > 1 and max(array.shape) == array.size


def _beside(place: str, vectors: Mapping[str, Array], scale: Array) -> dict[str, Array]:
    """The vectors of one layer that have as many elements as a scale."""
    return {name: vector for name, vector in vectors.items() if _parent(name) == place and vector.shape == scale.shape}


def _parent(name: str) -> str:
    """What the tensors of one layer have in common."""
    return name[: max(name.rfind("."), name.rfind("/")) + 1]
