"""Values of outputs as two models are compared by, and how much each position of them counts.

An output that decides at many positions at once (the anchors of a detector, the pixels of a segmentation, the steps of
a sequence) decides mostly for its background: where something is, are few positions, and a mean over all of them is a
mean over the background. So positions are weighted by the probabilities that the original gives each class there, and
then the classes are averaged; one that has most of the positions counts as much as all others together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph.operators import Postprocessing
from onnxprune.verification.as_array import as_array
from onnxprune.verification.comparable_outputs import Component
from onnxprune.verification.decisions import softmax

Array = NDArray[Any]
Positions = tuple[int, ...]

BACKGROUND = 0.5
"""A class that has more than this share of the positions is background, and gets this share of the weight."""
ELEMENTS_A_POSITION = 8
"""Elements that a position counts as where elements are limited."""


@dataclass(frozen=True)
class Values:
    """What is compared of one output in one batch.

    Attributes:
        array: The values; shape (positions, channels).
        at: Lengths of the axes that the positions count over, where scores decide at each of them; else None.
    """

    array: Array
    at: Positions | None = None


@dataclass(frozen=True)
class Reference:
    """Values of the original, and how much they count.

    Attributes:
        array: The values, zero where they are not finite; shape (positions, channels).
        known: Which are finite; None where all are.
        weights: Weights of the positions in each of several classes; shape (classes, positions). None where all
            positions count alike.
    """

    array: Array
    known: NDArray[np.bool_] | None = None
    weights: Array | None = None


def class_shares(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much each class counts, in sum 1, given the number of positions that it has, which need not be whole.

    Those that have a position count alike, those with less of one hardly; the background as much as all others.
    """
    shares = np.square(np.minimum(positions, 1.0))
    background = int(positions.argmax())
    if len(positions) < 2 or positions[background] <= BACKGROUND * positions.sum():
        found: NDArray[np.float64] = shares / max(float(shares.sum()), 1e-30)
        return found
    shares[background] = 0.0
    others = float(shares.sum())
    shares *= (1 - BACKGROUND) * min(1.0, others) / max(others, 1e-30)
    shares[background] = 1 - shares.sum()
    return shares


class OutputValues:
    """Makes outputs of models comparable."""

    def __init__(self, components: Sequence[Component] | None = None, limit: int | None = None) -> None:
        """Keeps what is needed for that.

        Args:
            components: What the outputs are; None where they are compared as they are.
            limit: Compares at most about so many elements of an output in a batch; None for all.
        """
        self._components, self._limit = components, limit

    def of(self, arrays: Sequence[Array]) -> list[Values | None]:
        """The compared values of a batch of outputs; None for those that are not floating-point numbers."""
        pairs = [(c, as_array(a)) for c, a in zip(self._components_of(arrays), arrays, strict=True)]
        return [self._values(c, a) if a.dtype.kind == "f" else None for c, a in pairs]

    def reference(self, arrays: Sequence[Array]) -> list[Reference | None]:
        """The compared values of a batch of outputs of the original, and their weights."""
        return [
            None if v is None else _reference(c, v)
            for c, v in zip(self._components_of(arrays), self.of(arrays), strict=True)
        ]

    def _components_of(self, arrays: Sequence[Array]) -> Sequence[Component]:
        """What each of some outputs is."""
        return [Component("")] * len(arrays) if self._components is None else self._components

    def _values(self, component: Component, array: Array) -> Values:
        """The compared values of an output."""
        axes = class_axes(component, array.shape)
        if component.scores is not None:
            array = _comparable(component.scores, array, axes)
        at = tuple(length for axis, length in enumerate(array.shape) if axis not in axes)
        if not axes or math.prod(at[1:]) < 2:
            return Values(array.reshape(-1, 1)[:: self._step(array.shape, 1)])
        rows = np.moveaxis(array, tuple(axes), tuple(range(array.ndim - len(axes), array.ndim)))
        rows = rows.reshape(at[0], math.prod(at[1:]), -1)[:, :: self._step(at, ELEMENTS_A_POSITION)]
        return Values(rows.reshape(-1, rows.shape[2]), at)

    def _step(self, lengths: Sequence[int], elements: int) -> int:
        """Distance of the positions that are compared, coprime to the lengths of the axes that they count over."""
        step = 1 if self._limit is None else max(1, math.prod(lengths) * elements // self._limit)
        while step > 1 and any(math.gcd(step, length) > 1 for length in lengths):
            step += 1
        return step


def class_axes(component: Component, shape: Sequence[int]) -> range:
    """The axes of an output of some shape along which there is a score a class; empty where it has no scores."""
    rank = len(shape)
    if component.scores is None or not rank:
        return range(0)
    if component.scores is Postprocessing.SOFTMAX:
        axis = component.axis % rank
        return range(axis, rank if component.flat else axis + 1)
    first = rank > 3 and shape[1] < shape[-1]
    return range(1, 2) if first else range(rank - 1, rank)


def _comparable(kind: Postprocessing, array: Array, axes: range) -> Array:
    """Inputs of a softmax less their mean, since only differences count; probabilities of a sigmoid as they are."""
    if kind is Postprocessing.SIGMOID:
        return array
    known = np.isfinite(array)
    if known.all():
        found: Array = array - array.mean(axis=tuple(axes), keepdims=True)
        return found
    count = np.maximum(known.sum(axis=tuple(axes), keepdims=True), 1)
    shifted: Array = array - np.where(known, array, 0).sum(axis=tuple(axes), keepdims=True) / count
    return shifted


def _probabilities(kind: Postprocessing, scores: Array) -> Array:
    """Probability of each class at each position.

    Args:
        kind: What the scores are.
        scores: Scores of the original; shape (positions, channels).

    Returns:
        Shape (classes, positions); a sigmoid has the classes of no channel and of any.
    """
    if kind is Postprocessing.SIGMOID:
        p = np.clip(np.nan_to_num(scores).max(axis=1), 0, 1)
        return np.stack([1 - p, p]).astype(np.float32)
    largest = np.finfo(np.float32).max / 4
    scores = np.clip(np.nan_to_num(scores.astype(np.float32, copy=False), nan=-largest), -largest, largest)
    return np.ascontiguousarray(softmax(scores, 1).T, dtype=np.float32)


def _reference(component: Component, values: Values) -> Reference:
    array, known = values.array, np.isfinite(values.array)
    scored = component.scores if values.at is not None else None
    weights = None if scored is None else _probabilities(scored, array)
    return Reference(array, None, weights) if known.all() else Reference(np.where(known, array, 0), known, weights)
