"""Values of outputs as two models are compared by, and how much each position of them counts.

An output that decides at many positions at once (the anchors of a detector, the pixels of a segmentation, the steps of
a sequence) decides mostly for its background: where something is, are few positions, and a mean over all of them is a
mean over the background. So positions are weighted by the probabilities that the original gives each class there, and
then the classes are averaged; one that has most of the positions counts as much as all others together. Values beside
such scores, boxes say, count by how much is detected at their position.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph.operators import Postprocessing
from onnxprune.verification.comparable_outputs import Component

Array = NDArray[Any]
Positions = tuple[int, ...]

BACKGROUND = 0.5
"""A class that has more than this share of the positions is background, and gets this share of the weight."""
EVERYWHERE = 0.01
"""Weight, spread over the positions of a sample, of values beside scores where nothing is detected."""
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
        samples: Number of samples, one after the other, where values vary about the mean at their position; 0 where
            they vary about the mean of all.
    """

    array: Array
    known: NDArray[np.bool_] | None = None
    weights: Array | None = None
    samples: int = 0


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
        components = [Component("")] * len(arrays) if self._components is None else self._components
        pairs = [(c, np.asarray(a)) for c, a in zip(components, arrays, strict=True)]
        decided = {_positions(a, _class_axes(c, a)) for c, a in pairs if c.scores is not None}
        return [self._values(c, a, decided) if a.dtype.kind == "f" else None for c, a in pairs]

    def reference(self, arrays: Sequence[Array]) -> list[Reference | None]:
        """The compared values of a batch of outputs of the original, and their weights."""
        values = self.of(arrays)
        components = [Component("")] * len(arrays) if self._components is None else self._components
        weights = [
            None if v is None or v.at is None or c.scores is None else _memberships(c.scores, v.array)
            for c, v in zip(components, values, strict=True)
        ]
        detected: dict[Positions, Array] = {}
        for v, w in zip(values, weights, strict=True):
            if w is not None and v is not None and v.at is not None:
                detected[v.at] = np.maximum(detected.get(v.at, 0.0), _detected(w))
        return [
            None if v is None else _reference(v.array, w) if w is not None or v.at is None else _beside(v, detected)
            for v, w in zip(values, weights, strict=True)
        ]

    def _values(self, component: Component, array: Array, decided: Collection[Positions]) -> Values:
        """The compared values of an output; `decided` holds the positions that some output has scores at."""
        axes = _class_axes(component, array)
        if component.scores is None:
            beside = [range(axis, axis + 1) for axis in (array.ndim - 1, 1) if array.ndim > 2]
            axes = next((a for a in beside if _positions(array, a) in decided), range(0))
        else:
            array = _comparable(component.scores, array, axes)
        at = _positions(array, axes)
        if not at or math.prod(at[1:]) < 2:
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


def _class_axes(component: Component, array: Array) -> range:
    """The axes of an output along which there is a score a class; empty where it has no scores."""
    if component.scores is None or not array.ndim:
        return range(0)
    if component.scores is Postprocessing.SOFTMAX:
        axis = component.axis % array.ndim
        return range(axis, array.ndim if component.flat else axis + 1)
    first = array.ndim > 3 and array.shape[1] < array.shape[-1]
    return range(1, 2) if first else range(array.ndim - 1, array.ndim)


def _positions(array: Array, axes: range) -> Positions:
    """Lengths of the other axes; () where there are no class axes."""
    return tuple(length for axis, length in enumerate(array.shape) if axis not in axes) if axes else ()


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


def _memberships(kind: Postprocessing, scores: Array) -> Array:
    """How much each position is of each class: its probability, squared and scaled to sum 1.

    Squared, since the background's many small probabilities of a class sum to more than its few large ones.

    Args:
        kind: What the scores are.
        scores: Scores of the original; shape (positions, channels).

    Returns:
        Shape (classes, positions); a sigmoid has the classes of no channel and of any.
    """
    if kind is Postprocessing.SIGMOID:
        p = np.clip(np.nan_to_num(scores).max(axis=1, keepdims=True), 0, 1)
        squares = np.square(np.concatenate([1 - p, p], axis=1))
    else:
        largest = np.finfo(np.float32).max / 4
        scores = np.clip(np.nan_to_num(scores.astype(np.float32, copy=False), nan=-largest), -largest, largest)
        squares = np.exp(2 * (scores - scores.max(axis=1, keepdims=True)))
    return np.ascontiguousarray((squares / np.maximum(squares.sum(axis=1, keepdims=True), 1e-30)).T, dtype=np.float32)


def _detected(memberships: Array) -> Array:
    """How much each position is not background; shape (positions,)."""
    shares = memberships.mean(axis=1)
    background = int(shares.argmax())
    found: Array = 1 - memberships[background]
    return found if shares[background] > BACKGROUND else np.ones_like(found)


def _reference(array: Array, weights: Array | None, samples: int = 0) -> Reference:
    known = np.isfinite(array)
    if known.all():
        return Reference(array, None, weights, samples)
    return Reference(np.where(known, array, 0), known, weights, samples)


def _beside(values: Values, detected: dict[Positions, Array]) -> Reference:
    assert values.at is not None
    weights, samples = detected[values.at], values.at[0]
    return _reference(values.array, weights[None] + EVERYWHERE * samples / len(weights), samples)
