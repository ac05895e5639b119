"""Selects the units to remove: by a ratio, or by a budget at the least predicted damage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune._text import amount, milliseconds
from onnxprune.allocation import budget
from onnxprune.allocation.counts import ranked, uniform, weakest
from onnxprune.allocation.target import Target
from onnxprune.allocation.widths import limits_of
from onnxprune.cost.measure import Cost
from onnxprune.cost.targets import predicted, totals
from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Group
from onnxprune.errors import InputError, option
from onnxprune.extensions import CostFactory, Limit
from onnxprune.importance.magnitude import Scores
from onnxprune.importance.obs import Curve
from onnxprune.options import LATENCY, Channels
from onnxprune.planning.plan import describe


@dataclass(frozen=True)
class Selection:
    """The selected channels.

    Attributes:
        removed: Boolean per channel id, True for what is removed.
        entries: What plan and report say of each group.
        targets: Requested and remaining amount of each cost, and whether the target is met.
        rounded: Name of each group that rounding of a ratio changed -> units that it keeps without rounding, and now.
    """

    removed: NDArray[np.bool_]
    entries: list[dict[str, Any]]
    targets: dict[str, dict[str, Any]] = field(default_factory=dict)
    rounded: dict[str, tuple[int, int]] = field(default_factory=dict)


def nothing(coupling: Coupling) -> Selection:
    """No channel at all."""
    return Selection(np.zeros(coupling.classes.elements, dtype=bool), [describe(g, [], None) for g in coupling.groups])


def by_ratio(coupling: Coupling, groups: Sequence[Group], scores: Sequence[Scores], options: Channels) -> Selection:
    """The weakest units of some groups, as many as the ratio asks for."""
    assert options.ratio is not None
    counts, plain = (
        ranked(groups, scores, options.ratio, limits)
        if options.global_ranking
        else uniform(groups, options.ratio, limits)
        for limits in (limits_of(groups, options.min_channels, rounding) for rounding in (options.rounding, 1))
    )
    taken = _taken(coupling, groups, [weakest(s, n) for s, n in zip(scores, counts, strict=True)], scores)
    changed = {g.name: (g.units - n, g.units - m) for g, n, m in zip(groups, plain, counts, strict=True) if n != m}
    return replace(taken, rounded=changed)


def by_budget(
    coupling: Coupling,
    groups: Sequence[Group],
    curves: Sequence[Curve],
    options: Channels,
    before: Cost,
    input_shapes: Mapping[str, Sequence[int]],
) -> Selection:
    """The units whose removal meets every target at the least summed damage."""
    models = {cost.name: predicted(cost, coupling, groups, before, input_shapes) for cost in options.costs}
    whole = totals(options.costs, coupling, before, input_shapes)
    asked = {name: _limit(name, text, whole[name]) for name, text in options.limits.items()}
    limits = limits_of(groups, options.min_channels, options.rounding)
    found = budget.allocate(
        [c.loss for c in curves],
        [g.units for g in groups],
        [Target(models[name], limit) for name, limit in asked.items()],
        limits,
    )
    chosen = _taken(
        coupling,
        groups,
        [np.sort(c.order[:n]) for c, n in zip(curves, found.removed, strict=True)],
        None,
        [float(c.loss[n]) for c, n in zip(curves, found.removed, strict=True)],
    )
    targets = {
        name: {"asked": limit, "left": left, "met": left <= limit}
        for (name, limit), left in zip(asked.items(), found.left, strict=True)
    }
    return Selection(chosen.removed, chosen.entries, targets)


def intermediate_target(options: Channels, whole: Mapping[str, float | None], share: float) -> Channels:
    """The options of an intermediate round: what is to be left is that of the last one to the power of a share.

    Args:
        options: The options of the last round.
        whole: The cost of the original for each target.
        share: 0 < share < 1.
    """
    if options.ratio is not None:
        return replace(options, ratio=1 - (1 - options.ratio) ** share)
    target: dict[str | CostFactory, Limit] = {}
    for key, cost, text in zip(options.target, options.costs, options.target.values(), strict=True):
        total = float(whole[cost.name] or 0)
        left = total * min(_limit(cost.name, text, whole[cost.name]) / max(total, 1e-9), 1.0) ** share
        target[key] = f"{left:.9g}ms" if cost.name == LATENCY else left
    return replace(options, target=target)


def _taken(
    coupling: Coupling,
    groups: Sequence[Group],
    units: Sequence[NDArray[np.int64]],
    scores: Sequence[Scores] | None,
    damage: Sequence[float] | None = None,
) -> Selection:
    empty = nothing(coupling)
    entries = {}
    for i, (group, chosen) in enumerate(zip(groups, units, strict=True)):
        empty.removed[group.channels[chosen]] = True
        entry = describe(group, chosen.tolist(), scores[i] if scores is not None else None)
        entries[group.name] = entry | ({"damage": float(f"{damage[i]:.6g}")} if damage is not None else {})
    return Selection(empty.removed, [entries.get(e["name"], e) for e in empty.entries])


def scores_of(curve: Curve, units: int) -> Scores:
    """Importance of each unit: the loss that its removal adds to the curve; units that are never removed rank last."""
    steps = np.diff(curve.loss)
    ceiling = float(steps.max(initial=0.0)) + 1.0
    scores = np.full(units, ceiling)
    scores[curve.order] = np.maximum.accumulate(steps)
    return scores


def _limit(name: str, asked: str | float, total: float | None) -> float:
    """A target as an absolute number: fractions up to 1 are of the total, larger numbers are taken as they are."""
    time = milliseconds(asked) if name == LATENCY else None
    if time is not None:
        return time
    number = amount(asked)
    assert number is not None  # the options see to that
    if number > 1 or (isinstance(asked, str) and asked.strip()[-1].isalpha()):
        return number
    if total is None:
        raise InputError(
            f"the model's {name} cannot be counted, so no fraction of it can be met",
            f"give {option('input_shapes')}, or a target for params or bytes",
        )
    return number * total
