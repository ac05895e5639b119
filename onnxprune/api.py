"""The flow from model to model, and each of its stages on its own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from onnxprune.cost.measure import measure
from onnxprune.coupling.groups import Group
from onnxprune.errors import InputError
from onnxprune.extensions import Scorer, Targets, as_criterion
from onnxprune.importance.magnitude import Scores
from onnxprune.metrics import MetricFunction
from onnxprune.model.model import load
from onnxprune.model.sparse_initializers import densify
from onnxprune.options import Calibration, Checks, Options, Repair, Resources, Scope
from onnxprune.options import checks as checks_of
from onnxprune.patterns import CHANNELS, Pattern
from onnxprune.pipeline.analysis import Analysis, ModelSource, analyze_loaded, check_scope, to_proto_or_path
from onnxprune.pipeline.apply import Application, run_plan
from onnxprune.pipeline.original import Original
from onnxprune.pipeline.progress import Announce, Clock
from onnxprune.pipeline.result import Result
from onnxprune.pipeline.run import make_plan, run_stages
from onnxprune.pipeline.score import score_groups
from onnxprune.pipeline.verify import verify as verify_source
from onnxprune.planning.plan import Plan, io_slices
from onnxprune.runtime.determinism import deterministic_run
from onnxprune.runtime.io_slices import WHOLE
from onnxprune.verification.check import Verification

__all__ = ["Analysis", "Announce", "ModelSource", "Result", "analyze", "apply", "plan", "prune", "run", "score"]
__all__ += ["verify"]


def prune(
    model: ModelSource,
    ratio: float | None = None,
    *,
    target: Targets | None = None,
    pattern: str | Pattern | Sequence[str | Pattern] = CHANNELS,
    global_ranking: bool | None = None,
    importance: str | Scorer | None = None,
    min_channels: int = 1,
    round_to: int = 1,
    steps: int = 1,
    permute: bool = False,
    seed: int = 0,
    only: str | Sequence[str] = (),
    ignore: str | Sequence[str] = (),
    mixing: bool = False,
    attention: str = "heads",
    shrink: str | Sequence[str] = (),
    calib: Any = None,
    samples: int | None = None,
    stats: str | os.PathLike[str] | None = None,
    repair: str = "auto",
    gate: Mapping[str, float] | None = None,
    metric: str | MetricFunction | None = None,
    max_drop: float | None = None,
    keep_anyway: bool = False,
    search: bool = False,
    drift_search: bool = False,
    verify: bool = True,
    time: bool = True,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    sparse_storage: bool = False,
    memory: int = 10**9,
    run_seconds: float = 600.0,
    run_memory: int | None = None,
) -> Result:
    """Prunes a model; `Options.of` describes the options.

    Args:
        model: A path, a `ModelProto` or a `gs.Graph`; it is not changed.
        ratio: Share of the units (channels, heads, blocks) of every prunable group that is removed.
        target: What may be left of some costs, in place of a ratio.
        pattern: ``channels``, a pattern of zeros, or a list with both.
        global_ranking: Rank across groups instead of within each.
        importance: A criterion by name, or a function of a group.
        min_channels: Units that every group keeps.
        round_to: What layers have of the channels that are left is rounded up to a multiple of this.
        steps: Rounds of removal.
        permute: Reorder channels first, so that an N:M pattern keeps more.
        seed: Seed of anything random.
        only: Regular expressions of the names that are pruned.
        ignore: Regular expressions of the names that are left whole.
        mixing: Prune groups of grade *mixing* too.
        attention: ``heads`` or ``dims``.
        shrink: Regular expressions of graph inputs and outputs that may lose slices.
        calib: Calibration data.
        samples: Calibration samples to use at most.
        stats: File of statistics.
        repair: ``auto``, ``none``, ``data-free``, ``calibrated``, or a method that was added.
        gate: Limits to how far outputs may move.
        metric: What is measured on held-out samples.
        max_drop: How much of the metric may be lost.
        keep_anyway: Write a model that misses a gate.
        search: Take the smallest model within the gates.
        drift_search: The old name of `search`.
        verify: Check the result in onnxruntime.
        time: Time both models in onnxruntime.
        input_shapes: Shapes of graph inputs.
        sparse_storage: Store weights as sparse initializers.
        memory: Bytes of activations to hold.
        run_seconds: The longest that one run of a model may take.
        run_memory: Bytes that onnxruntime may hold.

    Returns:
        The pruned model in kind, the plan and the report.

    Raises:
        InputError: The model, the data or an option is unusable; `ModelError`, `DataError` and `RunError` are kinds.
        VerificationError: The pruned model fails in onnxruntime where the original does not.
    """
    options = {name: value for name, value in locals().items() if name != "model"}
    return run(model, Options.of(**options))


def run(model: ModelSource, options: Options, announce: Announce | None = None) -> Result:
    """Prunes a model with the options in one object; see `prune`.

    Args:
        model: A path, a `ModelProto` or a `gs.Graph`; it is not changed.
        options: The options: `Options.of` takes those of `prune`, `Options` itself takes them by concern.
        announce: Called with the name of each stage as it starts, and with its progress.
    """
    checks_of.instance("options", options, Options)
    with deterministic_run(options.resources.run_seconds, options.resources.run_memory):
        return run_stages(Original.of(model), options, Clock(announce))


def analyze(
    model: ModelSource, *, mixing: bool = False, attention: str = "heads", shrink: str | Sequence[str] = ()
) -> Analysis:
    """What is tied to what in a model.

    Args:
        model: A path, a `ModelProto` or a `gs.Graph`; it is copied.
        mixing: Whether channels of grade *mixing* are open to pruning.
        attention: ``heads`` or ``dims``, see `Options.of`.
        shrink: Regular expressions; matching graph inputs and outputs are open to pruning.

    Raises:
        InputError: The model cannot be read (`ModelError`), an option is of the wrong kind or unknown, or a pattern of
            `shrink` matches nothing.
    """
    scope = Scope(mixing=mixing, attention=attention, shrink=shrink)
    loaded = load(to_proto_or_path(model), weights=False)
    stored = measure(loaded) if loaded.proto.functions or loaded.proto.graph.sparse_initializer else None
    densify(loaded)
    analysis = analyze_loaded(loaded, mixing=scope.mixing, attention=scope.attention, shrink=scope.shrink)
    analysis.stored = stored
    return analysis


def score(
    analysis: Analysis,
    importance: str | Scorer = "l2",
    *,
    calib: Any = None,
    samples: int | None = None,
    stats: str | os.PathLike[str] | None = None,
    seed: int = 0,
    groups: Sequence[Group] | None = None,
    memory: int = 10**9,
    run_seconds: float = 600.0,
    run_memory: int | None = None,
) -> list[Scores]:
    """Importance of every unit of some groups.

    Args:
        analysis: The analysis of a model.
        importance: A criterion by name, or a function of a group (`extensions.GroupView`).
        calib: Calibration data, for a criterion that needs them.
        samples: Calibration samples to use at most.
        stats: File of statistics from calibration data: used where it exists, else written.
        seed: Seed of anything random.
        groups: The groups, some of those of the analysis; by default all.
        memory: Bytes of activations to hold before they go to files.
        run_seconds: The longest that one load or run of a model in onnxruntime may take.
        run_memory: Bytes that onnxruntime may hold.

    Returns:
        One vector a group, the least important unit lowest; shape (units,).

    Raises:
        InputError: The criterion is unknown, chooses zeros only, needs data that are not given, or uses none that are;
            the data or an option is unusable.
    """
    checks_of.instance("analysis", analysis, Analysis)
    criterion = as_criterion(importance)
    calibration, resources = Calibration(calib, samples, stats), Resources(memory, run_seconds, run_memory)
    given = calib is not None or stats is not None
    if not criterion.channels:
        raise InputError(
            f"importance {criterion.name!r} chooses zeros, not channels", "plan(pattern='2:4') makes zeros"
        )
    if criterion.needs == "moments" and not given:
        raise InputError(f"importance {criterion.name!r} needs calibration data", "give calib=... or stats=...")
    if criterion.needs == "weights" and given:
        raise InputError(f"importance {criterion.name!r} uses no calibration data", "leave calib and stats away")
    seed, chosen = checks_of.whole("seed", seed, 0), analysis.groups if groups is None else groups
    with deterministic_run(resources.run_seconds, resources.run_memory):
        return score_groups(analysis, chosen, criterion, calibration, seed=seed, memory=resources.memory)


def plan(
    analysis: Analysis,
    ratio: float | None = None,
    *,
    target: Targets | None = None,
    pattern: str | Pattern | Sequence[str | Pattern] = CHANNELS,
    global_ranking: bool | None = None,
    importance: str | Scorer | None = None,
    min_channels: int = 1,
    round_to: int = 1,
    steps: int = 1,
    permute: bool = False,
    seed: int = 0,
    only: str | Sequence[str] = (),
    ignore: str | Sequence[str] = (),
    mixing: bool | None = None,
    attention: str | None = None,
    shrink: str | Sequence[str] | None = None,
    calib: Any = None,
    samples: int | None = None,
    stats: str | os.PathLike[str] | None = None,
    repair: str = "auto",
    gate: Mapping[str, float] | None = None,
    metric: str | MetricFunction | None = None,
    max_drop: float | None = None,
    search: bool = False,
    drift_search: bool = False,
    verify: bool = True,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    memory: int = 10**9,
    run_seconds: float = 600.0,
    run_memory: int | None = None,
) -> Plan:
    """The plan that `prune` makes of the same model with the same options, which `Options.of` describes.

    Args:
        analysis: The analysis of the model; it is not changed.
        ratio: Share of the units (channels, heads, blocks) of every prunable group that is removed.
        target: What may be left of some costs, in place of a ratio.
        pattern: ``channels``, a pattern of zeros, or a list with both.
        global_ranking: Rank across groups instead of within each.
        importance: A criterion by name, or a function of a group.
        min_channels: Units that every group keeps.
        round_to: What layers have of the channels that are left is rounded up to a multiple of this.
        steps: Rounds of removal.
        permute: Reorder channels first, so that an N:M pattern keeps more.
        seed: Seed of anything random.
        only: Regular expressions of the names that are pruned.
        ignore: Regular expressions of the names that are left whole.
        mixing: What the analysis was made with, which is the default.
        attention: The same.
        shrink: The same.
        calib: Calibration data.
        samples: Calibration samples to use at most.
        stats: File of statistics.
        repair: The repair that is to follow: rounds, zeros, and the default importance depend on it.
        gate: Limits to how far outputs may move, for `search`.
        metric: What is measured on held-out samples, for `search`.
        max_drop: How much of the metric may be lost, for `search`.
        search: Plan the smallest model within the gates.
        drift_search: The old name of `search`.
        verify: Check in onnxruntime what a permutation leaves as it was, and gates without data.
        input_shapes: Shapes of graph inputs.
        memory: Bytes of activations to hold.
        run_seconds: The longest that one run of a model may take.
        run_memory: Bytes that onnxruntime may hold.

    Raises:
        InputError: The data or an option is unusable, or an option says something else than the analysis.
    """
    options = {name: value for name, value in locals().items() if name != "analysis"}
    check_scope(analysis, mixing, attention, shrink)
    coupling = analysis.coupling
    scope = {"mixing": coupling.mixing, "attention": coupling.attention, "shrink": ()}
    requested = Options.of(**{**options, **scope})
    with deterministic_run(requested.resources.run_seconds, requested.resources.run_memory):
        return make_plan(analysis, requested, Clock())


def apply(
    plan: Plan,
    model: ModelSource,
    *,
    calib: Any = None,
    samples: int | None = None,
    repair: str = "auto",
    metric: str | MetricFunction | None = None,
    seed: int = 0,
) -> Result:
    """Applies a plan to a checkpoint of the architecture that it was made for.

    Args:
        plan: The plan.
        model: A path, a `ModelProto` or a `gs.Graph`; it is not changed.
        calib: Calibration data: with them the remaining layers are repaired, and the result is evaluated.
        samples: Calibration samples to use at most.
        repair: ``auto`` is ``calibrated`` with data, else ``none``.
        metric: What is measured on held-out samples.
        seed: Seed of anything random.

    Raises:
        InputError: The model cannot be read (`ModelError`), the plan does not fit it (`PlanError`), or the data are
            unusable (`DataError`).
    """
    checks = Checks(verify=False, metric=metric)
    return run_plan(plan, model, Application(checks, Calibration(calib, samples), Repair(repair), seed=seed))


def verify(
    original: ModelSource,
    pruned: Result | ModelSource,
    *,
    plan: Plan | None = None,
    feeds: Mapping[str, NDArray[Any]] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
) -> Verification:
    """Checks a pruned model against its original in onnxruntime: valid, of the same interface, and how far it moved.

    Args:
        original: The model before pruning.
        pruned: The result of a run, or the model after it.
        plan: What was taken, for what inputs and outputs lost; a `Result` has its own.
        feeds: Inputs to run both with; synthetic ones, of `input_shapes`, by default.
        input_shapes: Shapes of graph inputs.
        seed: Seed of the inputs.

    Raises:
        InputError: A model is unreadable, or an option unusable.
        VerificationError: The pruned model fails where the original does not.
    """
    target = pruned._model if isinstance(pruned, Result) else to_proto_or_path(pruned)
    known_plan = pruned.plan if plan is None and isinstance(pruned, Result) else plan
    if known_plan is not None:
        checks_of.instance("plan", known_plan, Plan)
    lost_slices = WHOLE if known_plan is None else io_slices(known_plan)
    checks = Checks(input_shapes={} if input_shapes is None else input_shapes)
    return verify_source(to_proto_or_path(original), target, checks, feeds=feeds, seed=seed, io_slices=lost_slices)
