"""The flow from model to model, and each of its stages on its own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from onnxprune.common.progress import ProgressCallback
from onnxprune.engines.profiles import Timer
from onnxprune.engines.times import Times
from onnxprune.extensions.metrics import MetricFunction
from onnxprune.extensions.patterns import CHANNELS, Pattern
from onnxprune.extensions.points import Scorer, Targets
from onnxprune.options import EPOCHS, Options
from onnxprune.options import checks as checks_of
from onnxprune.options.one_object import check_alone, requested
from onnxprune.pipeline.analysis import Analysis, ModelSource, check_scope
from onnxprune.pipeline.dry_run import dry_run as dry_run_stages
from onnxprune.pipeline.original import Original
from onnxprune.pipeline.progress import Clock
from onnxprune.pipeline.result import Result
from onnxprune.pipeline.resume import resumable
from onnxprune.pipeline.run import for_plan, make_plan, run_stages
from onnxprune.planning.plan import Plan
from onnxprune.runtime.determinism import limited_run
from onnxprune.runtime.distributed.connect import executing


def prune(
    model: ModelSource,
    ratio: float | None = None,
    *,
    target: Targets | None = None,
    keep: Mapping[str, float] | None = None,
    pattern: str | Pattern | Sequence[str | Pattern] = CHANNELS,
    global_ranking: bool | None = None,
    importance: str | Scorer | None = None,
    min_channels: int = 1,
    round_to: int | str = "auto",
    engine: Timer = "onnxruntime",
    times: Times | str | os.PathLike[str] | None = None,
    steps: int = 1,
    depth: int | str = 0,
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
    epochs: int = EPOCHS,
    minutes: float | None = None,
    gate: Mapping[str, float] | None = None,
    metric: str | MetricFunction | None = None,
    max_drop: float | None = None,
    keep_anyway: bool = False,
    search: bool = False,
    drift_search: bool = False,
    verify: bool = True,
    time: bool = True,
    strict: bool = False,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    sparse_storage: bool = False,
    memory: int = 10**9,
    run_seconds: float = 600.0,
    run_memory: int | None = None,
    time_limit: float | None = None,
    options: Options | None = None,
    progress: ProgressCallback | None = None,
    client: Any = None,
    work: str | os.PathLike[str] | None = None,
) -> Result:
    """Prunes a model; `Options.of` describes the options.

    Args:
        model: A path, a `ModelProto` or a `gs.Graph`; it is not changed.
        ratio: Share of the units (channels, heads, blocks) of every prunable group that is removed.
        target: What may be left of some costs, in place of a ratio.
        keep: Regular expression -> share that stays of the groups that it matches; the others follow ratio or target.
        pattern: ``channels``, a pattern of zeros, or a list with both.
        global_ranking: Rank across groups instead of within each.
        importance: A criterion by name, or a function of a group.
        min_channels: Units that every group keeps.
        round_to: Layers that lose channels keep the nearest multiple of this; ``auto`` rounds for a target, to what
            `engine` computes fast; latency needs no rounding.
        engine: The inference engine that the model is for: its name, or for a target of latency what times models in
            it: a command line that is given a model's path and prints milliseconds, or a function of the path.
        times: Measured times for a target of latency; by default they are measured here, in onnxruntime.
        steps: Rounds of removal.
        depth: Blocks that go as a whole before channels do: a number, or ``auto`` for a target.
        permute: Reorder channels first, so that an N:M pattern keeps more.
        seed: Seed of anything random.
        only: Regular expressions of the names that are pruned.
        ignore: Regular expressions of the names that are left whole.
        mixing: Prune groups of grade *mixing* too.
        attention: ``heads`` or ``dims``.
        shrink: Regular expressions of graph inputs and outputs that may lose slices, or go with a block.
        calib: Calibration data.
        samples: Calibration samples to use at most; None for 1,024, see `Calibration`.
        stats: File of statistics.
        repair: ``auto``, ``none``, ``data-free``, ``calibrated``, ``distilled``, or a method that was added.
        epochs: Passes over the calibration samples in the training of a distilled repair.
        minutes: Time after which no further pass begins.
        gate: Limits to how far outputs may move.
        metric: What is measured on held-out samples.
        max_drop: How much of the metric may be lost.
        keep_anyway: Write a model that misses a gate.
        search: Take the smallest model within the gates.
        drift_search: The old name of `search`.
        verify: Check the result in onnxruntime.
        time: Time both models in onnxruntime.
        strict: Write no model that comes with a warning.
        input_shapes: Shapes of graph inputs.
        sparse_storage: Store weights as sparse initializers.
        memory: Bytes of activations to hold.
        run_seconds: The longest that one run of a model may take.
        run_memory: Bytes that onnxruntime may hold.
        time_limit: Seconds that the run may take until it writes.
        options: All of these options in one object, in place of any of them.
        progress: Called with how far the run is (`Progress`).
        client: A `dask.distributed.Client`, whose workers gather statistics and try removals.
        work: A folder where the steps of the run are kept: a run that was ended goes on from there.

    Returns:
        The pruned model in kind, the plan and the report.

    Raises:
        InputError: The model, the data or an option is unusable; `ModelError`, `DataError` and `RunError` are kinds.
        TimeLimitError: The run takes longer than `time_limit`.
        VerificationError: The pruned model fails in onnxruntime where the original does not.
    """
    others = ("model", "options", "progress", "client", "work")
    given = {name: value for name, value in locals().items() if name not in (*others, "others")}
    return run(model, requested(prune, given, options), progress, client, work)


def dry_run(
    model: ModelSource, options: Options, progress: ProgressCallback | None = None, client: Any = None
) -> Result:
    """Plans what `run` would do, and leaves out what does not decide that; see `pipeline.dry_run`."""
    with limited_run(options.resources), executing(client):
        return dry_run_stages(Original.of(model), options, Clock(progress))


def run(
    model: ModelSource,
    options: Options,
    progress: ProgressCallback | None = None,
    client: Any = None,
    work: str | os.PathLike[str] | None = None,
) -> Result:
    """Prunes a model with the options in one object; see `prune`.

    Args:
        model: A path, a `ModelProto` or a `gs.Graph`; it is not changed.
        options: The options: `Options.of` takes those of `prune`, `Options` itself takes them by concern.
        progress: Called with how far the run is, see `Progress`.
        client: See `prune`.
        work: See `prune`.
    """
    checks_of.instance("options", options, Options)
    original = Original.of(model)
    with limited_run(options.resources), executing(client), resumable(work, original, options):
        return run_stages(original, options, Clock(progress))


def plan(
    analysis: Analysis,
    ratio: float | None = None,
    *,
    target: Targets | None = None,
    keep: Mapping[str, float] | None = None,
    pattern: str | Pattern | Sequence[str | Pattern] = CHANNELS,
    global_ranking: bool | None = None,
    importance: str | Scorer | None = None,
    min_channels: int = 1,
    round_to: int | str = "auto",
    engine: Timer = "onnxruntime",
    times: Times | str | os.PathLike[str] | None = None,
    steps: int = 1,
    depth: int | str = 0,
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
    epochs: int = EPOCHS,
    minutes: float | None = None,
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
    time_limit: float | None = None,
    options: Options | None = None,
    progress: ProgressCallback | None = None,
) -> Plan:
    """The plan that `prune` makes of the same model with the same options, which `Options.of` describes.

    Args:
        analysis: The analysis of the model; it is not changed.
        ratio: Share of the units (channels, heads, blocks) of every prunable group that is removed.
        target: What may be left of some costs, in place of a ratio.
        keep: Regular expression -> share that stays of the groups that it matches; the others follow ratio or target.
        pattern: ``channels``, a pattern of zeros, or a list with both.
        global_ranking: Rank across groups instead of within each.
        importance: A criterion by name, or a function of a group.
        min_channels: Units that every group keeps.
        round_to: Layers that lose channels keep the nearest multiple of this; ``auto`` rounds for a target, to what
            `engine` computes fast; latency needs no rounding.
        engine: The inference engine that the model is for: its name, or for a target of latency what times models in
            it: a command line that is given a model's path and prints milliseconds, or a function of the path.
        times: Measured times for a target of latency; by default they are measured here, in onnxruntime.
        steps: Rounds of removal.
        depth: Blocks that go as a whole before channels do: a number, or ``auto`` for a target.
        permute: Reorder channels first, so that an N:M pattern keeps more.
        seed: Seed of anything random.
        only: Regular expressions of the names that are pruned.
        ignore: Regular expressions of the names that are left whole.
        mixing: What the analysis was made with, which is the default.
        attention: The same.
        shrink: The same.
        calib: Calibration data.
        samples: Calibration samples to use at most; None for 1,024, see `Calibration`.
        stats: File of statistics.
        repair: The repair that is to follow: rounds, zeros, and the default importance depend on it.
        epochs: Passes over the samples in the training of a distilled repair.
        minutes: Time after which no further pass begins.
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
        time_limit: Seconds that the run may take until it writes.
        options: The options of a run in one object, in place of any of these.
        progress: Called with how far it is (`Progress`).

    Raises:
        InputError: The data or an option is unusable, or an option says something else than the analysis.
    """
    given = {name: value for name, value in locals().items() if name not in ("analysis", "options", "progress")}
    if options is not None:
        check_alone(plan, given, options)
        mixing, attention, shrink = options.scope.mixing, options.scope.attention, options.scope.shrink
    check_scope(analysis, mixing, attention, shrink)
    made = {"mixing": analysis.coupling.mixing, "attention": analysis.coupling.attention, "shrink": ()}
    asked = Options.of(**{**given, **made}) if options is None else for_plan(options)
    with limited_run(asked.resources):
        return make_plan(analysis, asked, Clock(progress))
