"""Labels drawn from what a model says itself, for gradients where there are no labels.

The divergence of a model from itself is at its minimum, so its gradient is zero. That of the log-likelihood of labels
drawn from the model's own distribution is not: its mean is zero, and its second moment is the Fisher information
(Martens, "New insights and perspectives on the natural gradient method", JMLR 2020, section 5). Scores of a softmax
draw a class, probabilities that stand alone are drawn one by one, and quantities are the means of normal distributions
whose variance is that of the output over the samples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.gradients.losses import SMALLEST
from onnxprune.graph.operators import Postprocessing
from onnxprune.verification.comparable_outputs import Component
from onnxprune.verification.decisions import DecisionSums, softmax
from onnxprune.verification.output_sums import class_axis_if_any
from onnxprune.verification.output_values import class_axes

Array = NDArray[Any]

LOOKED_AT = 64
"""Batches from which it is told what the outputs are."""


class DrawnLabels:
    """Draws labels for the outputs of a model, and gives the gradients of their negative log-likelihood."""

    def __init__(self, components: Sequence[Component], outputs: Iterable[Sequence[Array]], seed: int) -> None:
        """Learns what the outputs are.

        Args:
            components: The values that the outputs are made of.
            outputs: These values for some batches.
            seed: Seed of the labels.
        """
        self._rng = np.random.default_rng([seed, 5])
        some = list(itertools.islice(outputs, LOOKED_AT))
        self._components = [
            _as_classes(component, [batch[i] for batch in some]) for i, component in enumerate(components)
        ]
        self._variances = [_variance([batch[i] for batch in some]) for i in range(len(components))]

    def gradients(self, outputs: Sequence[Array]) -> list[Array]:
        """The gradient with respect to each output, for labels drawn anew; zero where the output is no number."""
        triples = zip(self._components, outputs, self._variances, strict=True)
        return [self._gradient(*one) for one in triples]

    def _gradient(self, component: Component, value: Array, variance: float) -> Array:
        if value.dtype.kind != "f" or not value.size:
            return np.zeros_like(value)
        finite = np.nan_to_num(value.astype(np.float64), posinf=0.0, neginf=0.0)
        axes = tuple(class_axes(component, value.shape))
        if component.scores is Postprocessing.SOFTMAX:
            found = self._of_classes(finite, axes)
        elif component.scores is Postprocessing.SIGMOID:
            p = np.clip(finite, SMALLEST, 1 - SMALLEST)
            found = (p - (self._rng.random(p.shape) < p)) / (p * (1 - p))
        else:
            found = self._rng.standard_normal(finite.shape) / np.sqrt(variance)
        positions = value.size // math.prod(value.shape[a] for a in {0, *axes} if value.ndim)
        return np.ascontiguousarray(found / positions, value.dtype).reshape(value.shape)

    def _of_classes(self, scores: NDArray[np.float64], axes: tuple[int, ...]) -> NDArray[np.float64]:
        """Probabilities less one at the drawn class."""
        last = tuple(range(scores.ndim - len(axes), scores.ndim))
        moved = np.moveaxis(scores, axes, last)
        rows = moved.reshape(-1, int(np.prod([scores.shape[a] for a in axes])))
        p = softmax(rows, 1)
        drawn = (np.cumsum(p, axis=1) < self._rng.random((len(p), 1))).sum(axis=1)
        p[np.arange(len(p)), np.minimum(drawn, p.shape[1] - 1)] -= 1
        return np.moveaxis(p.reshape(moved.shape), last, axes)


def _as_classes(component: Component, values: Sequence[Array]) -> Component:
    """The component; as scores of a softmax where the graph says nothing and the values look like such scores."""
    if component.scores is not None or any(v.dtype.kind != "f" for v in values):
        return component
    sums = DecisionSums(component.name, scores=False)
    for value in values:
        sums.add(value, value)
    axis = class_axis_if_any(values[0].shape) if values else None
    if axis is None or sums.decisions() is None:
        return component
    return Component(component.name, Postprocessing.SOFTMAX, axis, output=component.output)


def _variance(values: Sequence[Array]) -> float:
    """Variance over the samples, the mean over the elements; 1 where there is none."""
    if not values or len({v.shape[1:] for v in values}) > 1 or any(v.dtype.kind != "f" or not v.ndim for v in values):
        return 1.0
    whole = np.concatenate(values).astype(np.float64)
    found = float(np.nanmean(whole.var(axis=0))) if whole.size else 0.0
    return found if np.isfinite(found) and found > 0 else 1.0
