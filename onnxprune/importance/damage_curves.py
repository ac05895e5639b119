"""Predicted damage of removing units of a group, from what its consumers read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Group
from onnxprune.importance import activation
from onnxprune.importance.magnitude import Scores
from onnxprune.importance.obs import Consumer, Curve, removal_curve
from onnxprune.importance.trials import Change, Trials
from onnxprune.layers.linear import LinearLayer
from onnxprune.model.model import Model
from onnxprune.statistics.moments import Batches, Moments

PROBES = (0.25, 0.5, 0.75)
"""Shares of a group that are taken out to see what the outputs make of it."""


@dataclass
class Reader:
    """A block of a product layer that reads a group."""

    layer: LinearLayer
    block: int
    consumer: Consumer


def curves(
    model: Model,
    coupling: Coupling,
    groups: Sequence[Group],
    layers: Sequence[LinearLayer],
    moments: Mapping[str, Moments],
    fallback: Sequence[Scores],
    keep: Sequence[int],
    batches: Batches,
    *,
    memory: int = 2**30,
) -> list[Curve]:
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
        memory: Bytes of activations to hold.
    """
    readers = _readers(model, coupling, groups, layers, moments)
    order = sorted((i for i, mine in enumerate(readers) if mine), key=lambda i: readers[i][0].layer.node.index)
    found = [by_score(s, g.units - least) for s, g, least in zip(fallback, groups, keep, strict=True)]
    with Trials(model, moments, batches, [readers[i][0].layer.x.name for i in order], memory=memory) as trials:
        for i in order:
            trials.step()
            curve = removal_curve(
                [r.consumer for r in readers[i]],
                groups[i].units,
                groups[i].units - keep[i],
                PROBES if trials.possible else (),
            )
            changes = [
                (at, [Change(r.layer.name, r.block, w) for r, w in zip(readers[i], weights, strict=True)])
                for at, weights in curve.probes
            ]
            found[i] = Curve(curve.order, _through(curve.loss, [(at, trials.error(c)) for at, c in changes]))
    return found


def scores(
    criterion: str,
    model: Model,
    coupling: Coupling,
    groups: Sequence[Group],
    layers: Sequence[LinearLayer],
    moments: Mapping[str, Moments],
    fallback: Sequence[Scores],
) -> list[Scores]:
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
    found = [
        score([r.consumer for r in mine]) if mine else other
        for mine, other in zip(_readers(model, coupling, groups, layers, moments), fallback, strict=True)
    ]
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
        result[start : at + 1] = height + (loss[start : at + 1] - loss[start]) * rate
        start, height = at, float(result[at])
    result[start:] = height + (loss[start:] - loss[start]) * rate
    return result


def by_score(scores: Scores, most: int) -> Curve:
    """Where nothing was observed: damage as the share of squared importance that goes."""
    order = np.argsort(scores, kind="stable")[:most]
    squares = np.square(scores)
    return Curve(order, np.concatenate([[0.0], np.cumsum(squares[order])]) / max(float(squares.sum()), 1e-30))


def _readers(
    model: Model,
    coupling: Coupling,
    groups: Sequence[Group],
    layers: Sequence[LinearLayer],
    moments: Mapping[str, Moments],
) -> list[list[Reader]]:
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


def _consumer(
    weight: NDArray[np.float64],
    seen: Moments,
    block: int,
    columns: NDArray[np.int64],
    units: NDArray[np.int64],
    count: int,
) -> Consumer | None:
    """The columns that each unit owns; None unless every unit owns as many."""
    order = np.argsort(units, kind="stable")
    owned, sizes = np.unique(units, return_counts=True)
    if len(owned) != count or len(set(sizes.tolist())) != 1:
        return None
    n = max(seen.count, 1)
    return Consumer(
        weight, seen.covariance(block), columns[order].reshape(count, -1), seen.total[block] / n, seen.zeros[block] / n
    )
