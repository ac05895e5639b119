"""Importance of channels: criteria are pure functions, this file feeds them with what each channel owns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Group, Slices
from onnxprune.graph.graph import Value
from onnxprune.importance.geometric_median import fpgm
from onnxprune.importance.magnitude import Scores, lamp, power_sums
from onnxprune.layers.dequantize import dequantised, unpacked
from onnxprune.model.model import Model
from onnxprune.model.tensors import FLOATS


def score(
    model: Model, coupling: Coupling, groups: Sequence[Group], criterion: str = "l2", seed: int = 0
) -> list[Scores]:
    """Importance of every unit of some groups, summed over every slice that the unit owns.

    Scores of a group are divided by their mean, so that groups of different width compare; `lamp` compares as it is.

    Args:
        model: Where the weights are.
        coupling: The analysis that the groups come from.
        groups: Groups to score.
        criterion: One of `CRITERIA`, but those that need data (see `damage`).
        seed: Seed of `random`.

    Returns:
        One vector a group; shape (units,).
    """
    if criterion == "random":
        rng = np.random.default_rng(seed)
        return [rng.random(group.units) for group in groups]
    weights = _Weights(model, coupling, groups)
    if criterion == "fpgm":
        return [_normalised(fpgm(weights.rows(s) for s in weights.owned(group))) for group in groups]
    if criterion == "lamp":
        return [lamp(weights.sums(group, 2)) for group in groups]
    if criterion == "bn-scale":
        return [_normalised(weights.norm_scale(group)) for group in groups]
    power = 1 if criterion == "l1" else 2
    return [_normalised(weights.sums(group, power) ** (1 / power)) for group in groups]


def _normalised(scores: Scores) -> Scores:
    mean = scores.mean() if len(scores) else 0.0
    return scores / mean if mean > 0 else scores


class _Weights:
    """Reads each weight once and keeps its sums."""

    def __init__(self, model: Model, coupling: Coupling, groups: Sequence[Group]) -> None:
        self._model = model
        self._quantised = coupling.ties.quantised
        self._packed = coupling.ties.packed
        self._norm_scales = {v.key for v in coupling.ties.norm_scales}
        self._axes: dict[str, set[int]] = {}
        self._sums: dict[tuple[str, int], dict[int, Scores]] = {}
        for group in groups:
            for s in group.slices:
                self._axes.setdefault(s.value.key, set()).add(s.axis)

    def owned(self, group: Group) -> list[Slices]:
        """The slices that hold weights; scales and zero points of quantised ones say nothing by themselves."""
        parts = [*self._quantised.values(), *self._packed.values()]
        parameters = {p.key for s, z, _ in parts for p in (s, z) if p is not None}
        return [
            s
            for s in group.slices
            if s.value.key not in parameters
            and (s.value.elem_type in FLOATS or s.value in self._quantised or s.value in self._packed)
        ]

    def sums(self, group: Group, power: int) -> Scores:
        total = np.zeros(group.units)
        for s in self.owned(group):
            total += self._of(s.value, power)[s.axis][s.indices].sum(axis=1)
        return total

    def norm_scale(self, group: Group) -> Scores:
        """Sum of ``|gamma|`` over the normalisations of a channel (Liu et al., "Network slimming", ICCV 2017)."""
        scales = [s for s in group.slices if s.value.key in self._norm_scales]
        total = np.zeros(group.units)
        for s in scales:
            total += self._of(s.value, 1)[s.axis][s.indices].sum(axis=1)
        return total if scales else np.sqrt(self.sums(group, 2))  # nothing normalises it: fall back to magnitude

    def rows(self, s: Slices) -> NDArray[Any]:
        """What each unit owns of a tensor; shape (units, entries)."""
        weight = np.moveaxis(self._values(s.value), s.axis, 0)
        return weight[s.indices].reshape(len(s.indices), -1)

    def _of(self, value: Value, power: int) -> dict[int, Scores]:
        key = value.key, power
        if key not in self._sums:
            self._sums[key] = power_sums(self._values(value), self._axes[value.key], power)
        return self._sums[key]

    def _values(self, value: Value) -> NDArray[Any]:
        assert value.tensor is not None
        weight, few = self._model.array(value.tensor), value in self._packed
        if value not in self._quantised and not few:
            return weight
        scale, zero, last = self._packed[value] if few else self._quantised[value]
        if scale.tensor is None:
            return weight.astype(np.float32)
        points = self._model.array(zero.tensor) if zero is not None and zero.tensor is not None else None
        return (unpacked if few else dequantised)(weight, self._model.array(scale.tensor), points, last)
