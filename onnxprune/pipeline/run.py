"""One run: from a model to a smaller one, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from onnxprune.allocation.widths import unrounded
from onnxprune.common.math import share
from onnxprune.common.text import plural
from onnxprune.cost.measure import Cost, measure
from onnxprune.cost.targets import measured
from onnxprune.coupling.streams import Stream
from onnxprune.errors import InputError, Words, option
from onnxprune.extensions import registry
from onnxprune.extensions.points import criteria
from onnxprune.importance.untrained import untrained
from onnxprune.options import AUTO, LATENCY, Options
from onnxprune.pipeline.analysis import Analysis, reanalyze
from onnxprune.pipeline.attempt import Pruned, attempt, choose, prune_model
from onnxprune.pipeline.data import CalibrationSplit
from onnxprune.pipeline.depth import prepare
from onnxprune.pipeline.original import Original
from onnxprune.pipeline.prepare import Prepared
from onnxprune.pipeline.progress import Clock
from onnxprune.pipeline.result import Result
from onnxprune.pipeline.search import search
from onnxprune.pipeline.spare_streams import spared_lines
from onnxprune.pipeline.time import with_latency
from onnxprune.pipeline.verify import verify_pruned
from onnxprune.planning import plan as planning
from onnxprune.planning.plan import Plan
from onnxprune.report.build import build, rounded
from onnxprune.report.entries import Count, DamageCurve, DamageCurves, ResolvedOptions, StorageReport
from onnxprune.report.measured_on import with_measured_on
from onnxprune.report.report import Report, SearchReport, TargetReport
from onnxprune.report.warnings import reached_limits, warnings
from onnxprune.runtime.limits import current_limits
from onnxprune.verification.check import Verification
from onnxprune.verification.comparable_outputs import outputs_at_many_positions


def run_stages(original: Original, options: Options, clock: Clock) -> Result:
    """Prunes a model: load, analyze, score, plan, apply, repair, zero, judge, verify, report.

    Raises:
        InputError: The model, the data or an option is unusable.
        VerificationError: The pruned model fails in onnxruntime where the original does not.
    """
    prepared = prepare(original, options, clock)
    searched: SearchReport | None = None
    if options.checks.search:
        pruned, searched = search(prepared)
    else:
        pruned = attempt(prepared, prepared.options, prepared.analysis)
    return judged(prepared, pruned, options, searched)


def judged(prepared: Prepared, pruned: Pruned, options: Options, searched: SearchReport | None = None) -> Result:
    """The result of a run: verifies a pruned model, times it, and reports.

    Args:
        prepared: What the run began with.
        pruned: The pruned model.
        options: The options as they were given.
        searched: What a search made.

    Raises:
        VerificationError: The pruned model fails in onnxruntime where the original does not.
    """
    original, clock = prepared.original, prepared.clock
    before, after = prepared.cost, pruned.cost(prepared.loaded.cost)
    verification = pruned.verification or verify_pruned(prepared, pruned.model, pruned.io_slices)
    if verification.verified and None in (before.macs, after.macs):
        shapes = options.checks.input_shapes
        before = measure(original.load(), shapes, run=True)
        after = measure(pruned.model, pruned.io_slices.shapes(shapes), run=True)
    report = make_report(options, prepared, pruned, before, after, verification, searched)
    if options.checks.time and verification.verified and report.whole_because is None:
        with clock.stage("time"):
            report = with_latency(report, original, pruned.model, options.checks, pruned.io_slices)
        report = replace(report, seconds=rounded(clock.seconds))
    report = finish(report, prepared, before, pruned.selection.spared)
    times = None if prepared.timed is None else prepared.timed.times
    return Result(pruned.model, pruned.plan, report, options.checks, original.as_graph, times)


def finish(report: Report, prepared: Prepared, before: Cost, spared: Mapping[str, Stream]) -> Report:
    """The report with warnings, notes, and what its numbers were measured on."""
    data = prepared.loaded.data
    notes = [*([] if data is None or data.cut is None else [data.cut]), *_untrained(prepared)]
    if prepared.options.channels is not None:
        channels, total = prepared.options.channels, before.params
        notes += spared_lines(spared, prepared.analysis.coupling, prepared.groups, channels.min_channels, total)
    report = replace(report, warnings=warnings(report, events(data)), notes=notes)
    return with_measured_on(report, before.input_shapes(prepared.loaded.model.proto))


def _untrained(prepared: Prepared) -> list[str]:
    """A note that the weights look untrained, for criteria that are made for such."""
    options = prepared.options
    channels, zeros = options.channels is not None, options.zeros is not None
    asked = [options.criterion] if channels else []
    asked += [criteria.get(options.solver)] if zeros else []
    if all(criterion.saliency is None for criterion in asked):
        return []
    found = untrained(prepared.original.dense())
    where = f"in {found.random} of {plural(found.layers, 'layer')}"
    why = f"{where} the largest singular value is that of random numbers"
    return [f"the weights look untrained: {why}"] if found.looks_so else []


def events(data: CalibrationSplit | None) -> list[str]:
    """Warnings of a run that its results do not show: of plug-ins, of batches, of limits that were reached."""
    return [
        *registry.failures,
        *([] if data is None or data.unjoined is None else [data.unjoined]),
        *reached_limits(current_limits().reached),
    ]


def for_plan(options: Options) -> Options:
    """The options of a run without what changes no plan: gates are for what is written, the analysis has its scope."""
    checks = options.checks if options.checks.search else replace(options.checks, gate={})
    return replace(options, checks=checks, scope=replace(options.scope, shrink=()))


def make_plan(analysis: Analysis, options: Options, clock: Clock) -> Plan:
    """Plans what `run` would remove from the model of an analysis, which is not modified.

    Raises:
        InputError: The data or an option is unusable.
    """
    if options.checks.limited and not options.checks.search:
        raise InputError(
            "a gate says which model is written, and changes no plan",
            "leave gate and max_drop away, or add search=True",
        )
    copy = replace(reanalyze(analysis, analysis.model.copy()), stored=analysis.stored)
    prepared = prepare(Original(analysis.model), options, clock, copy)
    if options.checks.search:
        return search(prepared)[0].plan
    if options.zeros is None:
        selected, _ = choose(prepared, prepared.options.channels)
        return planning.make(prepared.analysis.coupling, selected.removed, selected.entries, prepared.blocks)
    return prune_model(prepared, prepared.options, prepared.analysis).plan


def make_report(
    requested: Options,
    prepared: Prepared,
    pruned: Pruned,
    before: Cost,
    after: Cost,
    verification: Verification,
    searched: SearchReport | None,
) -> Report:
    """The report of a run."""
    coupling, seconds = prepared.analysis.coupling, prepared.clock.seconds
    report = build(coupling, pruned.plan, before, after, verification, seconds, requested.to_dict())
    stored, evaluation, channels = pruned.stored, pruned.evaluation, prepared.options.channels
    if evaluation is not None:
        report = replace(report, calibration=evaluation.report, drift=evaluation.drift, drift_on=evaluation.report.on)
    return replace(
        report,
        resolved=resolved(prepared.options),
        dense=dict(pruned.dense),
        whole_because=pruned.whole_because or whole_by_rounding(prepared.options, pruned) or report.whole_because,
        rounded=dict(pruned.selection.rounded),
        unrounded={}
        if channels is None or channels.round_to == AUTO
        else unrounded(coupling, pruned.plan.removed, int(channels.round_to)),
        permuted=pruned.permuted,
        storage=None
        if stored is None
        else StorageReport(
            {name: Count(*sizes) for name, sizes in stored.bytes.items()}, stored.dense_because, stored.gzip
        ),
        targets=measured_targets(pruned, after),
        gates=dict(pruned.gates),
        metric=pruned.metric,
        search=searched,
        repair=pruned.repair,
        distilled=pruned.distilled,
        unrepaired_because=prepared.loaded.unrepaired_because,
        many_positions=outputs_at_many_positions(pruned.model),
        damage_curves=damage_curves(prepared),
    )


def whole_by_rounding(options: Options, pruned: Pruned) -> list[str] | None:
    """Why nothing was taken, where that is since no group has a smaller number of units that suits its layers."""
    channels = options.channels
    if pruned.plan.changes_model or not pruned.selection.rounded or channels is None:
        return None
    why = f"{option('round_to', channels.round_to)} keeps every group whole that the ratio takes something of"
    return [Words(why)]


CURVE_SHARES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
"""Shares of a group's removable units at which a report has its damage."""


def damage_curves(prepared: Prepared) -> DamageCurves | None:
    """A few points of each damage curve; None where units were scored by themselves."""
    damage = prepared.damage
    if damage is None or damage.scores is not None:
        return None
    found = {}
    for group, curve in zip(prepared.groups, damage.curves, strict=True):
        counts = sorted({share(part, len(curve.order)) for part in CURVE_SHARES} - {0})
        found[group.name] = DamageCurve(counts, [float(f"{curve.loss[n]:.4g}") for n in counts])
    return DamageCurves("outputs" if damage.measured else "readers", found)


def resolved(options: Options) -> ResolvedOptions:
    """What the options of a run came to."""
    channels, zeros = options.channels, options.zeros
    across = options.spreads_zeros or bool(zeros is not None and zeros.global_ranking)
    return ResolvedOptions(
        options.repair.method,
        importance=None if channels is None else options.criterion.name,
        zeros=None if zeros is None else options.solver,
        global_ranking=across if channels is None else channels.global_ranking,
    )


def measured_targets(pruned: Pruned, after: Cost) -> dict[str, TargetReport]:
    """Targets with the costs measured on the result instead of the predicted ones."""
    shapes = pruned.io_slices.shapes(pruned.options.checks.input_shapes)
    costs = {cost.name: cost for cost in pruned.options.channels.costs} if pruned.options.channels is not None else {}
    found = {}
    for name, target in pruned.selection.targets.items():
        asked = float(target["asked"])
        if name == LATENCY:
            assert pruned.latency is not None
            checked = pruned.latency.measured is not None
            time = float(target["left"])
            latency = pruned.latency
            found[name] = TargetReport(asked, time, bool(target["met"]), latency.predicted, checked, latency.engine)
            continue
        left = measured(costs[name], pruned.model, after, shapes)
        met = left is not None and left <= asked
        found[name] = TargetReport(asked, left, met, None if met or not target["met"] else float(target["left"]))
    return found
