"""Losses of an output with labels: as nodes of the graph, and as a value for each sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import InputError, option
from onnxprune.extensions.registry import one_of
from onnxprune.gradients import losses
from onnxprune.gradients.losses import SMALLEST
from onnxprune.gradients.trainable import Terms
from onnxprune.graph.graph import Graph
from onnxprune.graph.operators import Postprocessing
from onnxprune.ops.gradients.writer import Writer
from onnxprune.verification.comparable_outputs import Component
from onnxprune.verification.decisions import log_softmax, softmax
from onnxprune.verification.output_values import class_axes

Array = NDArray[Any]
Floats = NDArray[np.float32]

CROSS_ENTROPY, BINARY, SQUARED = "cross-entropy", "bce", "mse"
LOSSES = (CROSS_ENTROPY, BINARY, SQUARED)
"""Losses by name: of scores that one class is chosen by, of classes that stand alone, and of quantities."""
LEAST = -1e30
"""Logarithm of the probability of a class whose score is minus infinity."""
TARGET = "label/target"
"""Name of the input of the loss that takes the targets."""


@dataclass(frozen=True)
class LabelLoss:
    """A loss of one output.

    Attributes:
        kind: One of `LOSSES`.
        output: The value that it is computed of.
        order: The axes of the value, those of the channels last.
        channels: Number of channels: classes, or 1 where elements stand alone.
        logits: Whether values are scores of any sign; else they are probabilities.
        targets: What each sample should have; shape (samples, positions, channels).
    """

    kind: str
    output: str
    order: tuple[int, ...]
    channels: int
    logits: bool
    targets: Floats

    @property
    def at_many_positions(self) -> bool:
        """Whether labels belong to positions of a sample: to pixels, say, which move with it."""
        return bool(self.targets.shape[1] > 1)

    def write(self, graph: Graph, write: Writer, samples: int) -> Terms:
        """Writes the mean over a batch.

        Args:
            graph: The graph that computes the output.
            write: Adds nodes.
            samples: Samples of a batch.
        """
        moved = None if list(self.order) == sorted(self.order) else list(self.order)
        values = losses.rows(write, graph.main.names[self.output].name, moved, self.channels)
        weight = 1 / (samples * self.targets.shape[1])
        if self.kind == SQUARED:
            return [(losses.squared_error(write, values, TARGET, None), weight)]
        if self.kind == CROSS_ENTROPY:
            return [(losses.cross_entropy(write, values, TARGET), weight)]
        made = losses.binary_cross_entropy_of_scores if self.logits else losses.binary_cross_entropy
        return [(made(write, values, TARGET), weight)]

    def of(self, value: Array, sample: int) -> float:
        """The loss of one sample.

        Args:
            value: The output of this sample, with its axis of samples.
            sample: Number of the sample.
        """
        target, rows = self.targets[sample].astype(np.float64), self._rows(value)
        if self.kind == SQUARED:
            found = np.square(rows - target)
        elif self.kind == CROSS_ENTROPY:
            found = -target * np.maximum(log_softmax(rows, 1), LEAST)
        else:
            p = self._probabilities(rows)
            found = -target * np.log(p) - (1 - target) * np.log(1 - p)
        return float(found.sum() / len(rows))

    def gradient(self, value: Array, sample: int) -> Floats:
        """The gradient of `of` with respect to the output; its shape.

        Args:
            value: The output of this sample, with its axis of samples.
            sample: Number of the sample.
        """
        target, rows = self.targets[sample].astype(np.float64), self._rows(value)
        if self.kind == SQUARED:
            found = 2 * (rows - target)
        elif self.kind == CROSS_ENTROPY:
            found = softmax(rows, 1) * target.sum(axis=1, keepdims=True) - target
        else:
            p = self._probabilities(rows)
            found = p - target if self.logits else (p - target) / (p * (1 - p))
        moved = (found / len(rows)).reshape([value.shape[axis] for axis in self.order])
        return np.ascontiguousarray(np.transpose(moved, np.argsort(self.order)), np.float32)

    def _rows(self, value: Array) -> NDArray[np.float64]:
        return np.transpose(value, self.order).reshape(-1, self.channels).astype(np.float64)

    def _probabilities(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.clip(1 / (1 + np.exp(-rows)) if self.logits else rows, SMALLEST, 1 - SMALLEST)
        return found


def label_loss(kind: str | None, components: Sequence[Component], outputs: Sequence[Array], labels: Array) -> LabelLoss:
    """The loss that fits a model and labels.

    Args:
        kind: Its name; None for the one that the output and the labels tell.
        components: The values that a loss can be computed of.
        outputs: These values for one sample.
        labels: The labels; shape (samples, ...).

    Raises:
        InputError: The name is unknown, or the labels fit no output.
    """
    if kind is not None:
        one_of("loss", kind, list(LOSSES))
    for component, output in zip(components, outputs, strict=True):
        if output.dtype.kind != "f" or output.ndim < 1 or len(output) != 1:
            continue
        for name in _suitable(component) if kind is None else (kind,):
            found = _fitting(name, component, output, labels)
            if found is not None:
                return found
    shapes = ", ".join(str(tuple(o.shape)) for o in outputs)
    raise InputError(
        f"labels of shape {tuple(labels.shape[1:])} a sample ({_told(labels)}) fit no output"
        f"{'' if kind is None else ' for ' + option('loss', kind)}: outputs of one sample have shape {shapes}",
        "the number of a class, from 0, or a score a class for cross-entropy, the shape of the output for bce and mse",
    )


def _told(labels: Array) -> str:
    """What labels are: their type, and the range of numbers."""
    numbers = labels[np.isfinite(labels)] if labels.dtype.kind in "iuf" else labels[:0]
    span = f" from {numbers.min():g} to {numbers.max():g}" if numbers.size else ""
    rest = ", some not finite" if span and numbers.size < labels.size else ""
    return f"{labels.dtype.name}{span}{rest}"


def _suitable(component: Component) -> tuple[str, ...]:
    """Losses that an output is tried with where none is asked for."""
    return (BINARY,) if component.scores is Postprocessing.SIGMOID else (CROSS_ENTROPY, SQUARED)


def _fitting(kind: str, component: Component, output: Array, labels: Array) -> LabelLoss | None:
    """The loss of one kind, where it fits an output and the labels."""
    if kind == CROSS_ENTROPY:
        return None if component.scores is Postprocessing.SIGMOID else _cross_entropy(component, output, labels)
    if math.prod(labels.shape[1:]) != output.size or not (labels.ndim < 3 or _long(labels[0]) == _long(output)):
        return None
    scored = component.scores is Postprocessing.SIGMOID
    given = labels.reshape(len(labels), -1, 1).astype(np.float32)
    if kind == BINARY and (component.scores is Postprocessing.SOFTMAX or given.min() < 0 or given.max() > 1):
        return None
    if kind == SQUARED and (labels.dtype.kind not in "fiu" or component.scores is Postprocessing.SOFTMAX):
        return None  # the component is what the softmax reads, which is no probability
    order = tuple(range(output.ndim))
    return LabelLoss(kind, component.name, order, 1, not scored, given)


def _long(array: Array) -> list[int]:
    """Lengths of the axes that are longer than 1."""
    return [n for n in array.shape if n != 1]


def _cross_entropy(component: Component, output: Array, labels: Array) -> LabelLoss | None:
    """The loss of scores that one class is chosen by."""
    scored = list(class_axes(component, output.shape))
    candidates = [scored] if scored else [[axis] for axis in (1, output.ndim - 1) if 0 < axis < output.ndim]
    for axes in candidates:
        classes = math.prod(output.shape[a] for a in axes)
        if classes < 2:
            continue
        others = [a for a in range(output.ndim) if a not in axes]
        positions = math.prod(output.shape[a] for a in others)
        same = labels.shape[1:] == output.shape[1:]
        given = np.transpose(labels, (0, *(a for a in (*others, *axes) if a))) if same else labels
        targets = _one_hot(given, positions, classes)
        if targets is not None:
            return LabelLoss(CROSS_ENTROPY, component.name, (*others, *axes), classes, True, targets)
    return None


def _one_hot(labels: Array, positions: int, classes: int) -> Floats | None:
    """Probabilities of classes from their ids, or from what are probabilities already; None where these do not fit."""
    each = math.prod(labels.shape[1:])
    if labels.dtype.kind in "iub" and each == positions:
        ids = labels.reshape(len(labels), positions).astype(np.int64)
        if ids.min() >= 0 and ids.max() < classes:
            found = np.zeros((*ids.shape, classes), np.float32)
            np.put_along_axis(found, ids[..., None], 1, axis=2)
            return found
    elif labels.dtype.kind == "f" and each == positions * classes:
        given: Floats = labels.reshape(len(labels), positions, classes).astype(np.float32)
        if given.min() >= 0 and np.allclose(given.sum(axis=2), 1, atol=1e-3):
            return given
    return None
