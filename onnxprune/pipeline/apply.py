"""Applies a plan to a model: the stages of `onnxprune.apply`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from onnxprune import sparsity
from onnxprune.calibration.synthetic import Feeds
from onnxprune.common.text import exactly
from onnxprune.cost.measure import measure
from onnxprune.edit import permute
from onnxprune.edit.bypass import bypass
from onnxprune.edit.remove import remove
from onnxprune.errors import GIVE_DATA, InputError, PlanError, Words, option
from onnxprune.model.model import Model
from onnxprune.model.sparse_initializers import densify, resparsify
from onnxprune.model.stored_files import stored_bytes
from onnxprune.options import AUTO, Calibration, Checks, Repair, Resources
from onnxprune.pipeline.analysis import Analysis, analyze_loaded, inline_functions, reanalyze
from onnxprune.pipeline.data import CalibrationSplit, open_data
from onnxprune.pipeline.distill import refit_and_train
from onnxprune.pipeline.evaluate import evaluate
from onnxprune.pipeline.grow import Growth, add_biases, grow, only_grows
from onnxprune.pipeline.inputs_seen import samples_seen
from onnxprune.pipeline.kept_indices import kept_indices
from onnxprune.pipeline.metric import make_evaluator
from onnxprune.pipeline.original import Original
from onnxprune.pipeline.permute import orders
from onnxprune.pipeline.progress import Clock
from onnxprune.pipeline.refit import RepairJob
from onnxprune.pipeline.result import Result
from onnxprune.pipeline.run import events
from onnxprune.pipeline.verify import verify
from onnxprune.planning import plan as planning
from onnxprune.planning.masks import unpack_mask
from onnxprune.planning.plan import Plan
from onnxprune.repair.data_free import inputs
from onnxprune.repair.distilled import Distillation
from onnxprune.repair.kept_indices import KeptIndices
from onnxprune.repair.layerwise import Refit
from onnxprune.report.build import build
from onnxprune.report.measured_on import with_measured_on
from onnxprune.report.report import Report
from onnxprune.report.warnings import warnings
from onnxprune.runtime.io_slices import IoSlices
from onnxprune.verification.comparable_outputs import outputs_at_many_positions


@dataclass(frozen=True)
class Application:
    """How a plan is applied.

    Attributes:
        checks: What is checked of the result; gates and limits do not apply.
        calibration: Data that the repair learns from.
        repair: ``auto`` is ``calibrated`` with data, else ``none``: a plan alone changes no weight that stays.
        resources: Limits of memory and time.
        seed: Seed of anything random.
        growth: A model that another plan made, whose weights are taken; None for those of the original.

    Raises:
        InputError: The repair or the metric needs data, and none are given.
    """

    checks: Checks = field(default_factory=Checks)
    calibration: Calibration = field(default_factory=Calibration)
    repair: Repair = field(default_factory=Repair)
    resources: Resources = field(default_factory=Resources)
    seed: int = 0
    growth: Growth | None = None

    def __post_init__(self) -> None:
        if self.repair.needs_data and self.calibration.data is None:
            raise InputError(f"repair {self.repair.method!r} needs calibration data", GIVE_DATA)
        if self.checks.metric is not None and self.calibration.data is None:
            raise InputError(f"{option('metric')} is measured on calibration data", f"{GIVE_DATA}, labelled if you can")

    @property
    def method(self) -> str:
        """The repair, with ``auto`` resolved."""
        if self.repair.method != AUTO:
            return self.repair.method
        return "none" if self.calibration.data is None else "calibrated"


def apply_plan(plan: Plan, original: Original, asked: Application, clock: Clock) -> Result:
    """Applies a plan to a model: load, analyze, apply, repair, judge, verify, report.

    Raises:
        InputError: The model or the data cannot be read, or the plan does not fit the model.
        VerificationError: The result fails in onnxruntime where the original does not.
    """
    shapes = asked.checks.input_shapes
    clock.expect({"load": 1.0, "analyze": 1.0, "apply": 1.0, "verify": 2.0 * asked.checks.verify})
    with clock.stage("load"):
        model = original.load()
    with clock.stage("analyze"):
        before = measure(model, shapes)
        before = replace(before, bytes=stored_bytes(model) or before.bytes)
        if plan.depth:
            inline_functions(model)
            bypass(model, plan.summands, plan.ends)
        sparse = densify(model)
        shrink = [exactly(name) for name in plan.interface]
        analysis = analyze_loaded(model, mixing=plan.mixing, attention=plan.attention, shrink=shrink)
    removed = planning.channels(plan, analysis.coupling)
    plan = planning.with_groups(plan, analysis.coupling, removed)
    io_slices = planning.io_slices(plan)
    with clock.stage("load"):
        fed = original.load() if plan.ends else analysis.model  # samples are those of the original
        data = open_data(fed, asked.calibration, asked.seed, clock.samples)
    with clock.stage("apply"):
        kept = kept_indices(analysis.coupling, removed)
        biases = {} if asked.growth is None else grow(analysis, asked.growth, removed)
        nothing_lost = asked.growth is not None and only_grows(asked.growth, plan, removed, analysis.coupling)
        remove(analysis.model, analysis.coupling, removed)
        add_biases(analysis.model, biases)
    repaired, distilled = _repair(plan, original, analysis.model, kept, data, io_slices, asked, clock)
    with clock.stage("apply"):
        if plan.permuted:
            rest = reanalyze(analysis, analysis.model)
            permute.reorder_constants(rest.model, rest.coupling.graph, orders(plan, rest.coupling))
        if plan.zeroed:
            _set_zeros(analyze_loaded(analysis.model) if plan.removed or plan.permuted else analysis, plan)
        resparsify(analysis.model, sparse)
        after = measure(analysis.model, io_slices.shapes(shapes))
    with clock.stage("verify"):
        verified = verify(original.source, analysis.model, asked.checks, data, io_slices=io_slices)
    report = build(analysis.coupling, plan, before, after, verified, clock.seconds, None)
    report = replace(
        report,
        many_positions=outputs_at_many_positions(analysis.model),
        repair=repaired,
        distilled=distilled,
        unrepaired_because=None if nothing_lost else _why_not_repaired(plan, asked, repaired),
    )
    if data is not None and plan.changes_model:
        with clock.stage("judge"):
            report = _evaluated(report, original, analysis.model, data, io_slices, asked)
    cut = [] if data is None or data.cut is None else [data.cut]
    told = [*warnings(report, events(data)), *map(Words, _warnings(plan, report))]
    report = replace(report, warnings=told, notes=cut)
    report = with_measured_on(report, before.input_shapes(model.proto))
    return Result(analysis.model, plan, report, asked.checks, as_graph=original.as_graph)


def _repair(
    plan: Plan,
    original: Original,
    pruned: Model,
    kept: KeptIndices,
    data: CalibrationSplit | None,
    io_slices: IoSlices,
    asked: Application,
    clock: Clock,
) -> tuple[list[Refit] | None, Distillation | None]:
    """Repairs what is left after the removal of channels, in place; records of each layer and of a training."""
    if not plan.shrinks or asked.method == "none":
        return None, None
    shapes = asked.checks.input_shapes

    def synthetic_feeds() -> list[Feeds]:
        return inputs(original.dense(), asked.seed, shapes or None)

    job = RepairJob(
        original.dense(),
        pruned,
        kept,
        data,
        asked.method,
        io_slices,
        synthetic_feeds,
        asked.seed,
        asked.resources.memory,
        shapes,
    )
    return refit_and_train(job, asked.repair, clock.stage)


def _why_not_repaired(plan: Plan, asked: Application, repaired: list[Refit] | None) -> str | None:
    """Why ``auto`` repaired nothing; None where it did, or where nothing was to be repaired."""
    if repaired is not None or not (plan.shrinks or plan.zeroed) or asked.repair.method != AUTO:
        return None
    return "no calibration data were given" if plan.shrinks else "the plan removes no channels"


def _evaluated(
    report: Report, original: Original, pruned: Model, data: CalibrationSplit, io_slices: IoSlices, asked: Application
) -> Report:
    """The report with what held-out samples say of the result."""
    model = original.load()
    found = evaluate(model, pruned, data, io_slices, learned=True)
    evaluator = make_evaluator(original.load, data, asked.checks, asked.seed)
    seen = vars(samples_seen(model, data))
    calibration = replace(found.report, **seen, labels=evaluator.warning)
    metric = evaluator.measure(pruned, io_slices, changed=True)
    return replace(report, calibration=calibration, drift=found.drift, drift_on=found.report.on, metric=metric)


def _warnings(plan: Plan, report: Report) -> list[str]:
    """Warnings of what a plan alone leaves undone."""
    lines = []
    if report.unrepaired_because is not None:
        repairs = f"; {option('calib', ...)} repairs" if plan.shrinks else ""
        lines.append(
            f"nothing was repaired, since {report.unrepaired_because}: accuracy may be far below that of the run that "
            f"made the plan{repairs}"
        )
    elif report.repair is not None and plan.zeroed:
        lines.append("layers were repaired after the removal of channels, not after the zeros of the plan")
    return lines


def _set_zeros(analysis: Analysis, plan: Plan) -> None:
    """Sets the elements to zero that the masks of a plan mark, in place."""
    by_key = {v.key: v for v in analysis.coupling.graph.constants()}
    for name, zeroed in plan.zeroed.items():
        if name not in by_key:
            raise PlanError(f"the plan names {name!r}, which the model lacks")
        shape = tuple(int(d) for d in by_key[name].shape or [] if isinstance(d, int))
        sparsity.zero_elements(analysis.model, analysis.coupling, by_key[name], unpack_mask(zeroed["mask"], shape))
