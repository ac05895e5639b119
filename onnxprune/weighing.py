"""What the removal of units costs, and which of them go."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune import damage, informed, planning, removal, rounds, scoring, selection
from onnxprune.analysis import Analysis, anew, prunable
from onnxprune.cost import Cost
from onnxprune.damage import by_score
from onnxprune.groups import Group
from onnxprune.options import FROM_DATA, Options
from onnxprune.products import products
from onnxprune.scoring import Scores
from onnxprune.scoring.obs import Curve
from onnxprune.selection import Selection


def learned(analysis: Analysis, groups: Sequence[Group], data: informed.Learned | None, options: Options,
            before: Cost, made_up: informed.MadeUp) -> tuple[list[Curve], list[Scores] | None]:
    """What the removal of units of each group costs, and their scores where those are not what the curves say."""
    if not options.channels:
        return [], None
    with informed.looked_at(analysis.model, data, options, made_up) as (model, data, options):
        from_data = options.criterion in FROM_DATA
        scores = scoring.score(model, analysis.coupling, groups, "l2" if from_data else options.criterion, options.seed)
        seen = informed.moments(model, analysis.coupling, data, options) if from_data else {}
        if from_data and options.criterion != "obs":
            scores = damage.scores(options.criterion, model, analysis.coupling, groups,
                                   products(analysis.coupling.graph), seen, scores)
        curves = [by_score(s, g.units - min(options.min_channels, g.units))
                  for s, g in zip(scores, groups, strict=True)]
        if options.criterion != "obs":
            return curves, scores
        curves = informed.curves(model, analysis.coupling, groups, data, seen, scores, options)
    for share in rounds.shares(options.steps):
        assert data is not None  # the options see to that
        softened = selection.softened(options, before, share)
        curves = _learn(analysis, groups, curves, data, softened, before, made_up)
    return curves, None


def take(analysis: Analysis, groups: Sequence[Group], curves: Sequence[Curve], scores: Sequence[Scores] | None,
          options: Options, before: Cost) -> Selection:
    """What goes at the least damage, or of each group by its scores (those that the curves give, by default)."""
    if options.target:
        return selection.by_budget(analysis.coupling, groups, curves, options, before)
    scores = scores or [selection.scores_of(c, g.units) for c, g in zip(curves, groups, strict=True)]
    return selection.by_ratio(analysis.coupling, groups, scores, options)


def _learn(analysis: Analysis, groups: Sequence[Group], curves: Sequence[Curve], data: informed.Learned,
           options: Options, before: Cost, made_up: informed.MadeUp) -> list[Curve]:
    """A round (see `rounds`): what the curves say once a part is gone and the rest makes up for it."""
    selected = take(analysis, groups, curves, None, options, before)
    narrowing = planning.narrowing(planning.make(analysis.coupling, selected.gone))
    pruned = anew(analysis, analysis.model.copy())
    removal.remove(pruned.model, pruned.coupling, selected.gone)
    if options.repair != "none":
        informed.repair(analysis.model.copy(), pruned.model,
                        informed.kept_features(analysis.coupling, selected.gone), data, options, narrowing, made_up)
    rest = anew(pruned, pruned.model.copy())
    left = prunable(rest, options)
    scores = scoring.score(rest.model, rest.coupling, left, "l2", options.seed)
    seen = informed.moments(rest.model, rest.coupling, data, options, narrowing, first=False)
    later = informed.curves(rest.model, rest.coupling, left, data, seen, scores, options, narrowing)
    return rounds.extended(curves, groups, [int(selected.gone[g.channels].sum()) for g in groups], later, left,
                           rounds.origins(analysis.coupling, selected.gone, rest.coupling))
