"""Residual streams are left whole where no measured damage says otherwise, as far as a target allows."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import ceil

import numpy as np

from onnxprune.allocation.selection import Selection
from onnxprune.common.text import percent, printable
from onnxprune.cost.cost_model import parameters
from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Group
from onnxprune.coupling.streams import Stream, find_streams
from onnxprune.errors import Words, option
from onnxprune.importance.obs import Curve

FLOOR = 0.4
"""Share of every other group that stays before a target takes of a stream. The perplexity of a trained decoder without
data, with 60% of its parameters, is 5.9 so, 15 where the others go to the end first, and 13 with a floor of half."""
STEPS = 20
"""A stream loses a twentieth after the other until the target is met."""

Allocate = Callable[[Sequence[Curve], Mapping[int, float]], Selection]
"""Meets the targets with some damage curves, and shares that stay of groups by their position."""


def streams_to_spare(coupling: Coupling, groups: Sequence[Group], keep: Mapping[int, float]) -> dict[int, Stream]:
    """The streams of which nothing else is asked, by their position; none where nothing but these is open."""
    streams = find_streams(coupling)
    found = {i: streams[g.name] for i, g in enumerate(groups) if g.name in streams and i not in keep}
    return found if len(found) < len(groups) else {}


def meeting_targets(
    allocate: Allocate,
    groups: Sequence[Group],
    curves: Sequence[Curve],
    keep: Mapping[int, float],
    streams: Mapping[int, Stream],
) -> Selection:
    """The selection that meets the targets and takes least of the streams; of anything where that is not enough."""
    fixed = {*streams, *keep}
    others = [c if i in fixed else _bounded(c, g) for i, (c, g) in enumerate(zip(curves, groups, strict=True))]
    tried: dict[int, Selection] = {}

    def meets(step: int) -> bool:
        tried[step] = allocate(others, {**keep, **dict.fromkeys(streams, 1 - step / STEPS)})
        return all(target["met"] for target in tried[step].targets.values())

    if meets(0):
        return replace(tried[0], spared={groups[i].name: stream for i, stream in streams.items()})
    if not meets(STEPS - 1):
        return allocate(curves, keep)
    least = bisect_left(range(STEPS - 1), True, lo=1, key=meets)
    return tried[least] if least in tried else allocate(others, {**keep, **dict.fromkeys(streams, 1 - least / STEPS)})


def spared_lines(
    spared: Mapping[str, Stream], coupling: Coupling, groups: Sequence[Group], min_channels: int, total: int
) -> list[Words]:
    """What a report says of residual streams that were left whole, and of what can be left without them and with them.

    Args:
        spared: The streams that were left whole.
        coupling: The analysis of the model that channels are removed from.
        groups: The groups that are open.
        min_channels: What every group keeps.
        total: Parameters of the original.
    """
    lines = [
        Words(
            f"{printable(name)} stays whole: {stream.readers} of {stream.layers} layers read it and {stream.writers} "
            f"add to it; {option('only')} or {option('keep')} with its name prunes it, and a target with "
            f"{option('calib', ...)} weighs it against the others"
        )
        for name, stream in spared.items()
    ]
    if not lines:
        return []
    left, most = parameters(coupling, groups).left, np.array([g.most(min_channels) for g in groups])
    others = np.where([g.name in spared for g in groups], 0, most)
    lowest = ceil(100 * left(most) / total) / 100
    lines.append(
        Words(
            f"without {' and '.join(map(printable, spared))} at least {percent(left(others), total)} of the parameters "
            f"stay, whatever else goes; {option('target', {'params': lowest})} is the least that can be met"
        )
    )
    return lines


def _bounded(curve: Curve, group: Group) -> Curve:
    """The curve as far as the floor of its group."""
    most = min(int((1 - FLOOR) * group.units), len(curve.order))
    return replace(curve, order=curve.order[:most], loss=curve.loss[: most + 1])
