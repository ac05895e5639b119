"""Selects the units to remove: by a ratio, or by a budget at the least predicted damage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.allocation import budget
from onnxprune.allocation.counts import Limits, ranked, uniform, weakest
from onnxprune.allocation.target import Target
from onnxprune.allocation.variables import CostOfVariables, Variables
from onnxprune.allocation.widths import Rounding, limits_of
from onnxprune.common.math import share
from onnxprune.common.text import amount, milliseconds
from onnxprune.cost.measure import Cost
from onnxprune.cost.targets import predicted, totals
from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Group
from onnxprune.coupling.streams import Stream
from onnxprune.errors import InputError, option
from onnxprune.extensions.points import Amount, CostFactory, Limit
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
        spared: Residual streams that were left whole, by name.
    """

    removed: NDArray[np.bool_]
    entries: list[dict[str, Any]]
    targets: dict[str, dict[str, Any]] = field(default_factory=dict)
    rounded: dict[str, tuple[int, int]] = field(default_factory=dict)
    spared: Mapping[str, Stream] = field(default_factory=dict)

    def units(self, groups: Sequence[Group]) -> NDArray[np.int64]:
        """Removed units of each of some groups; shape (groups,)."""
        return np.array([self.removed[g.channels].sum() for g in groups], dtype=np.int64)


def nothing(coupling: Coupling) -> Selection:
    """No channel at all."""
    return Selection(np.zeros(coupling.classes.elements, dtype=bool), [describe(g, [], None) for g in coupling.groups])


ROUNDED = 1e-8
"""Relative difference that writing a limit as text may make."""


def by_ratio(
    coupling: Coupling,
    groups: Sequence[Group],
    scores: Sequence[Scores],
    options: Channels,
    keep: Mapping[int, float] = MappingProxyType({}),
    alike: Sequence[Sequence[int]] = (),
) -> Selection:
    """The weakest units of some groups, as many as the ratio asks for.

    Args:
        coupling: The analysis.
        groups: The groups that may shrink.
        scores: Importance of each unit.
        options: The ratio, and what groups keep at least.
        keep: Share of the units that stay, of single groups by their position; the ratio is for the others.
        alike: Positions of groups of as many units that are to lose as many as each other, unless `keep` names them.
    """
    counts = _counts(groups, scores, options, keep, alike, options.rounding)
    plain = counts if options.rounding == 1 else _counts(groups, scores, options, keep, alike, 1)
    taken = _taken(coupling, groups, [weakest(s, n) for s, n in zip(scores, counts, strict=True)], scores)
    changed = {g.name: (g.units - n, g.units - m) for g, n, m in zip(groups, plain, counts, strict=True) if n != m}
    return replace(taken, rounded=changed)


def _counts(
    groups: Sequence[Group],
    scores: Sequence[Scores],
    options: Channels,
    keep: Mapping[int, float],
    alike: Sequence[Sequence[int]],
    rounding: Rounding,
) -> list[int]:
    """Units to remove from each group by a ratio, or as `keep` says."""
    assert options.ratio is not None
    limits = limits_of(groups, options.min_channels, rounding)
    variables = _variables(groups, limits, keep, alike)
    mine, bounds = [[groups[i] for i in some] for some in variables.members], variables.limits(limits)
    if options.global_ranking:
        means = [np.mean([np.sort(scores[i]) for i in some], axis=0) for some in variables.members]
        counts = ranked(mine, means, options.ratio, bounds)
    else:
        counts = uniform([some[0] for some in mine], options.ratio, bounds)
    return [int(n) for n in variables.all(np.array(counts, dtype=np.int64))]


def by_budget(
    coupling: Coupling,
    groups: Sequence[Group],
    curves: Sequence[Curve],
    options: Channels,
    before: Cost,
    input_shapes: Mapping[str, Sequence[int]],
    keep: Mapping[int, float] = MappingProxyType({}),
    alike: Sequence[Sequence[int]] = (),
) -> Selection:
    """The units whose removal meets every target at the least summed damage.

    Args:
        coupling: The analysis.
        groups: The groups that may shrink.
        curves: Damage of each.
        options: The targets, and what groups keep at least.
        before: What was counted of the model.
        input_shapes: Shapes of graph inputs.
        keep: Share of the units that stay, of single groups by their position; the others meet the targets.
        alike: See `by_ratio`.
    """
    models = {cost.name: predicted(cost, coupling, groups, before, input_shapes) for cost in options.costs}
    whole = totals(options.costs, coupling, before, input_shapes)
    asked = {name: _limit(name, text, whole[name]) for name, text in options.limits.items()}
    met = {name for name, limit in asked.items() if (whole[name] or math.inf) <= limit * (1 + ROUNDED)}
    limits = limits_of(groups, options.min_channels, options.rounding)
    variables = _variables(groups, limits, keep, alike)
    found = budget.allocate(
        variables.curves([c.loss for c in curves]),
        [groups[some[0]].units for some in variables.members],
        [
            Target(
                models[n] if variables.plain else CostOfVariables(models[n], variables), math.inf if n in met else limit
            )
            for n, limit in asked.items()
        ],
        variables.limits(limits),
    )
    counts = variables.all(np.array(found.removed, dtype=np.int64))
    chosen = _taken(
        coupling,
        groups,
        [np.sort(c.order[:n]) for c, n in zip(curves, counts, strict=True)],
        None,
        [float(c.loss[n]) for c, n in zip(curves, counts, strict=True)],
    )
    targets = {
        name: {"asked": limit, "left": left, "met": left <= limit or (name in met and not chosen.removed.any())}
        for (name, limit), left in zip(asked.items(), found.left, strict=True)
    }
    return Selection(chosen.removed, chosen.entries, targets)


def _variables(
    groups: Sequence[Group], limits: Sequence[Limits], keep: Mapping[int, float], alike: Sequence[Sequence[int]]
) -> Variables:
    """The numbers of units that are open: those of groups that keep a share are not."""
    counts = np.zeros(len(groups), dtype=np.int64)
    for i, stays in keep.items():
        units = groups[i].units
        counts[i] = units - limits[i].kept(units, share(1 - stays, units))
    return Variables.of(counts, [i for i in range(len(groups)) if i not in keep], alike)


def intermediate_target(options: Channels, whole: Mapping[str, float | None], progress: float) -> Channels:
    """The options of an intermediate round: what is to be left is that of the last one to the power of the progress.

    Args:
        options: The options of the last round.
        whole: The cost of the original for each target.
        progress: 0 < progress < 1.
    """
    if options.ratio is not None:
        return replace(options, ratio=1 - (1 - options.ratio) ** progress)
    target: dict[str | CostFactory, Limit] = {}
    for key, cost, text in zip(options.target, options.costs, options.target.values(), strict=True):
        total = float(whole[cost.name] or 0)
        left = total * min(_limit(cost.name, text, whole[cost.name]) / max(total, 1e-9), 1.0) ** progress
        target[key] = as_amount(cost.name, left)
    return replace(options, target=target)


def as_amount(name: str, left: float) -> Limit:
    """The limit of a cost that leaves an amount of it; of the latency in milliseconds."""
    return f"{left:.9g}ms" if name == LATENCY else Amount(left)


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
    if isinstance(asked, Amount):
        return float(asked)
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
