"""What the removal of units costs, and which of them go."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.allocation import selection
from onnxprune.allocation.selection import Selection
from onnxprune.cost.measure import Cost
from onnxprune.coupling.groups import Group
from onnxprune.edit.remove import remove
from onnxprune.importance import damage_curves
from onnxprune.importance.damage_curves import by_score
from onnxprune.importance.magnitude import Scores
from onnxprune.importance.obs import Curve
from onnxprune.importance.score import score
from onnxprune.layers.find import linear_layers
from onnxprune.options import FROM_DATA, Options
from onnxprune.pipeline import observe, rounds
from onnxprune.pipeline.analysis import Analysis, prunable, reanalyze
from onnxprune.pipeline.data import CalibrationSplit, SyntheticFeeds
from onnxprune.pipeline.repair import kept_features, repair
from onnxprune.planning import plan


def learn_damage(
    analysis: Analysis,
    groups: Sequence[Group],
    data: CalibrationSplit | None,
    options: Options,
    before: Cost,
    synthetic_feeds: SyntheticFeeds,
) -> tuple[list[Curve], list[Scores] | None]:
    """What the removal of units of each group costs, and their scores where those are not what the curves say."""
    if not options.channels:
        return [], None
    with observe.scoring_context(analysis.model, data, options, synthetic_feeds) as (model, data, options):
        from_data = options.criterion in FROM_DATA
        scores = score(model, analysis.coupling, groups, "l2" if from_data else options.criterion, options.seed)
        seen = observe.moments(model, analysis.coupling, data, options) if from_data else {}
        if from_data and options.criterion != "obs":
            scores = damage_curves.scores(
                options.criterion,
                model,
                analysis.coupling,
                groups,
                linear_layers(analysis.coupling.graph),
                seen,
                scores,
            )
        curves = [
            by_score(s, g.units - min(options.min_channels, g.units)) for s, g in zip(scores, groups, strict=True)
        ]
        if options.criterion != "obs":
            return curves, scores
        curves = observe.curves(model, analysis.coupling, groups, data, seen, scores, options)
    for share in rounds.shares(options.steps):
        assert data is not None  # the options see to that
        intermediate_target = selection.intermediate_target(options, before, share)
        curves = _learn(analysis, groups, curves, data, intermediate_target, before, synthetic_feeds)
    return curves, None


def select(
    analysis: Analysis,
    groups: Sequence[Group],
    curves: Sequence[Curve],
    scores: Sequence[Scores] | None,
    options: Options,
    before: Cost,
) -> Selection:
    """What goes at the least damage, or of each group by its scores (those that the curves give, by default)."""
    if options.target:
        return selection.by_budget(analysis.coupling, groups, curves, options, before)
    scores = scores or [selection.scores_of(c, g.units) for c, g in zip(curves, groups, strict=True)]
    return selection.by_ratio(analysis.coupling, groups, scores, options)


def _learn(
    analysis: Analysis,
    groups: Sequence[Group],
    curves: Sequence[Curve],
    data: CalibrationSplit,
    options: Options,
    before: Cost,
    synthetic_feeds: SyntheticFeeds,
) -> list[Curve]:
    """A round (see `rounds`): what the curves say once a part is gone and the rest makes up for it."""
    selected = select(analysis, groups, curves, None, options, before)
    io_slices = plan.io_slices(plan.make(analysis.coupling, selected.gone))
    pruned = reanalyze(analysis, analysis.model.copy())
    remove(pruned.model, pruned.coupling, selected.gone)
    if options.repair != "none":
        repair(
            analysis.model.copy(),
            pruned.model,
            kept_features(analysis.coupling, selected.gone),
            data,
            options,
            io_slices,
            synthetic_feeds,
        )
    rest = reanalyze(pruned, pruned.model.copy())
    left = prunable(rest, options)
    scores = score(rest.model, rest.coupling, left, "l2", options.seed)
    seen = observe.moments(rest.model, rest.coupling, data, options, io_slices, first=False)
    later = observe.curves(rest.model, rest.coupling, left, data, seen, scores, options, io_slices)
    return rounds.extended(
        curves,
        groups,
        [int(selected.gone[g.channels].sum()) for g in groups],
        later,
        left,
        rounds.channel_correspondence(analysis.coupling, selected.gone, rest.coupling),
    )
