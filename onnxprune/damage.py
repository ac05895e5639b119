"""Predicted damage of removing units of a group, from what its consumers read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.coupling import Coupling
from onnxprune.graph import Graph
from onnxprune.groups import Group
from onnxprune.layer_weights import add_bias
from onnxprune.linear_maps import Product
from onnxprune.logits import unsquashed
from onnxprune.model import Model
from onnxprune.observe import Batches, Moments
from onnxprune.products import products
from onnxprune.runtime import session
from onnxprune.scoring import Scores, activation
from onnxprune.scoring.obs import Consumer, Curve, removal_curve

PROBES = (0.25, 0.5, 0.75)
"""Shares of a group that are taken out to see what the outputs make of it."""


@dataclass
class Reader:
    """A block of a product layer that reads a group."""

    layer: Product
    block: int
    consumer: Consumer


def curves(model: Model, coupling: Coupling, groups: Sequence[Group], layers: Sequence[Product],
           moments: Mapping[str, Moments], fallback: Sequence[Scores], keep: Sequence[int],
           batches: Batches) -> list[Curve]:
    """The removal curve of each group, in terms of the model's outputs before a final softmax.

    The shape of a curve comes from the layers that read the group. Its height is measured at a few points: a share of
    the group goes, its readers make up for it, and the model runs. So a branch that adds little to a deep sum counts
    little.

    Args:
        model: Where the weights are.
        coupling: The analysis that groups and layers belong to.
        groups: The groups.
        layers: Product layers of the graph.
        moments: Moments of the layers' inputs, by name.
        fallback: Importance of units of groups that no observed layer reads.
        keep: Units that each group keeps at least.
        batches: Feeds to measure the outputs with, none of them among those of the moments, or what was learned by
            heart counts as known; empty to leave heights as the readers alone have them.
    """
    readers = _readers(model, coupling, groups, layers, moments)
    reference = _logits(model, batches)
    probes = PROBES if reference else ()
    found = []
    for group, mine, scores, least in zip(groups, readers, fallback, keep, strict=True):
        most = group.units - least
        if not mine:
            found.append(by_score(scores, most))
            continue
        curve = removal_curve([r.consumer for r in mine], group.units, most, probes)
        seen = [(at, _measured(model, mine, weights, moments, batches, reference)) for at, weights in curve.probes]
        found.append(Curve(curve.order, _through(curve.loss, seen)))
    return found


def scores(criterion: str, model: Model, coupling: Coupling, groups: Sequence[Group], layers: Sequence[Product],
           moments: Mapping[str, Moments], fallback: Sequence[Scores]) -> list[Scores]:
    """Importance of every unit of some groups by a criterion of `scoring.activation`.

    ``wanda`` is divided by its mean in each group, ``flap`` standardised, ``apoz`` a share as it is.

    Args:
        criterion: ``wanda``, ``flap`` or ``apoz``.
        model: Where the weights are.
        coupling: The analysis that groups and layers belong to.
        groups: The groups.
        layers: Product layers of the graph.
        moments: Moments of the layers' inputs, by name.
        fallback: Importance of units of groups that no observed layer reads.
    """
    score = {"wanda": activation.wanda, "flap": activation.flap, "apoz": activation.apoz}[criterion]
    found = [score([r.consumer for r in mine]) if mine else other
             for mine, other in zip(_readers(model, coupling, groups, layers, moments), fallback, strict=True)]
    if criterion == "flap":
        return activation.standardised(found)
    return found if criterion == "apoz" else [s / max(float(s.mean()), 1e-30) for s in found]


def _through(loss: NDArray[np.float64], seen: Sequence[tuple[int, float]]) -> NDArray[np.float64]:
    """The curve, stretched piece by piece so that it goes through the points that were measured."""
    if not seen:
        return loss
    result = np.zeros_like(loss)
    start, height, rate = 0, 0.0, 1.0
    for at, value in seen:
        rise = loss[at] - loss[start]
        rate = max(value - height, 1e-9) / rise if rise > 0 else rate
        result[start:at + 1] = height + (loss[start:at + 1] - loss[start]) * rate
        start, height = at, float(result[at])
    result[start:] = height + (loss[start:] - loss[start]) * rate
    return result


def _measured(model: Model, readers: Sequence[Reader], weights: Sequence[NDArray[np.float64]],
              moments: Mapping[str, Moments], batches: Batches, reference: list[list[NDArray[Any]]]) -> float:
    """Relative squared error of the outputs once the readers have these weights."""
    changed = model.copy()
    graph = Graph(changed.proto)
    layers = {layer.name: layer for layer in products(graph)}
    for reader, weight in zip(readers, weights, strict=True):
        layer = layers[reader.layer.name]
        tensor = layer.weight.tensor
        assert tensor is not None
        stored = changed.array(tensor)
        matrix = layer.matrix(stored).astype(np.float64)
        seen = moments[layer.name]
        shift = (matrix[reader.block] - weight) @ (seen.total[reader.block] / max(seen.count, 1))
        matrix[reader.block] = weight
        changed.set_array(tensor, layer.unmatrix(matrix, stored.shape).astype(stored.dtype))
        add_bias(changed, layer, reader.block, shift)
    return relative_error(reference, _logits(changed, batches))


def _logits(model: Model, batches: Batches) -> list[list[NDArray[Any]]]:
    """Every output for every batch, before a final softmax."""
    source, centres = unsquashed(model)
    return [[centre(y) for centre, y in zip(centres, arrays, strict=True)] for arrays in outputs(source, batches)]


def outputs(model: Model, batches: Batches) -> list[list[NDArray[Any]]]:
    """Every output of the model for every batch."""
    return list(session(model).each(batches))


def relative_error(before: Sequence[Sequence[NDArray[Any]]], after: Sequence[Sequence[NDArray[Any]]]) -> float:
    """Mean over the outputs of squared error over variance, over all batches."""
    errors = []
    for i in range(len(before[0])):
        a = [np.asarray(b[i]) for b in before]
        if a[0].dtype.kind != "f":
            continue
        flat = np.concatenate([x.ravel() for x in a]).astype(np.float64)
        other = np.concatenate([np.asarray(b[i]).ravel() for b in after]).astype(np.float64)
        errors.append(float(np.mean((flat - other) ** 2) / max(flat.var(), 1e-30)))
    return float(np.mean(errors)) if errors else 0.0


def by_score(scores: Scores, most: int) -> Curve:
    """Where nothing was observed: damage as the share of squared importance that goes."""
    order = np.argsort(scores, kind="stable")[:most]
    squares = np.square(scores)
    return Curve(order, np.concatenate([[0.0], np.cumsum(squares[order])]) / max(float(squares.sum()), 1e-30))


def _readers(model: Model, coupling: Coupling, groups: Sequence[Group], layers: Sequence[Product],
             moments: Mapping[str, Moments]) -> list[list[Reader]]:
    group_of = np.full(len(coupling.channel), -1, dtype=np.int64)
    unit_of = np.zeros(len(coupling.channel), dtype=np.int64)
    for i, group in enumerate(groups):
        group_of[group.channels] = i
        unit_of[group.channels] = np.arange(group.units)
    found: list[list[Reader]] = [[] for _ in groups]
    for layer in layers:
        if layer.name not in moments or layer.weight.tensor is None:
            continue
        read = coupling.channels_of(layer.x.axis(layer.x_axis))
        made = coupling.channels_of(layer.output.axis(layer.out_axis))
        if len(read) != layer.features[0] or len(made) != layer.features[1]:
            continue
        weight = layer.matrix(model.array(layer.weight.tensor)).astype(np.float64)
        outputs = made.reshape(layer.groups, -1)
        for g in np.unique(group_of[read]):
            if g < 0:
                continue
            where = np.flatnonzero(group_of[read] == g)
            block, columns = layer.columns_of_inputs(where)
            for b in np.unique(block):
                mine = block == b
                units = unit_of[read[where[mine]]]
                if set(outputs[b].tolist()) <= set(read[where[mine]].tolist()):
                    continue  # what it makes goes with what it reads (a depthwise convolution): nobody loses
                consumer = _consumer(weight[b], moments[layer.name], int(b), columns[mine], units, groups[g].units)
                if consumer is not None:
                    found[g].append(Reader(layer, int(b), consumer))
    return found


def _consumer(weight: NDArray[np.float64], seen: Moments, block: int, columns: NDArray[np.int64],
              units: NDArray[np.int64], count: int) -> Consumer | None:
    """The columns that each unit owns; None unless every unit owns as many."""
    order = np.argsort(units, kind="stable")
    owned, sizes = np.unique(units, return_counts=True)
    if len(owned) != count or len(set(sizes.tolist())) != 1:
        return None
    n = max(seen.count, 1)
    return Consumer(weight, seen.covariance(block), columns[order].reshape(count, -1), seen.total[block] / n,
                    seen.zeros[block] / n)
