"""Damage curves: predicted loss increase for the removal of units of a group, from the inputs of its consumers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.common.executor import each
from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Group
from onnxprune.importance.magnitude import Scores
from onnxprune.importance.obs import Consumer, Curve, removal_curve
from onnxprune.importance.readers import GroupReader, find_readers
from onnxprune.importance.trials import Trials, WeightChange
from onnxprune.layers.linear import LinearLayer
from onnxprune.model.model import Model
from onnxprune.statistics.moments import Batches, Moments, means

PROBES = (0.25, 0.5, 0.75)
"""Shares of a group's units after whose removal the output error is measured."""
LAST_PROBES, FLAT = (0.875, 0.9375, 1.0), 0.05
"""More such shares, measured in turn where the error is still below the second: few of the units of a group may be
needed at all, and how much is known only of the last ones."""

LAST = 1e6
"""Damage of a unit with an infinite score, as a multiple of that of all others."""


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
    """Estimates the damage curve of each group, in terms of the relative error of the model's outputs.

    The shape of a curve is computed from the layers that read the group (`obs.removal_curve`). Its height is measured
    at a few points: the units are removed, the readers compensate for them, and the model is run. A branch that
    contributes little to a residual sum thus has a low curve.

    Args:
        model: The model with the weights.
        coupling: The analysis of the groups and layers.
        groups: The groups.
        layers: Linear layers of the graph.
        moments: Moments of the layers' inputs, by name.
        fallback: Scores of the units, used for groups that no observed layer reads.
        keep: Minimum number of kept units of each group.
        batches: Held-out feeds for measuring the outputs; with the samples of the moments the estimate would be biased
            by overfitting. Empty to skip the measurement.
        memory: Maximum size in bytes of the stored activations in memory.

    Returns:
        One curve per group.
    """
    readers = find_readers(model, coupling, groups, layers, moments)
    order = sorted((i for i, mine in enumerate(readers) if mine), key=lambda i: readers[i][0].layer.node.index)
    found = [curve_from_scores(s, g.units - least) for s, g, least in zip(fallback, groups, keep, strict=True)]
    positions = [readers[i][0].layer.x.name for i in order]
    tasks = (
        (groups[i].name, _Removal(at, _named(readers[i]), groups[i].units, groups[i].units - keep[i]))
        for at, i in enumerate(order)
    )
    with Trials(model, means(moments), batches, positions, memory=memory) as trials:
        for at, curve in each(_Heights(trials), tasks, len(order), kept="damage curves"):
            found[order[at]] = curve
    return found


@dataclass(frozen=True)
class _Removal:
    """The removal of units of a group, for a process that may not have the graph.

    Attributes:
        position: Position of the first layer that reads the group among those of all groups.
        readers: The layers that read it, by name, with the block of each and what it knows of its inputs.
        units: How many units it has.
        most: How many may go.
    """

    position: int
    readers: list[tuple[str, int, Consumer]]
    units: int
    most: int


def _named(readers: Sequence[GroupReader]) -> list[tuple[str, int, Consumer]]:
    return [(r.layer.name, r.block, r.consumer()) for r in readers]


@dataclass(frozen=True)
class _Heights:
    """Computes the curve of a group, and measures its heights."""

    trials: Trials

    def __call__(self, removal: _Removal) -> Curve:
        possible = self.trials.possible
        curve = removal_curve(
            [consumer for _, _, consumer in removal.readers],
            removal.units,
            removal.most,
            (*PROBES, *LAST_PROBES) if possible else (),
        )
        self.trials.advance(removal.position)
        return Curve(curve.order, fit_to_measurements(curve.loss, self._measured(curve, removal)))

    def _measured(self, curve: Curve, removal: _Removal) -> list[tuple[int, float]]:
        """Pairs of a number of removed units and the error after them."""
        found: list[tuple[int, float]] = []
        for at, weights in curve.probes:
            if found and at > PROBES[-1] * removal.units + 0.5 and found[-1][1] >= FLAT:
                break
            changes = [
                WeightChange(name, block, weight)
                for (name, block, _), weight in zip(removal.readers, weights, strict=True)
            ]
            found.append((at, self.trials.error(changes)))
        return found


def fit_to_measurements(loss: NDArray[np.float64], seen: Sequence[tuple[int, float]]) -> NDArray[np.float64]:
    """Scales a curve piecewise so that it passes through the measured points (removals, error)."""
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


def curve_from_scores(scores: Scores, most: int, whole: float | None = None) -> Curve:
    """Returns the curve of a group without observed readers: the removed share of the squared scores.

    Args:
        scores: Scores of the units; shape (units,). Infinite ones are as good as infinitely high.
        most: Maximum number of removed units.
        whole: What the squares are a share of; by default their sum.
    """
    order = np.argsort(scores, kind="stable")[:most]
    squares = np.square(scores)
    finite = np.isfinite(squares)
    squares[~finite] = LAST * max(float(squares[finite].sum()), 1.0)
    total = float(squares.sum()) if whole is None else whole
    return Curve(order, np.concatenate([[0.0], np.cumsum(squares[order])]) / max(total, 1e-30))
