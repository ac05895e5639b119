"""Scores of the units of groups: criteria are pure functions, this file gives them what each unit owns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Group, Slices
from onnxprune.errors import GIVE_DATA, InputError
from onnxprune.extensions.points import Criterion, Scale, as_criterion, call
from onnxprune.graph.graph import Value
from onnxprune.importance.activation import standardised
from onnxprune.importance.gates import Gates, gate_gradients
from onnxprune.importance.gradient_scores import saliency_of_units
from onnxprune.importance.magnitude import Scores, power_sums
from onnxprune.importance.obs import Consumer
from onnxprune.importance.readers import GroupReader, find_readers
from onnxprune.layers.find import linear_layers
from onnxprune.layers.real_values import real_values
from onnxprune.layers.weights import finite_part
from onnxprune.model.model import Model
from onnxprune.model.tensors import FLOATS
from onnxprune.model.values import Values
from onnxprune.statistics.moments import Moments
from onnxprune.statistics.weight_gradients import GradientData


def score(
    model: Model,
    coupling: Coupling,
    groups: Sequence[Group],
    criterion: Criterion | str = "l2",
    *,
    seed: int = 0,
    moments: Mapping[str, Moments] | None = None,
    gradients: GradientData | None = None,
) -> list[Scores]:
    """Importance of every unit of some groups by a criterion that scores each group by itself.

    What the scores of different groups mean beside each other follows `Criterion.scale`. A criterion that needs
    moments or gradients scores groups for which there are none by their ``l2`` norm, on average as important as others.

    Args:
        model: Where the weights are.
        coupling: The analysis that the groups come from.
        groups: Groups to score.
        criterion: The criterion, or its name.
        seed: Seed of the generator that criteria are given.
        moments: Moments of the inputs of linear layers, by name, where the criterion needs them.
        gradients: What gradients are taken of, where the criterion needs them.

    Returns:
        One vector a group; shape (units,).

    Raises:
        InputError: The criterion is unknown, scores no groups, needs data that are not given, or returns something
            else than a score a unit.
    """
    criterion = as_criterion(criterion) if isinstance(criterion, str) else criterion
    if criterion.saliency is not None:
        found = saliency_of_units(criterion, model, coupling, groups, gradients)
        rest = score(model, coupling, [g for g, one in zip(groups, found, strict=True) if one is None], "l2")
        level = _level(found)
        return [one if one is not None else level * rest.pop(0) for one in found]
    if criterion.function is None:
        raise InputError(f"importance {criterion.name!r} does not score the units of a group by themselves")
    weights, rng = _Weights(model, coupling, groups), np.random.default_rng(seed)
    found_readers: Sequence[Sequence[GroupReader]] = [()] * len(groups)
    if criterion.needs == "moments":
        if moments is None:
            raise InputError(f"importance {criterion.name!r} needs calibration data", GIVE_DATA)
        found_readers = find_readers(model, coupling, groups, linear_layers(coupling.graph), moments)
    gates: Sequence[Scores | None] = [None] * len(groups)
    if criterion.needs == "gradients":
        if gradients is None:
            raise InputError(f"importance {criterion.name!r} needs calibration data", GIVE_DATA)
        gates = gate_gradients(Gates(model, coupling, groups), model, gradients)
    views = [
        _View(group, weights, rng, readers, found)
        for group, readers, found in zip(groups, found_readers, gates, strict=True)
    ]
    known = [criterion.needs == "weights" or bool(view.readers) or view.gates is not None for view in views]
    given = [_scaled(_checked(criterion, v), criterion.scale) if k else None for v, k in zip(views, known, strict=True)]
    level = 1.0 if criterion.scale == "mean" else _level(given)
    scores = [
        level * _scaled(np.sqrt(view.sums(2)), "mean") if one is None else one
        for view, one in zip(views, given, strict=True)
    ]
    return standardised(scores) if criterion.scale == "standard" else scores


def _level(scores: Sequence[Scores | None]) -> float:
    """Mean of what is known; 1 where nothing is. Of norms, which stand for the rest, the mean of each group is 1."""
    known = [one[np.isfinite(one)] for one in scores if one is not None]
    values = np.concatenate(known) if known else np.zeros(0)
    return float(values.mean()) if values.size else 1.0


def _checked(criterion: Criterion, view: _View) -> Scores:
    """The scores that a criterion gives to a group."""
    assert criterion.function is not None
    found = np.asarray(call("importance", criterion.name, criterion.function, view))
    if found.shape != (view.units,) or found.dtype.kind not in "fiub":
        raise InputError(
            f"importance {criterion.name!r} must return a number for each of the {view.units} units of group "
            f"{view.name!r}, not {found.dtype} of shape {found.shape}"
        )
    return found.astype(np.float64)


def _scaled(scores: Scores, scale: Scale) -> Scores:
    if scale != "mean":
        return scores
    finite = scores[np.isfinite(scores)]
    mean = finite.mean() if len(finite) else 0.0
    return scores / mean if mean > 0 else scores


@dataclass
class _View:
    """What a criterion is given of a group, see `criterion_views.GroupView`."""

    group: Group
    weights: _Weights
    rng: np.random.Generator
    readers: Sequence[GroupReader] = ()
    gates: Scores | None = None

    @property
    def name(self) -> str:
        return self.group.name

    @property
    def units(self) -> int:
        return self.group.units

    def rows(self) -> Iterator[NDArray[Any]]:
        return (self.weights.rows(s) for s in self.weights.owned(self.group))

    def sums(self, power: int) -> Scores:
        return self.weights.sums(self.group, power)

    def norm_scale(self) -> Scores:
        return self.weights.norm_scale(self.group)

    def consumers(self) -> list[Consumer]:
        return [reader.consumer() for reader in self.readers]

    def gate_gradients(self) -> Scores | None:
        return self.gates


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
            self._sums[key] = power_sums(self._real_values(value), self._axes[value.key], power)
        return self._sums[key]

    def _values(self, value: Value) -> NDArray[Any]:
        return finite_part(self._real_values(value).array())

    def _real_values(self, value: Value) -> Values:
        return real_values(self._model, value, self._quantised, self._packed)
