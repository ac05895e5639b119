"""Channels that come back: the weights of a pruned and trained model in the model that it was made of.

What the first plan removed has its weights of the original again, but nothing reads it yet: the weights that readers
have for it are zero, so that the grown model computes what the pruned one did (as Net2Net grows networks: Chen et al.,
ICLR 2016). A repair or a training puts it to use. What the new plan removes as well goes again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.coupling.coupling import Coupling
from onnxprune.errors import InputError, PlanError, option
from onnxprune.graph.graph import Graph
from onnxprune.graph.shape_inference import infer
from onnxprune.importance.readers import reads
from onnxprune.layers.find import linear_layers, matched
from onnxprune.layers.weights import bias_of, set_bias
from onnxprune.model.model import Model
from onnxprune.model.tensors import WEIGHT_TYPES
from onnxprune.pipeline.analysis import Analysis
from onnxprune.pipeline.original import Original
from onnxprune.planning import plan as planning
from onnxprune.planning.plan import Plan

Array = NDArray[Any]


@dataclass(frozen=True)
class Growth:
    """What grows back.

    Attributes:
        old: The plan that made a model.
        trained: That model, trained since.
    """

    old: Plan
    trained: Original


def grow(analysis: Analysis, growth: Growth, removed: NDArray[np.bool_]) -> dict[str, Array]:
    """Gives an analysed original the weights of a model that was made of it and trained since, in place.

    Args:
        analysis: The analysis of the original.
        growth: What grows back.
        removed: Channels that the new plan removes; boolean per channel id.

    Returns:
        Biases of layers that have none in the original, without the new plan's channels, for `add_biases`.

    Raises:
        PlanError: The plan does not fit, leaves out blocks, reorders channels or cuts shared weights in several ways.
        InputError: The model is not one that the plan makes.
    """
    old, trained = growth.old, growth.trained.dense()
    if old.depth or old.permuted or old.split:
        raise PlanError(f"{option('grow_from')}: the plan does more than to remove channels and to set zeros")
    model, coupling = analysis.model, analysis.coupling
    gone = planning.channels(old, coupling)
    theirs = {v.key: v.tensor for v in Graph(trained.proto).constants() if v.tensor is not None}
    for value in coupling.graph.constants():
        if value.tensor is None or value.elem_type not in WEIGHT_TYPES:
            continue  # shapes, which follow from the widths
        if value.key in theirs:
            left = trained.array(theirs[value.key])
            full = _scattered(model.array(value.tensor), left, old.removed.get(value.key, {}), value.key)
            model.set_array(value.tensor, full)
        elif value.key in old.removed:
            raise InputError(f"the trained model has no {value.key!r}", "name the model that the plan made")
    _silence(model, coupling, gone)
    return _new_biases(coupling, gone, removed, trained)


def add_biases(model: Model, biases: dict[str, Array]) -> None:
    """Adds biases to layers of a model that was pruned by the new plan, in place."""
    graph = Graph(model.proto)
    infer(graph)
    for layer in linear_layers(graph):
        if layer.name in biases:
            set_bias(model, layer, biases[layer.name].reshape(layer.groups, -1))


def _scattered(full: Array, left: Array, removed: Mapping[str, Sequence[int]], name: str) -> Array:
    """The original's array with what is left of it in another version."""
    kept = [np.delete(np.arange(n), removed.get(str(axis), [])) for axis, n in enumerate(full.shape)]
    if tuple(map(len, kept)) != left.shape:
        raise InputError(
            f"{name!r} has shape {left.shape} in the trained model, and the plan leaves {tuple(map(len, kept))}",
            "name the model that the plan made",
        )
    found: Array = full.copy()
    found[np.ix_(*kept)] = left
    return found


def _silence(model: Model, coupling: Coupling, gone: NDArray[np.bool_]) -> None:
    """Sets what readers have for the channels that come back to zero, in place."""
    groups = coupling.groups
    for read in reads(coupling, groups, linear_layers(coupling.graph)):
        units = np.flatnonzero(gone[groups[read.group].channels])
        tensor = read.layer.weight.tensor
        if len(units) and tensor is not None:
            array = model.array(tensor)
            matrix = read.layer.matrix(array).copy()
            matrix[read.block][:, read.columns[units].ravel()] = 0
            model.set_array(tensor, read.layer.unmatrix(matrix, array.shape).astype(array.dtype))


def _new_biases(
    coupling: Coupling, gone: NDArray[np.bool_], removed: NDArray[np.bool_], trained: Model
) -> dict[str, Array]:
    """Biases that a repair gave layers without any: zero for channels that come back; by the name of the layer."""
    graph = Graph(trained.proto)
    infer(graph)
    found = {}
    for layer, other in matched(linear_layers(coupling.graph), linear_layers(graph)):
        if layer.bias is None and other.bias is not None:
            channels = coupling.channels_of(layer.output.axis(layer.out_axis))
            bias = np.zeros(len(channels))
            bias[~gone[channels]] = bias_of(trained, other).ravel()
            found[layer.name] = bias[~removed[channels]]
    return found
