"""Scores of whole experts, by what each contributes on calibration data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Group
from onnxprune.importance.magnitude import Scores
from onnxprune.model.model import Model
from onnxprune.statistics import spelled_experts
from onnxprune.statistics.experts import contributions
from onnxprune.statistics.moments import Batches


def score_experts(
    model: Model, coupling: Coupling, groups: Sequence[Group], scores: Sequence[Scores], batches: Batches
) -> list[Scores]:
    """The scores with those of experts replaced: shares of the mean contribution, see `statistics.experts`.

    Groups keep theirs if they hold no experts, or those of a mixture in a body, or if no sample reaches any of them.

    Args:
        model: The model.
        coupling: The analysis that the groups come from.
        groups: The groups.
        scores: Scores of their units; shape (units,) each.
        batches: Calibration feeds.

    Raises:
        CannotCut: The model cannot be run in pieces.
    """
    sums = np.full(len(coupling.channel), np.nan)
    mixtures = [one for one in coupling.ties.experts if one.node.scope is coupling.graph.main]
    sought = np.unique(np.concatenate([group.channels for group in groups])) if groups else np.empty(0, np.int64)
    mixtures = [one for one in mixtures if np.isin(coupling.channels_of(one.chosen), sought).any()]
    searches = [one for one in coupling.ties.searches if one.axis.value.scope is coupling.graph.main]
    searches = [one for one in searches if np.isin(coupling.channels_of(one.axis), sought).any()]
    fused = contributions(model, mixtures, batches)
    spelled = spelled_experts.contributions(model, coupling, searches, batches)
    axes = [one.chosen for one in mixtures] + [one.axis for one in searches]
    for axis, found in zip(axes, [*fused, *spelled], strict=True):
        if found is not None:
            channels = coupling.channels_of(axis)
            sums[channels] = np.nan_to_num(sums[channels]) + found
    return [_scaled(sums[group.channels], old) for group, old in zip(groups, scores, strict=True)]


def _scaled(found: Scores, old: Scores) -> Scores:
    mean = float(found.mean())  # NaN where a unit is no expert
    return found / mean if mean > 0 else old
