"""Removal in several rounds: after each the model is repaired and scored again.

What is left compensates for what was removed, so its importance differs from that in the whole model. Every round
starts from the original again; what carries over is the order in which the units of each group are removed, with
their losses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxprune.coupling.components import Index
from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Group
from onnxprune.edit.resize import KeptLengths
from onnxprune.edit.slicing import constant_edits
from onnxprune.importance.obs import Curve


def shares(steps: int) -> list[float]:
    """Exponents of the final share for each round but the last: 0.25 in two rounds is reached by way of 0.5."""
    return [k / steps for k in range(1, steps)]


def channel_correspondence(before: Coupling, removed: NDArray[np.bool_], after: Coupling) -> Index:
    """Which channel of the original each channel of a pruned model is.

    Args:
        before: The analysis of the original.
        removed: Its channels that were removed.
        after: The analysis of the pruned model.

    Returns:
        One channel of the original a channel id of the other, -1 where no weight with a single reader shows it.
    """
    lengths = KeptLengths(before, removed)
    sources = {v.key: v for v in before.graph.constants()} | {
        s.key: s.readers[0] for s in constant_edits(before, lengths)
    }
    once = Counter(v.key for v in before.graph.constants())
    once_after = Counter(v.key for v in after.graph.constants())
    found = np.full(after.classes.elements, -1, dtype=np.int64)
    for value in after.graph.constants():
        source = sources.get(value.key)
        if source is None or source.rank != value.rank or once[source.key] > 1 or once_after[value.key] > 1:
            continue
        for axis in value.axes():
            old = source.axis(axis.position)
            ids, channels = after.channels_of(axis), before.channels_of(old)
            kept = lengths.kept(old)
            if len(channels) and len(kept) == len(ids):
                found[ids] = channels[kept]
    return found


def extended(
    curves: Sequence[Curve],
    groups: Sequence[Group],
    removed: Sequence[int],
    later: Sequence[Curve],
    rest: Sequence[Group],
    origin: Index,
) -> list[Curve]:
    """Damage curves of the original's groups, continued by the curves of the pruned model.

    Args:
        curves: What was known of each group.
        groups: The groups of the original.
        removed: Units that the round took of each.
        later: Curves of the groups of the pruned model.
        rest: Those groups.
        origin: See `channel_correspondence`.
    """
    known = {}
    for group, curve in zip(rest, later, strict=True):
        channels = origin[group.channels]
        if (channels >= 0).all():
            known[frozenset(channels.tolist())] = channels, curve
    found = []
    for group, curve, count in zip(groups, curves, removed, strict=True):
        place = {int(c): i for i, c in enumerate(group.channels)}
        went = set(group.channels[curve.order[:count]].tolist())
        match = known.get(frozenset(place) - went)
        if match is None or not count:
            found.append(curve if match is None else _renamed(match, place))
            continue
        after = _renamed(match, place)
        found.append(
            Curve(
                np.concatenate([curve.order[:count], after.order]),
                np.concatenate([curve.loss[: count + 1], curve.loss[count] + after.loss[1:]]),
            )
        )
    return found


def _renamed(match: tuple[Index, Curve], place: dict[int, int]) -> Curve:
    """A curve in terms of the original's units."""
    channels, curve = match
    units = np.array([place[int(c)] for c in channels], dtype=np.int64)
    return Curve(units[curve.order], curve.loss)
