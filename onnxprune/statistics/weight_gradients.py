"""Gradients of a loss with respect to weights, sample by sample."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.common.progress import step
from onnxprune.errors import InputError
from onnxprune.extensions.views import GradientMeans
from onnxprune.gradients.differentiate import differentiate
from onnxprune.gradients.free_constants import free_constants
from onnxprune.gradients.trainable import fix_shapes
from onnxprune.losses.drawn_labels import DrawnLabels
from onnxprune.losses.label_loss import label_loss
from onnxprune.model.model import Model
from onnxprune.runtime.session import local_session
from onnxprune.statistics.moments import Batches
from onnxprune.verification.comparable_outputs import Component, with_comparable_outputs

Array = NDArray[Any]
_Gradients = Callable[[Sequence[Array], int], list[Array]]
"""From the outputs for one sample, and its number, to the gradients with respect to them."""


@dataclass(frozen=True)
class GradientData:
    """What gradients are taken of.

    Attributes:
        batches: Samples one by one, or as many as the model takes.
        count: Number of the batches.
        labels: A label for each sample, shape (samples, ...); None to draw labels from what the model says.
        seed: Seed of labels that are drawn.
    """

    batches: Batches
    count: int
    labels: Array | None = None
    seed: int = 0


class SampleGradients:
    """The gradients of the loss of each sample, from one backward pass a sample for all weights.

    The loss is that of the labels where there are some that fit the model; else the negative log-likelihood of labels
    drawn from the model's own outputs (`losses.drawn_labels`).

    Attributes:
        names: The weights that have a gradient.
        weights: Their values, which may change from pass to pass; by name.
    """

    def __init__(self, model: Model, weights: Mapping[str, Array], data: GradientData) -> None:
        """Makes the model of the gradients.

        Args:
            model: The model; not modified.
            weights: Constants of the main graph: their values by name.
            data: The samples.

        Raises:
            InputError: None of the weights has a gradient.
        """
        view, components = with_comparable_outputs(model)
        shapes = {tuple((name, array.shape) for name, array in feeds.items()) for feeds in data.batches}
        if len(shapes) == 1:
            fix_shapes(view, next(iter(data.batches)))
        self._data = data
        self._components = _floats(view, components, next(iter(data.batches)))
        self._outputs = [c.name for c in self._components]
        made = differentiate(view, self._outputs, list(weights))
        self.names = list(made.gradients)
        if not self.names:
            why = Counter(made.reasons.values()).most_common(1)
            raise InputError(
                f"no weight has a gradient: {why[0][0] if why else 'the model has none'}", "importance l2 needs none"
            )
        self.weights = {name: weights[name] for name in self.names}
        free_constants(view, self.names)
        self._forward = local_session(view)
        self._made, self._backward = made, local_session(made.model, arena=True)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        """Yields the gradients of each batch by the names of the weights."""
        wanted = [self._made.gradients[name] for name in self.names]
        for number, found in enumerate(self._backward.each(self._feeds(), wanted)):
            step(f"gradients of sample {number + 1}", number + 1, self._data.count)
            yield dict(zip(self.names, found, strict=True))

    def _feeds(self) -> Iterator[dict[str, Array]]:
        """Inputs and the gradients of the outputs."""
        seeds = [self._made.seeds[name] for name in self._outputs]
        gradients = self._of_labels() or self._of_drawn_labels()
        fed, read = itertools.tee(self._data.batches)  # one pass: a reader cannot be in two places
        for number, (feeds, outputs) in enumerate(zip(fed, self._run(read), strict=True)):
            yield {**feeds, **self.weights, **dict(zip(seeds, gradients(outputs, number), strict=True))}

    def _of_labels(self) -> _Gradients | None:
        """Makes the gradients of the outputs for the given labels; None where these do not fit."""
        labels = self._data.labels
        if labels is None or len(labels) != self._data.count:
            return None
        try:
            loss = label_loss(None, self._components, next(self._run(self._data.batches)), labels)
        except InputError:
            return None
        at = self._outputs.index(loss.output)

        def gradients(outputs: Sequence[Array], sample: int) -> list[Array]:
            found = [np.zeros_like(o) for o in outputs]
            found[at] = loss.gradient(outputs[at], sample).astype(outputs[at].dtype)
            return found

        return gradients

    def _of_drawn_labels(self) -> _Gradients:
        drawn = DrawnLabels(self._components, self._run(self._data.batches), self._data.seed)
        return lambda outputs, sample: drawn.gradients(outputs)

    def _run(self, batches: Iterable[Mapping[str, Array]]) -> Iterator[list[Array]]:
        return self._forward.each(({**feeds, **self.weights} for feeds in batches), self._outputs)


def _floats(view: Model, components: Sequence[Component], feeds: Mapping[str, Array]) -> list[Component]:
    """The outputs that are floating-point numbers."""
    values = local_session(view).run([c.name for c in components], feeds)
    return [c for c, value in zip(components, values, strict=True) if value.dtype.kind == "f"]


def mean_gradients(samples: SampleGradients) -> dict[str, NDArray[np.float64]]:
    """The mean over the samples of each weight's gradient, by the name."""
    return {name: means.mean for name, means in gradient_means(samples).items()}


def gradient_means(samples: SampleGradients) -> dict[str, GradientMeans]:
    """The mean over the samples of each weight's gradient, of its absolute value and of its square, by the name."""
    sums: dict[str, list[NDArray[np.float64]]] = {}
    count = 0
    for gradients in samples:
        count += 1
        for name, found in gradients.items():
            g = np.nan_to_num(found.astype(np.float64))
            for total, part in zip(
                sums.setdefault(name, [np.zeros(g.shape) for _ in range(3)]), (g, np.abs(g), g * g), strict=True
            ):
                total += part
    return {name: GradientMeans(*(total / max(count, 1) for total in three)) for name, three in sums.items()}
