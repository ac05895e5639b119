"""Scores by criteria that ask for gradients, of the units of groups and of the elements of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Group
from onnxprune.errors import GIVE_DATA, InputError
from onnxprune.extensions.points import Criterion
from onnxprune.importance.element_scores import element_scores
from onnxprune.importance.gates import Gates, unit_masks
from onnxprune.importance.saliency import grasp, snip
from onnxprune.importance.synflow import SynapticFlow, ranked
from onnxprune.model.model import Model
from onnxprune.statistics.weight_gradients import GradientData, SampleGradients, gradient_means

Array = NDArray[Any]
Floats = NDArray[np.float64]


def scores_of_elements(
    criterion: Criterion, model: Model, weights: Mapping[str, Array], data: GradientData | None
) -> dict[str, Floats]:
    """Scores that compare across weights, for those that have a gradient; by name, shape of the weight.

    Args:
        criterion: A criterion that needs gradients, or one of saliency.
        model: The model.
        weights: The weights by name.
        data: What gradients are taken of; None for a criterion that needs no data.

    Raises:
        InputError: No weight has a gradient.
    """
    if not weights:
        return {}
    if criterion.saliency == "synflow":
        flow = SynapticFlow(model, weights)
        shapes = [weights[name].shape for name in flow.names]

        def scores(gone: Sequence[NDArray[np.bool_]]) -> list[Floats]:
            masks = {n: m.reshape(s) for n, m, s in zip(flow.names, gone, shapes, strict=True)}
            return [found.ravel() for found in flow.flow(masks).values()]

        ranks = ranked([int(np.prod(s)) for s in shapes], scores)
        return {n: r.reshape(s) for n, r, s in zip(flow.names, ranks, shapes, strict=True)}
    given = _given(criterion, data)
    if criterion.saliency is None:
        means = gradient_means(SampleGradients(model, weights, given))
        return {name: element_scores(criterion, weights[name], gradients=found) for name, found in means.items()}
    found = snip(model, weights, given) if criterion.saliency == "snip" else grasp(model, weights, given)
    return dict(zip(found, _from_zero(criterion, list(found.values())), strict=True))


def saliency_of_units(
    criterion: Criterion, model: Model, coupling: Coupling, groups: Sequence[Group], data: GradientData | None
) -> list[Floats | None]:
    """Scores of the units by a criterion of saliency, which compare across groups; shape (units,) each.

    None for a group of whose weights none has a gradient.

    Args:
        criterion: The criterion.
        model: The model.
        coupling: The analysis that the groups come from.
        groups: The groups.
        data: What gradients are taken of; None for a criterion that needs no data.

    Raises:
        InputError: No weight has a gradient.
    """
    gates = Gates(model, coupling, groups)
    if criterion.saliency == "synflow":
        return _flow_of_units(gates, SynapticFlow(model, gates.weights), groups)
    method = snip if criterion.saliency == "snip" else grasp
    sums = gates.sums(method(model, gates.weights, _given(criterion, data)))
    known = iter(_from_zero(criterion, [one for one in sums if one is not None]))
    return [None if one is None else next(known) for one in sums]


def _flow_of_units(gates: Gates, flow: SynapticFlow, groups: Sequence[Group]) -> list[Floats | None]:
    shapes = {name: array.shape for name, array in gates.weights.items()}
    known = [i for i, one in enumerate(gates.sums(flow.flow({}))) if one is not None]

    def scores(gone: Sequence[NDArray[np.bool_]]) -> list[Floats]:
        units = [np.flatnonzero(one) for one in gone]
        masks = unit_masks([groups[i] for i in known], units, shapes)
        return [one for one in gates.sums(flow.flow(masks)) if one is not None]

    ranks = dict(zip(known, ranked([groups[i].units for i in known], scores), strict=True))
    return [ranks.get(i) for i in range(len(groups))]


def _from_zero(criterion: Criterion, found: Sequence[Floats]) -> list[Floats]:
    """Sensitivities by their size; what may be of either sign, by what it is above the least."""
    if criterion.saliency == "snip":
        return [np.abs(one) for one in found]
    least = min((float(one.min()) for one in found if one.size), default=0.0)
    return [one - least for one in found]


def _given(criterion: Criterion, data: GradientData | None) -> GradientData:
    if data is None:
        raise InputError(f"importance {criterion.name!r} needs calibration data", GIVE_DATA)
    return data
