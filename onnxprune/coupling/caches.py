"""Caches of one shape: what runs a model makes all of them alike, so that they must lose as much as each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Group


def of_one_shape(coupling: Coupling, groups: Sequence[Group]) -> list[list[int]]:
    """Positions of groups, in sets, that slice graph inputs and outputs of one shape.

    They are those with as many units that slice the same axes, of the same length, of inputs and outputs that may
    shrink. Sets of one are left out.
    """
    axes = [(a, coupling.channels_of(a)) for v in coupling.shrinking_values.values() for a in v.axes()]
    sets: dict[tuple[int, frozenset[tuple[int, int]]], list[int]] = {}
    for i, group in enumerate(groups):
        cut = frozenset((a.position, len(ids)) for a, ids in axes if np.isin(group.channels, ids).any())
        if cut:
            sets.setdefault((group.units, cut), []).append(i)
    return [some for some in sets.values() if len(some) > 1]
