"""The stages of scoring and allocation: estimates the damage of removal and selects units."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.allocation import selection
from onnxprune.allocation.selection import Selection
from onnxprune.common.checkpoint import step_of_run
from onnxprune.common.progress import part
from onnxprune.cost.measure import Cost
from onnxprune.cost.targets import totals
from onnxprune.coupling.caches import of_one_shape
from onnxprune.coupling.groups import Group
from onnxprune.edit.remove import remove
from onnxprune.errors import InputError
from onnxprune.extensions.points import Criterion
from onnxprune.importance.damage_curves import curve_from_scores
from onnxprune.importance.magnitude import Scores
from onnxprune.importance.obs import Curve
from onnxprune.importance.score import score
from onnxprune.options import Calibration, Channels, Options
from onnxprune.options.criteria import BY_WEIGHTS
from onnxprune.pipeline import observe, rounds
from onnxprune.pipeline.analysis import Analysis, prunable, reanalyze, shares_by_group
from onnxprune.pipeline.data import CalibrationSplit, SyntheticFeeds, open_data
from onnxprune.pipeline.float_analysis import with_floats
from onnxprune.pipeline.kept_indices import kept_indices
from onnxprune.pipeline.refit import RepairJob, refit
from onnxprune.pipeline.spare_streams import meeting_targets, streams_to_spare
from onnxprune.planning import plan
from onnxprune.statistics.moments import Moments

MOMENTS_WORK = 0.5
"""Share of the moments in the work of scoring from data, for the estimate of the remaining time."""


@dataclass(frozen=True)
class Damage:
    """Estimated damage of removing units of each group.

    Attributes:
        curves: Damage after each removal, and the order of the units.
        scores: Importance of each unit, where the criterion scores units by themselves; None where curves say it.
        measured: Whether the heights of the curves were measured at the outputs; else each is of the layers that read
            the group.
    """

    curves: list[Curve]
    scores: list[Scores] | None
    measured: bool = False

    def unit_scores(self, groups: Sequence[Group]) -> list[Scores]:
        """Importance of every unit of the groups; shape (units,) each."""
        if self.scores is not None:
            return self.scores
        return [selection.scores_of(c, g.units) for c, g in zip(self.curves, groups, strict=True)]


def learn_damage(
    analysis: Analysis,
    groups: Sequence[Group],
    data: CalibrationSplit | None,
    options: Options,
    channels: Channels,
    before: Cost,
    synthetic_feeds: SyntheticFeeds,
    known: dict[str, Moments] | None = None,
) -> Damage:
    """Estimates the damage of removal, with repair and new statistics after each of `channels.steps` rounds."""
    shapes = options.checks.input_shapes
    damage = measure_damage(
        analysis,
        groups,
        data,
        channels,
        options.criterion,
        synthetic_feeds,
        stats=options.calibration.stats,
        input_shapes=shapes,
        seed=options.seed,
        memory=options.resources.memory,
        known=known,
    )
    whole = totals(channels.costs, analysis.coupling, before, shapes)
    for share in rounds.shares(channels.steps):
        assert data is not None  # the options see to that
        part = selection.intermediate_target(channels, whole, share)
        curves = _learn_round(analysis, groups, damage, data, options, part, before, synthetic_feeds)
        damage = replace(damage, curves=curves)
    return damage


def score_groups(
    analysis: Analysis,
    groups: Sequence[Group],
    criterion: Criterion,
    calibration: Calibration,
    *,
    seed: int,
    memory: int,
) -> list[Scores]:
    """Importance of every unit of some groups by a criterion, from calibration data where it needs them.

    Raises:
        InputError: The groups are not those of the analysis, the criterion ranks none, or data are missing, unusable or
            not used.
    """
    _check_criterion(criterion, calibration)
    if not set(groups) <= set(analysis.groups):
        raise InputError("groups must be some of those of the analysis", "analysis.groups has them")
    observe.check_stats(calibration)
    data = open_data(analysis.model, calibration, seed) if criterion.from_data else None
    damage = measure_damage(
        analysis, groups, data, Channels(ratio=0.0), criterion, list, stats=calibration.stats, seed=seed, memory=memory
    )
    return damage.unit_scores(groups)


def _check_criterion(criterion: Criterion, calibration: Calibration) -> None:
    """Raises InputError for a criterion that ranks no channels, or that calibration data do not suit."""
    name, stats = criterion.name, calibration.stats is not None
    given = calibration.data is not None or (stats and criterion.needs != "gradients")
    if not criterion.channels:
        raise InputError(f"importance {name!r} chooses zeros, not channels", "plan(pattern='2:4') makes zeros")
    if criterion.from_data and not given:
        able = "" if criterion.needs == "gradients" else " or stats=..."
        raise InputError(f"importance {name!r} needs calibration data", f"give calib=...{able}")
    if criterion.needs == "weights" and given:
        raise InputError(f"importance {name!r} uses no calibration data", "leave calib and stats away")


def measure_damage(
    analysis: Analysis,
    groups: Sequence[Group],
    data: CalibrationSplit | None,
    channels: Channels,
    criterion: Criterion,
    synthetic_feeds: SyntheticFeeds,
    *,
    stats: str | os.PathLike[str] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int,
    memory: int,
    known: dict[str, Moments] | None = None,
) -> Damage:
    """Estimates the damage of removal from the unpruned model by one criterion.

    Moments are computed only where `known` holds none; it then holds them for other criteria.
    """
    if criterion.needs != "weights":
        analysis, groups = with_floats(analysis, groups, memory)
    coupling = analysis.coupling
    shapes = input_shapes or None
    context = observe.scoring_context(
        analysis.model, data, criterion, synthetic_feeds, stats=stats, input_shapes=shapes
    )
    given = data  # experts are scored by synthetic inputs no better than by their weights
    with context as (model, data, criterion):
        input_moments: dict[str, Moments] | None = None
        if criterion.needs == "moments" and known:
            input_moments = known
        elif criterion.needs == "moments":
            with part(0.0, MOMENTS_WORK):
                input_moments = observe.moments(model, coupling, data, stats=stats, seed=seed, memory=memory)
            if known is not None:
                known.update(input_moments)
        by_itself = BY_WEIGHTS if criterion.sequential else criterion
        gradients = observe.gradient_data(data, seed) if criterion.needs == "gradients" else None
        scores = step_of_run(
            "scores",
            lambda: score(model, coupling, groups, by_itself, seed=seed, moments=input_moments, gradients=gradients),
        )
        if criterion.from_data:
            scores = observe.with_experts(model, coupling, groups, scores, given)
        if criterion.sequential:
            with part(MOMENTS_WORK, 1.0):
                curves = observe.curves(
                    model,
                    coupling,
                    groups,
                    data,
                    input_moments or {},
                    scores,
                    channels,
                    input_shapes=input_shapes or {},
                    memory=memory,
                )
            return Damage(curves, None, data is not None and channels.compares_groups)
    most = [g.most(channels.min_channels) for g in groups]
    whole = (
        sum(float(np.square(s).sum()) for s in scores)
        if criterion.needs == "gradients" or criterion.saliency is not None
        else None
    )
    return Damage([curve_from_scores(s, n, whole) for s, n in zip(scores, most, strict=True)], scores)


def allocate(
    analysis: Analysis, groups: Sequence[Group], damage: Damage, channels: Channels, before: Cost, options: Options
) -> Selection:
    """Selects the units to remove: at the least damage that meets the targets, or by score where a ratio is given.

    Where no damage that was measured at the outputs decides between groups, residual streams stay whole, as far as the
    targets allow.
    """
    keep, alike = shares_by_group(analysis, groups, channels.keep), of_one_shape(analysis.coupling, groups)
    streams = {} if damage.measured or options.scope.only else streams_to_spare(analysis.coupling, groups, keep)
    if not channels.target:
        whole = keep | dict.fromkeys(streams, 1.0)
        found = selection.by_ratio(analysis.coupling, groups, damage.unit_scores(groups), channels, whole, alike)
        return replace(found, spared={groups[i].name: s for i, s in streams.items()} if channels.ratio else {})

    def by_budget(curves: Sequence[Curve], keep: Mapping[int, float]) -> Selection:
        shapes = options.checks.input_shapes
        return selection.by_budget(analysis.coupling, groups, curves, channels, before, shapes, keep, alike)

    if not streams:
        return by_budget(damage.curves, keep)
    return meeting_targets(by_budget, groups, damage.curves, keep, streams)


def _learn_round(
    analysis: Analysis,
    groups: Sequence[Group],
    damage: Damage,
    data: CalibrationSplit,
    options: Options,
    channels: Channels,
    before: Cost,
    synthetic_feeds: SyntheticFeeds,
) -> list[Curve]:
    """One round (see `rounds`): removes a part, repairs the rest, and measures damage curves again."""
    shapes = options.checks.input_shapes
    selected = allocate(analysis, groups, damage, channels, before, options)
    io_slices = plan.io_slices(plan.make(analysis.coupling, selected.removed))
    pruned = reanalyze(analysis, analysis.model.copy())
    remove(pruned.model, pruned.coupling, selected.removed)
    if options.repair.method != "none":
        kept = kept_indices(analysis.coupling, selected.removed)
        refit(RepairJob.of(options, analysis.model.copy(), pruned.model, kept, data, io_slices, synthetic_feeds))
    rest = reanalyze(pruned, pruned.model.copy())
    left, memory = prunable(rest, options.scope), options.resources.memory
    origin = rounds.channel_correspondence(analysis.coupling, selected.removed, rest.coupling)
    rest, same = with_floats(rest, left, memory)
    scores = score(rest.model, rest.coupling, same, BY_WEIGHTS, seed=options.seed)
    scores = observe.with_experts(rest.model, rest.coupling, same, scores, data, io_slices)
    input_moments = observe.moments(
        rest.model, rest.coupling, data, seed=options.seed, memory=memory, io_slices=io_slices
    )
    later = observe.curves(
        rest.model,
        rest.coupling,
        same,
        data,
        input_moments,
        scores,
        channels,
        input_shapes=shapes,
        memory=memory,
        io_slices=io_slices,
    )
    return rounds.extended(damage.curves, groups, selected.units(groups).tolist(), later, left, origin)
