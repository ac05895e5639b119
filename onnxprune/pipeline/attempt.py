"""The stages that make one pruned model: plan, apply, repair, permute, zero; then judge, store, gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from onnxprune.allocation import selection
from onnxprune.allocation.selection import Selection
from onnxprune.cost.measure import Cost, measure
from onnxprune.edit.permute import permute_original
from onnxprune.edit.remove import remove
from onnxprune.model.model import Model
from onnxprune.model.sparse_initializers import SparseStorage, resparsify
from onnxprune.options import LATENCY, Channels, Options, Zeros
from onnxprune.pipeline import rounds
from onnxprune.pipeline.analysis import Analysis, analyze_loaded, reanalyze
from onnxprune.pipeline.distill import refit_and_train
from onnxprune.pipeline.evaluate import Evaluation, evaluate
from onnxprune.pipeline.kept_indices import kept_indices
from onnxprune.pipeline.permute import permute, recorded
from onnxprune.pipeline.prepare import Prepared
from onnxprune.pipeline.refit import RepairJob
from onnxprune.pipeline.score import allocate
from onnxprune.pipeline.store_sparse import store
from onnxprune.pipeline.time_target import MeasuredLatency, predicted_latency, settle
from onnxprune.pipeline.trial_refit import can_tell, refitted_error
from onnxprune.pipeline.verify import verify_pruned
from onnxprune.pipeline.zero import zero
from onnxprune.planning import plan as planning
from onnxprune.planning.masks import ZeroEntry
from onnxprune.planning.plan import Plan
from onnxprune.repair.distilled import Distillation
from onnxprune.repair.kept_indices import KeptIndices
from onnxprune.repair.layerwise import Refit
from onnxprune.report.entries import PermutationReport
from onnxprune.report.metric import GateReport, MetricReport
from onnxprune.runtime.io_slices import IoSlices
from onnxprune.verification import gates
from onnxprune.verification.check import Verification


@dataclass(frozen=True)
class Pruned:
    """A pruned model between two stages; each stage returns a copy with its own results added.

    Attributes:
        options: What it was made with.
        analysis: The analysis of the original; its model may be the one that is pruned.
        selection: The removed channels.
        plan: What was removed.
        model: The pruned model.
        io_slices: Removed slices of inputs and outputs.
        kept: Kept indices of the original's values, where layers are refitted.
        reference: Loads the model that the layers are refitted to.
        repair: Record of each refitted layer; None without repair.
        permuted: Effect of the permutation.
        dense: Constant -> why it has no zeros of the pattern.
        whole_because: Why nothing was zeroed, where only zeros were requested.
        evaluation: Output errors on held-out samples.
        metric: The metric on held-out samples.
        confirmation: The metric on the samples that no choice was made with.
        stored: The weights that are stored sparse.
        gates: The verdict of each gate.
        verification: Result of the runtime check, where a gate needed it.
        latency: Its latency, predicted and measured, where that is a target.
    """

    options: Options
    analysis: Analysis
    selection: Selection
    plan: Plan
    model: Model
    io_slices: IoSlices
    kept: KeptIndices
    reference: Callable[[], Model]
    repair: list[Refit] | None = None
    distilled: Distillation | None = None
    permuted: PermutationReport | None = None
    dense: Mapping[str, str] = field(default_factory=dict)
    whole_because: list[str] | None = None
    evaluation: Evaluation | None = None
    metric: MetricReport | None = None
    confirmation: MetricReport | None = None
    stored: SparseStorage | None = None
    gates: Mapping[str, GateReport] = field(default_factory=dict)
    verification: Verification | None = None
    latency: MeasuredLatency | None = None

    @property
    def met(self) -> bool:
        """Whether every gate is met."""
        return all(gate.met for gate in self.gates.values())

    def cost(self, before: Cost) -> Cost:
        """Cost of the model; that of the original where only zeros were set, which change no count."""
        plan = self.plan
        if not (plan.shrinks or plan.permuted or self.options.sparse_storage or self.repair):
            return before
        shapes = self.io_slices.shapes(self.options.checks.input_shapes)
        return measure(self.model, shapes, run=self.options.targets_macs)


def attempt(prepared: Prepared, options: Options, analysis: Analysis) -> Pruned:
    """Prunes the model of an analysis, which is changed, repairs it and holds it to the gates."""
    pruned = prune_model(prepared, options, analysis)
    clock, data = prepared.clock, prepared.loaded.data
    if pruned.plan.changes_model and data is not None:
        with clock.stage("judge"):
            found = evaluate(prepared.original.load(), pruned.model, data, pruned.io_slices, learned=True)
            warning = prepared.loaded.evaluator.warning
            report = replace(found.report, **vars(prepared.samples_seen(data)), labels=warning)
        pruned = replace(pruned, evaluation=replace(found, report=report))
    pruned = measure_metric(prepared, pruned)
    resparsify(pruned.model, prepared.loaded.sparse)
    if options.sparse_storage:
        with clock.stage("store"):
            pruned = replace(pruned, stored=store(pruned.model, options.checks, options.seed))
    return hold_to_gates(prepared, pruned)


def prune_model(prepared: Prepared, options: Options, analysis: Analysis) -> Pruned:
    """The stages that the plan depends on."""
    pruned = remove_channels(prepared, options, analysis)
    if pruned.plan.shrinks and options.repair.method != "none":
        pruned = repair_removal(prepared, pruned)
    if options.zeros is not None:
        if options.zeros.permute:
            with prepared.clock.stage("permute"):
                pruned = reorder(prepared, pruned, options.zeros)
        with prepared.clock.stage("zero"):
            pruned = set_zeros(prepared, pruned, options.zeros)
    return pruned


def select(prepared: Prepared, channels: Channels | None) -> Selection:
    """Selects the channels to remove."""
    if channels is None or prepared.damage is None:
        return selection.nothing(prepared.analysis.coupling)
    cost, options = prepared.loaded.cost, prepared.options
    return allocate(prepared.analysis, prepared.groups, prepared.damage, channels, cost, options)


def choose(prepared: Prepared, channels: Channels | None) -> tuple[Selection, MeasuredLatency | None]:
    """Selects the channels to remove; a target of latency is held to what is measured."""
    if channels is None or prepared.timed is None or LATENCY not in channels.limits:
        return select(prepared, channels), None
    judge = partial(refitted_error, prepared, prepared.analysis)
    return settle(
        lambda options: select(prepared, options),
        prepared.analysis,
        prepared.timed,
        channels,
        predicted_latency(prepared),
        judge if can_tell(prepared.loaded.data, prepared.options) else None,
    )


def remove_channels(prepared: Prepared, options: Options, analysis: Analysis) -> Pruned:
    """Selects channels, plans their removal and removes them, in place."""
    with prepared.clock.stage("plan"):
        selected, latency = choose(prepared, options.channels)
        plan = planning.make(analysis.coupling, selected.removed, selected.entries, prepared.blocks)
        refitted = options.repair.method != "none"
        kept = kept_indices(analysis.coupling, selected.removed) if refitted else KeptIndices()
    with prepared.clock.stage("apply"):
        remove(analysis.model, analysis.coupling, selected.removed)
        changed = plan.shrinks or options.zeros is not None
        left = analysis.model if changed else prepared.original.load()
    slices, dense = planning.io_slices(plan), prepared.original.dense
    return Pruned(options, analysis, selected, plan, left, slices, kept, dense, latency=latency)


def repair_removal(prepared: Prepared, pruned: Pruned) -> Pruned:
    """Repairs the model after the removal of channels, in place."""
    options = pruned.options
    job = RepairJob.of(
        options,
        prepared.original.dense(),
        pruned.model,
        pruned.kept,
        prepared.repair_data or prepared.loaded.data,
        pruned.io_slices,
        prepared.synthetic_feeds,
    )
    refits, trained = refit_and_train(replace(job, rows=prepared.repair_rows), options.repair, prepared.clock.stage)
    return replace(pruned, repair=refits, distilled=trained)


def reorder(prepared: Prepared, pruned: Pruned, zeros: Zeros) -> Pruned:
    """Reorders the channels that are left for an N:M pattern, in place."""
    whole, options = pruned.analysis, pruned.options
    rest = reanalyze(whole, pruned.model) if pruned.plan.removed else whole
    origin = rounds.channel_correspondence(whole.coupling, pruned.selection.removed, rest.coupling)
    moved = permute(
        rest.model, rest.coupling, origin, zeros.shape, scope=options.scope, checks=options.checks, seed=options.seed
    )
    pruned = replace(pruned, plan=recorded(pruned.plan, moved.entries), permuted=moved.as_report())
    if moved.moves and options.repair.refits_zeros:  # layers are refitted to what the original made in their order
        lifted = reanalyze(whole, prepared.original.dense())
        permute_original(lifted.model, lifted.coupling, origin, moved.moves)
        return replace(pruned, reference=partial(lifted.model.copy))
    return pruned


def set_zeros(prepared: Prepared, pruned: Pruned, zeros: Zeros) -> Pruned:
    """Sets remaining weights to zero in a pattern, in place."""
    rest = analyze_loaded(pruned.model) if pruned.plan.removed or zeros.permute else pruned.analysis
    zeroed = zero(
        pruned.reference,
        rest.model,
        rest.coupling,
        pruned.kept,
        prepared.loaded.data,
        pruned.options,
        pruned.io_slices,
        prepared.synthetic_feeds,
        first=not pruned.plan.removed,
    )
    entries: dict[str, Mapping[str, Any]] = {
        name: ZeroEntry(zeros.shape, mask.ratio, mask.array) for name, mask in zeroed.masks.items()
    }
    plan = replace(pruned.plan, zeroed=entries)
    whole = sorted(set(zeroed.dense.values())) or ["no weight is left open to zeros"]
    refits = [*(pruned.repair or []), *(zeroed.repair or [])]
    return replace(
        pruned,
        plan=plan,
        dense=zeroed.dense,
        repair=refits if zeroed.repair else pruned.repair,
        whole_because=None if plan.changes_model else whole,
    )


def measure_metric(prepared: Prepared, pruned: Pruned) -> Pruned:
    """Measures the metric, in place of nothing where there is none."""
    evaluator, changed = prepared.loaded.evaluator, pruned.plan.changes_model
    if evaluator.held is None:
        return pruned
    with prepared.clock.stage("judge"):
        found = evaluator.measure(pruned.model, pruned.io_slices, changed=changed)
        confirmation = evaluator.measure_confirmation(pruned.model, pruned.io_slices, changed=changed)
    return replace(pruned, metric=found, confirmation=confirmation, gates=evaluator.gates(found))


def hold_to_gates(prepared: Prepared, pruned: Pruned) -> Pruned:
    """Measures each gate on held-out samples or, without data, on the inputs of the verification."""
    asked, data = prepared.loaded.gates, prepared.loaded.data
    if not asked:
        return pruned
    if data is None:
        pruned = replace(pruned, verification=verify_pruned(prepared, pruned.model, pruned.io_slices))
        assert pruned.verification is not None
        found, on = gates.from_drift(pruned.verification.drift), "synthetic inputs"
    else:
        with prepared.clock.stage("judge"):
            found = gates.measure(asked, prepared.original.load(), pruned.model, data.held, pruned.io_slices)
        on = ("held-out " if data.held_out else "") + "calibration samples"
    verdicts = {gate.name: GateReport(**gate.verdict(found), on=on) for gate in asked}
    return replace(pruned, gates={**pruned.gates, **verdicts})
