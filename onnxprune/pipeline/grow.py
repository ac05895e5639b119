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
from onnxprune.coupling.groups import Slices
from onnxprune.errors import InputError, PlanError, option
from onnxprune.graph.graph import Graph
from onnxprune.graph.operators import WeightLayout, operator_of
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


def only_grows(growth: Growth, new: Plan, removed: NDArray[np.bool_], coupling: Coupling) -> bool:
    """Whether a new plan, which removes these channels, takes nothing away that the trained model has."""
    more = removed & ~planning.channels(growth.old, coupling)
    return not more.any() and (not new.zeroed or new.zeroed == growth.old.zeroed)


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
    """Makes what comes back count for nothing, in place.

    What readers have for it is set to zero. Where anything but linear layers reads it, a normalisation or a recurrent
    state, that does not do: there what makes it is zero, so that it is zero itself.
    """
    groups = coupling.groups
    read: dict[str, NDArray[np.bool_]] = {}
    plain = _read_by_layers_alone(coupling)
    for one in reads(coupling, groups, linear_layers(coupling.graph)):
        units = np.flatnonzero(gone[groups[one.group].channels])
        tensor = one.layer.weight.tensor
        if not len(units) or tensor is None:
            continue
        array = model.array(tensor)
        matrix = one.layer.matrix(np.zeros(array.shape)).copy()
        matrix[one.block][:, one.columns[units].ravel()] = 1
        theirs = one.layer.unmatrix(matrix, array.shape) != 0
        read[one.layer.weight.key] = theirs | read.get(one.layer.weight.key, np.zeros(array.shape, bool))
        if plain[one.group]:
            model.set_array(tensor, np.where(theirs, 0, array).astype(array.dtype))
    for group, by_layers in zip(groups, plain, strict=True):
        units = np.flatnonzero(gone[group.channels])
        for s in group.slices if len(units) and not by_layers else ():
            if s.value.tensor is not None and s.value.elem_type in WEIGHT_TYPES and not _sums_along(s):
                array = model.array(s.value.tensor).copy()
                zero = np.zeros(array.shape, bool)
                np.moveaxis(zero, s.axis, 0)[s.indices[units].ravel()] = True
                if s.value.key in read and len(s.value.consumers) == 1:  # a tied embedding makes them as well
                    zero &= ~read[s.value.key]
                array[zero] = 0
                model.set_array(s.value.tensor, array)


def _read_by_layers_alone(coupling: Coupling) -> list[bool]:
    """Whether linear layers alone read the channels of a group, by group."""
    groups, graph = coupling.groups, coupling.graph
    layers = {layer.weight.key for layer in linear_layers(graph)}
    counted = np.zeros(len(coupling.channel), dtype=bool)
    for axis in [*(one.axis for one in coupling.ties.refills), *(one.axis for one in coupling.ties.means)]:
        counted[coupling.channels_of(axis)] = True
    matrices = [
        {s.value.key for s in group.slices if np.count_nonzero(np.array(s.value.shape) != 1) > 1} for group in groups
    ]
    return [keys <= layers and not counted[g.channels].any() for g, keys in zip(groups, matrices, strict=True)]


def _sums_along(s: Slices) -> bool:
    """Whether all that read a weight sum along the axis of some slices: they read the units and do not make them."""
    shape = list(s.value.tensor.dims) if s.value.tensor is not None else []
    layouts = [
        layout(node, i, shape) if (layout := operator_of(node).weights) is not None else None
        for node, i in s.value.consumers
    ]
    return bool(layouts) and all(isinstance(one, WeightLayout) and one.inputs == s.axis for one in layouts)


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
