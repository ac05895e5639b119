"""Which units go: by a ratio, or by a budget at the least predicted damage."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.allocation import budget
from onnxprune.allocation.budget import Target
from onnxprune.allocation.counts import Limits, ranked, uniform, weakest
from onnxprune.cost.cost_model import CostModel, macs, nbytes, parameters
from onnxprune.cost.measure import Cost, counted_shapes
from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Group
from onnxprune.errors import InputError
from onnxprune.importance.magnitude import Scores
from onnxprune.importance.obs import Curve
from onnxprune.model.model import Model
from onnxprune.options import Options
from onnxprune.planning.plan import describe


@dataclass(frozen=True)
class Selection:
    """The selected channels.

    Attributes:
        removed: Boolean per channel id, True for what is removed.
        entries: What plan and report say of each group.
        targets: What was asked of each cost, what is left of it, and whether that is enough.
    """

    gone: NDArray[np.bool_]
    entries: list[dict[str, Any]]
    targets: dict[str, dict[str, Any]] = field(default_factory=dict)


def nothing(coupling: Coupling) -> Selection:
    """No channel at all."""
    return Selection(np.zeros(coupling.classes.elements, dtype=bool), [describe(g, [], None) for g in coupling.groups])


def by_ratio(coupling: Coupling, groups: Sequence[Group], scores: Sequence[Scores], options: Options) -> Selection:
    """The weakest units of some groups, as many as the ratio asks for."""
    limits = Limits(options.min_channels, options.round_to)
    assert options.ratio is not None
    counts = ranked(groups, scores, options.ratio, limits) if options.across else uniform(groups, options.ratio, limits)
    return _taken(coupling, groups, [weakest(s, n) for s, n in zip(scores, counts, strict=True)], scores)


def by_budget(
    coupling: Coupling, groups: Sequence[Group], curves: Sequence[Curve], options: Options, before: Cost
) -> Selection:
    """The units whose removal meets every target at the least summed damage."""
    asked = {name: _limit(name, text, before) for name, text in options.target.items()}
    models = {name: _cost_model(name, coupling, groups, options, before) for name in asked}
    limits = Limits(options.min_channels, options.round_to)
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
    return Selection(chosen.gone, chosen.entries, targets)


def intermediate_target(options: Options, before: Cost, share: float) -> Options:
    """The options of a round on the way: what is to be left is that of the last one to the power of a share."""
    if options.ratio is not None:
        return replace(options, ratio=1 - (1 - options.ratio) ** share)
    totals = {"macs": before.macs, "params": before.params, "bytes": before.bytes}
    target = {}
    for name, text in options.target.items():
        total = float(totals[name] or 0)
        target[name] = total * min(_limit(name, text, before) / max(total, 1.0), 1.0) ** share
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
        empty.gone[group.channels[chosen]] = True
        entry = describe(group, chosen.tolist(), scores[i] if scores is not None else None)
        entries[group.name] = entry | ({"damage": float(f"{damage[i]:.6g}")} if damage is not None else {})
    return Selection(empty.gone, [entries.get(e["name"], e) for e in empty.entries])


def scores_of(curve: Curve, units: int) -> Scores:
    """Importance of each unit by its place on the curve: what its removal adds; those that never go come last."""
    steps = np.diff(curve.loss)
    ceiling = float(steps.max(initial=0.0)) + 1.0
    scores = np.full(units, ceiling)
    scores[curve.order] = np.maximum.accumulate(steps)
    return scores


_UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "kb": 1e3, "mb": 1e6, "gb": 1e9, "b": 1}


def _limit(name: str, text: str | float, before: Cost) -> float:
    """A target as an absolute number: fractions up to 1 are of what there is, larger numbers are taken as they are."""
    total = {"macs": before.macs, "params": before.params, "bytes": before.bytes}[name]
    match = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([a-z]*)\s*", str(text).lower())
    unit = _UNITS.get(match[2]) if match else None
    if match is None or unit is None:
        raise InputError(f"target {name}={text} is no number", "a fraction such as 0.5, or an amount such as 2G or 4MB")
    try:
        number = float(match[1]) * unit
    except ValueError:
        raise InputError(f"target {name}={text} is no number", "a fraction such as 0.5, or an amount of 2G") from None
    if number <= 0:
        raise InputError(f"target {name}={text} leaves nothing", "a fraction such as 0.5 says what may be left")
    if match[2] or number > 1:
        return number
    if total is None:
        raise InputError(
            f"the model's {name} cannot be counted, so no fraction of it can be met",
            "give --input-shape, or a target for params or bytes",
        )
    return number * total


def _cost_model(name: str, coupling: Coupling, groups: Sequence[Group], options: Options, before: Cost) -> CostModel:
    if name == "params":
        return parameters(coupling, groups)
    if name == "bytes":
        return nbytes(coupling, groups, before.bytes)
    given = counted_shapes(Model(coupling.graph.proto), options.input_shapes) | dict(before.shapes)
    try:
        if before.macs:
            return macs(coupling, groups, given)
    except LookupError:
        pass  # said below
    raise InputError("the model's MACs cannot be counted", "give --input-shape, or a target for params or bytes")
