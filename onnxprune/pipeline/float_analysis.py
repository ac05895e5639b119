"""The analysis of a model in which quantised weights are floats: what is learnt of those layers holds for both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.coupling.components import Index
from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Group
from onnxprune.layers.real_weights import RealWeights
from onnxprune.pipeline.analysis import Analysis, reanalyze


def with_floats(analysis: Analysis, groups: Sequence[Group], memory: int) -> tuple[Analysis, list[Group]]:
    """The analysis of a model with floats in the place of quantised weights, and the same groups of it.

    Args:
        analysis: The analysis of the model.
        groups: Some of its groups.
        memory: Bytes that the floats may take.

    Returns:
        Both as they are where nothing is quantised, or where a group has no counterpart unit by unit.
    """
    real = RealWeights(analysis.model, memory)
    if not real.found:
        return analysis, list(groups)
    other = reanalyze(analysis, real.model)
    counterpart = _correspondence(analysis.coupling, other.coupling)
    known = {tuple(group.channels.tolist()): group for group in other.groups}
    found = [known.get(tuple(counterpart[group.channels].tolist())) for group in groups]
    if None in found:
        return analysis, list(groups)
    return other, [group for group in found if group is not None]


def _correspondence(one: Coupling, other: Coupling) -> Index:
    """The channel of another analysis that each channel is, -1 where no value that both have shows it."""
    found = np.full(one.classes.elements, -1, dtype=np.int64)
    values = other.graph.main.names
    for name, value in one.graph.main.names.items():
        same = values.get(name)
        if same is None or same.rank != value.rank:
            continue
        for axis in value.axes():
            ids, others = one.channels_of(axis), other.channels_of(same.axis(axis.position))
            if len(ids) == len(others):
                found[ids] = others
    return found
