"""The first stages of a run: load, analyze, score. Every trial of a search shares their results."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from onnxprune.cost.measure import Cost, measure
from onnxprune.coupling.groups import Group
from onnxprune.model.model import Model
from onnxprune.model.sparse_initializers import SparseOriginals, densify, densities
from onnxprune.model.stored_files import stored_bytes
from onnxprune.options import LATENCY, Options
from onnxprune.pipeline.analysis import Analysis, analyze_loaded, prunable, shares_by_group
from onnxprune.pipeline.data import CalibrationSplit, HeldOut, SyntheticFeeds, open_data
from onnxprune.pipeline.inputs_seen import SamplesSeen, samples_seen
from onnxprune.pipeline.latency import Timed, timed
from onnxprune.pipeline.metric import MetricEvaluator, make_evaluator
from onnxprune.pipeline.observe import check_stats
from onnxprune.pipeline.original import Original
from onnxprune.pipeline.progress import Clock, work
from onnxprune.pipeline.score import Damage, learn_damage
from onnxprune.pipeline.settle import resolve_repair
from onnxprune.repair.data_free import inputs
from onnxprune.runtime.io_slices import IoSlices
from onnxprune.runtime.process import warm_up
from onnxprune.statistics.moments import REPAIR_ROWS, Moments, Rows
from onnxprune.verification import gates
from onnxprune.verification.gates import Gate

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A loaded model with its resolved options, data and gates.

    Attributes:
        model: The model, dense.
        sparse: Its sparse initializers, as they were.
        cost: What it costs.
        options: The options, with a repair other than ``auto``.
        unrepaired_because: Why ``auto`` repairs nothing, where it might have.
        data: Calibration data, divided.
        gates: The gates that hold.
        evaluator: Measures the metric.
    """

    model: Model
    sparse: SparseOriginals
    cost: Cost
    options: Options
    unrepaired_because: str | None
    data: CalibrationSplit | None
    gates: Sequence[Gate]
    evaluator: MetricEvaluator


@dataclass(frozen=True)
class Prepared:
    """Results of the first stages, before anything is removed.

    Attributes:
        original: The model that was given.
        loaded: The model as it was loaded.
        analysis: The analysis of it.
        groups: The groups that are open to pruning.
        damage: What the removal of their units costs; None where no channels are removed.
        synthetic_feeds: Makes inputs where there are no data.
        samples_seen: Describes the calibration samples, the first time that it is asked.
        clock: Times the stages.
        timed: Times of the model at many widths, where a target of latency needs them.
        repair_data: What a repair learns from, where that is not all of the data.
        repair_rows: How many positions it samples of a layer.
        moments: Moments of what the layers of the original read, once a criterion has needed them.
        blocks: The blocks that are gone already, as entries of a plan: analysis and costs are of what they leave.
        whole: What the original costs, where blocks are gone.
        milliseconds: What blocks left of the time of the original, measured beside it, where a target of latency needs
            that.
    """

    original: Original
    loaded: Loaded
    analysis: Analysis
    groups: list[Group]
    damage: Damage | None
    synthetic_feeds: SyntheticFeeds
    samples_seen: Callable[[CalibrationSplit], SamplesSeen]
    clock: Clock
    timed: Timed | None = None
    repair_data: CalibrationSplit | None = None
    repair_rows: Rows = REPAIR_ROWS
    moments: dict[str, Moments] = field(default_factory=dict)
    blocks: Sequence[dict[str, Any]] = ()
    whole: Cost | None = None
    milliseconds: float | None = None

    @property
    def cost(self) -> Cost:
        """What the original costs."""
        return self.loaded.cost if self.whole is None else self.whole

    @property
    def lost(self) -> IoSlices:
        """The graph inputs and outputs that went with blocks."""
        return IoSlices(gone=frozenset(name for block in self.blocks for name in block["ends"]))

    @property
    def options(self) -> Options:
        """The options, with a repair other than ``auto``, and with shapes of inputs that are left."""
        options = self.loaded.options
        if not self.lost.gone:
            return options
        shapes = self.lost.shapes(options.checks.input_shapes)
        return replace(options, checks=replace(options.checks, input_shapes=shapes))


def prepare(original: Original, options: Options, clock: Clock, analysis: Analysis | None = None) -> Prepared:
    """Loads a model and its data, analyzes it, and estimates the damage of removing its units.

    Args:
        original: The model.
        options: What is asked.
        clock: Times the stages.
        analysis: The analysis of a copy of the model, where there is one already.

    Raises:
        InputError: The model, the data or an option is unusable.
    """
    return scored(opened(original, options, clock, analysis))


def opened(original: Original, options: Options, clock: Clock, analysis: Analysis | None = None) -> Prepared:
    """The part of `prepare` before the damage is estimated."""
    check_stats(options.calibration)
    clock.expect(work(options))
    with clock.stage("load"):
        if options.checks.verify or options.calibration.data is not None:
            warm_up()
        model, stored = (original.load(), None) if analysis is None else (analysis.model, analysis.stored)
        loaded = load_inputs(original, model, stored, options, clock)
    clock.expect({stage: units for stage, units in work(loaded.options).items() if stage != "load"})
    with clock.stage("analyze"):
        if analysis is None:
            scope = options.scope
            analysis = analyze_loaded(loaded.model, mixing=scope.mixing, attention=scope.attention, shrink=scope.shrink)
    feeds: SyntheticFeeds = cache(lambda: inputs(original.dense(), options.seed, options.checks.input_shapes or None))
    seen = cache(lambda data: samples_seen(original.load(), data))
    return Prepared(original, loaded, analysis, open_groups(analysis, options), None, feeds, seen, clock)


def open_groups(analysis: Analysis, options: Options) -> list[Group]:
    """The groups that the options leave open to pruning."""
    groups = prunable(analysis, options.scope)
    if options.channels is not None:
        shares_by_group(analysis, groups, options.channels.keep)  # what matches nothing is refused before the work
    logger.info("%d groups, %d of them open to pruning", len(analysis.groups), len(groups))
    return groups


def scored(prepared: Prepared) -> Prepared:
    """With the damage of removing units, and with measured times where a target of latency needs them."""
    options, loaded, clock, channels = prepared.options, prepared.loaded, prepared.clock, prepared.options.channels
    analysis, groups, latency, lost = prepared.analysis, prepared.groups, prepared.timed, prepared.lost
    if channels is None:
        return prepared
    if LATENCY in channels.limits:
        with clock.stage("measure"):
            latency = timed(analysis, groups, channels, options.checks.input_shapes)
            if prepared.milliseconds is not None:
                latency = replace(latency, times=latency.times.scaled(prepared.milliseconds))
        loaded = replace(loaded, cost=replace(loaded.cost, times=latency.times))
    moments = dict[str, Moments]()
    with clock.stage("score"):
        data = None if loaded.data is None else loaded.data.without(lost.gone)
        feeds = prepared.synthetic_feeds
        damage = learn_damage(
            analysis, groups, data, options, channels, loaded.cost, lambda: [lost.feeds(f) for f in feeds()], moments
        )
    return replace(prepared, loaded=loaded, damage=damage, timed=latency, moments=moments)


def load_inputs(original: Original, model: Model, stored: Cost | None, options: Options, clock: Clock) -> Loaded:
    """Makes a model dense, in place, opens the data, and resolves ``repair=auto``."""
    cost = measure(model, options.checks.input_shapes, run=options.targets_macs)
    if stored is not None:
        cost = replace(cost, params=stored.params, bytes=stored.bytes, density=stored.density)
    cost = replace(cost, bytes=stored_bytes(model) or cost.bytes)
    sparse = densify(model)
    cost = replace(cost, density=densities(sparse) or cost.density)
    repair, why = resolve_repair(
        model,
        options.repair,
        has_data=options.calibration.data is not None,
        removes=options.channels is not None,
        input_shapes=options.checks.input_shapes,
    )
    settled = replace(options, repair=repair)
    checks = options.checks
    held_out = HeldOut(many=checks.max_drop is not None, confirm=checks.max_drop is not None and checks.search)
    data = open_data(model, options.calibration, options.seed, clock.samples, held_out)
    held_to = gates.make_gates(model, checks.gate, data=data is not None)
    evaluator = make_evaluator(original.load, data, checks, options.seed)
    return Loaded(model, sparse, cost, settled, why, data, held_to, evaluator)
