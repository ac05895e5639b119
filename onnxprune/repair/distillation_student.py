"""The student of a distillation: the pruned model with its distance from the teacher as a loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.gradients import losses
from onnxprune.gradients.trainable import Floats, Terms, Trainable
from onnxprune.graph.graph import Graph, Value
from onnxprune.graph.operators import Postprocessing
from onnxprune.ops.gradients.writer import Writer
from onnxprune.repair.distillation_teacher import Targets, Views, share_name, target_name, weight_name
from onnxprune.runtime.io_slices import Batch
from onnxprune.verification.comparable_outputs import Component
from onnxprune.verification.output_error import Errors
from onnxprune.verification.output_values import class_axes

TEMPERATURE = 2.0
"""Temperature of a softmax that decides once a sample; one that decides at many positions has 1."""
DIVERGENCE = 0.25
"""Weight of divergences next to that of squared errors, which models are judged by."""
FEATURES = 0.5
"""Weight of the mean error of the features, next to that of the outputs."""


def student(both: Views, feeds: Batch, targets: Targets, feature_sizes: Mapping[str, float]) -> Trainable:
    """The pruned model, ready to be trained on the targets of batches of one shape.

    Args:
        both: The models.
        feeds: A batch for the pruned model.
        targets: Its targets.
        feature_sizes: Mean square of each feature.
    """

    def terms(graph: Graph, write: Writer) -> Terms:
        return distances(graph, write, both, targets, feature_sizes)

    return Trainable(both.student, feeds, targets.feeds(), terms, both.outputs)


def distances(
    graph: Graph,
    write: Writer,
    both: Views,
    targets: Targets,
    feature_sizes: Mapping[str, float],
    features: float = FEATURES,
) -> list[tuple[str, float]]:
    """Writes the distances of outputs and features from the teacher's, with their weights.

    Args:
        graph: The graph of the pruned model.
        write: Adds nodes.
        both: The models.
        targets: The targets of a batch.
        feature_sizes: Mean square of each feature.
        features: Weight of all features together.
    """
    terms: list[tuple[str, float]] = []
    compared = [i for i in range(len(both.components)) if i in targets.weights]
    for i in compared:
        value = graph.main.names[both.components[i].name]
        found = _output_loss(write, both.components[i], value, i, targets)
        terms += [(name, weight / len(compared)) for name, weight in found]
    for name in both.features:
        array = targets.values[target_name(name)]
        scale = features / len(both.features) / feature_sizes[name] / array.size
        terms.append((losses.squared_error(write, name, target_name(name), None), scale))
    return terms


def held_back_errors(
    trained: Trainable, both: Views, held: Sequence[tuple[Batch, Sequence[Any]]], weights: Mapping[str, Floats]
) -> NDArray[np.float64]:
    """Squared errors of the outputs on some samples, with some weights; their sum is a share of the variance.

    Args:
        trained: The student.
        both: The models.
        held: For each sample its feeds for the student, and the outputs of the teacher.
        weights: The weights.
    """
    errors = Errors(1, both.components)
    for feeds, wanted in held:
        errors.add(wanted, [trained.outputs(feeds, weights)])
    return errors.by_batch()[:, 0]


def _output_loss(
    write: Writer, component: Component, value: Value, i: int, targets: Targets
) -> list[tuple[str, float]]:
    """The losses of one output, with their weights."""
    target, weights, rank = targets.values[target_name(i)], weight_name(i), value.rank or 0
    axes = class_axes(component, [axis.length or 1 for axis in value.axes()])
    order = [*(a for a in range(rank) if a not in axes), *axes]
    values = losses.rows(write, value.name, None if order == sorted(order) else order, target.shape[1])
    if component.scores is Postprocessing.SOFTMAX:
        values = losses.centred(write, values, target.shape[1])
    error = losses.squared_error(write, values, target_name(i), weights)
    if component.scores is None:
        return [(error, 1.0)]
    if component.scores is Postprocessing.SIGMOID:
        distance = losses.binary_divergence(write, values, target_name(i), share_name(i))
    else:
        temperature = 1.0 if _positions(value, axes) > 1 else TEMPERATURE
        distance = losses.divergence(write, values, target_name(i), share_name(i), temperature)
    return [(error, 1.0), (distance, DIVERGENCE)]


def _positions(value: Value, axes: Sequence[int]) -> int:
    """Positions of one sample."""
    found = 1
    for axis in value.axes()[1:]:
        found *= 1 if axis.position in axes else axis.length or 1
    return found
