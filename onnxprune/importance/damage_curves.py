"""Predicted damage of removing units of a group, from what its consumers read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Group
from onnxprune.importance.magnitude import Scores
from onnxprune.importance.obs import Curve, removal_curve
from onnxprune.importance.readers import find_readers
from onnxprune.importance.trials import Change, Trials
from onnxprune.layers.linear import LinearLayer
from onnxprune.model.model import Model
from onnxprune.statistics.moments import Batches, Moments

PROBES = (0.25, 0.5, 0.75)
"""Shares of a group that are taken out to see what the outputs make of it."""


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
    readers = find_readers(model, coupling, groups, layers, moments)
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
