"""The first stages of a run, each on its own: analyze, score, and measure."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from onnxprune.common.progress import ProgressCallback
from onnxprune.cost.measure import measure as measure_cost
from onnxprune.coupling.groups import Group
from onnxprune.engines.profiles import DEFAULT, Timer, timed_here
from onnxprune.engines.times import Times
from onnxprune.errors import InputError
from onnxprune.extensions.points import Scorer, as_criterion
from onnxprune.importance.magnitude import Scores
from onnxprune.model.model import load
from onnxprune.model.sparse_initializers import densify, densities
from onnxprune.options import Calibration, Options, Resources, Scope
from onnxprune.options import checks as checks_of
from onnxprune.options.one_object import check_alone
from onnxprune.pipeline.analysis import Analysis, ModelSource, analyze_loaded, load_dense, prunable, to_proto_or_path
from onnxprune.pipeline.latency import measure as measure_analyzed
from onnxprune.pipeline.latency import ready_engine
from onnxprune.pipeline.progress import Clock
from onnxprune.pipeline.score import score_groups
from onnxprune.runtime.determinism import limited_run
from onnxprune.runtime.worker import CPU
from onnxprune.timing.measure import COPIES


def analyze(
    model: ModelSource,
    *,
    mixing: bool = False,
    attention: str = "heads",
    shrink: str | Sequence[str] = (),
    options: Options | None = None,
) -> Analysis:
    """What is tied to what in a model.

    Args:
        model: A path, a `ModelProto` or a `gs.Graph`; it is copied.
        mixing: Whether channels of grade *mixing* are open to pruning.
        attention: ``heads`` or ``dims``, see `Options.of`.
        shrink: Regular expressions; matching graph inputs and outputs are open to pruning.
        options: The options of a run, whose scope takes the place of these three.

    Raises:
        InputError: The model cannot be read (`ModelError`), an option is of the wrong kind or unknown, or a pattern of
            `shrink` matches nothing.
    """
    scope = Scope(mixing=mixing, attention=attention, shrink=shrink)
    if options is not None:
        check_alone(analyze, {"mixing": mixing, "attention": attention, "shrink": shrink}, options)
        scope = options.scope
    loaded = load(to_proto_or_path(model), weights=False)
    stored = measure_cost(loaded) if loaded.proto.functions or loaded.proto.graph.sparse_initializer else None
    density = densities(densify(loaded))
    analysis = analyze_loaded(loaded, mixing=scope.mixing, attention=scope.attention, shrink=scope.shrink)
    analysis.stored = None if stored is None else replace(stored, density=density)
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
    time_limit: float | None = None,
    options: Options | None = None,
) -> list[Scores]:
    """Importance of every unit of some groups.

    Args:
        analysis: The analysis of a model.
        importance: A criterion by name, or a function of a group (`criterion_views.GroupView`).
        calib: Calibration data, for a criterion that needs them.
        samples: Calibration samples to use at most; None for 1,024, see `Calibration`.
        stats: File of statistics from calibration data: used where it exists, else written.
        seed: Seed of anything random.
        groups: The groups, some of those of the analysis; by default all.
        memory: Bytes of activations to hold before they go to files.
        run_seconds: The longest that one load or run of a model in onnxruntime may take.
        run_memory: Bytes that onnxruntime may hold.
        time_limit: Seconds that the run may take until it writes.
        options: The options of a run, whose criterion, data, seed and limits take the place of these.

    Returns:
        One vector a group, the least important unit lowest; shape (units,).

    Raises:
        InputError: The criterion is unknown, chooses zeros only, needs data that are not given, or uses none that are;
            the data or an option is unusable.
    """
    given = {name: value for name, value in locals().items() if name not in ("analysis", "groups", "options")}
    checks_of.instance("analysis", analysis, Analysis)
    criterion, seed = as_criterion(importance), checks_of.whole("seed", seed, 0)
    calibration, resources = Calibration(calib, samples, stats), Resources(memory, run_seconds, run_memory, time_limit)
    if options is not None:
        check_alone(score, given, options)
        criterion, seed = options.criterion, options.seed
        calibration, resources = options.calibration, options.resources
    chosen = analysis.groups if groups is None else groups
    with limited_run(resources):
        return score_groups(analysis, chosen, criterion, calibration, seed=seed, memory=resources.memory)


def measure(
    model: ModelSource,
    *,
    engine: Timer = DEFAULT,
    providers: Sequence[str | tuple[str, dict[str, Any]]] = (CPU,),
    threads: int = 1,
    batch: int = 1,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    copies: int = COPIES,
    mixing: bool = False,
    attention: str = "heads",
    shrink: str | Sequence[str] = (),
    before: Times | None = None,
    measured: Callable[[Times], None] = lambda times: None,
    progress: ProgressCallback | None = None,
) -> Times:
    """Measures what this device takes for a model as a function of its widths, for a target of latency.

    Args:
        model: A path, a `ModelProto` or a `gs.Graph`; it is not changed.
        engine: What times a model file in place of onnxruntime: a command line that is given the path and prints
            milliseconds, or a function from the path to milliseconds.
        providers: Execution providers of onnxruntime, by name or with options.
        threads: Threads for one operator; 0 for onnxruntime's default.
        batch: Size of the batch, where the model leaves it open.
        input_shapes: Shapes of graph inputs.
        copies: How many sliced copies of the model are timed.
        mixing: As for the run that the times are for.
        attention: As for the run that the times are for.
        shrink: As for the run that the times are for.
        before: Times of a call that was ended early; what is in them is not measured again.
        measured: Called with the times so far after each measurement.
        progress: Called with how far it is (`Progress`).

    Raises:
        InputError: The model or an option is unusable.
        RunError: The model cannot be timed.
    """
    copies, batch, threads = (
        checks_of.whole(name, value, least)
        for name, value, least in (("copies", copies, 1), ("batch", batch, 1), ("threads", threads, 0))
    )
    shapes = checks_of.shapes("input_shapes", {} if input_shapes is None else input_shapes)
    scope = Scope(mixing=mixing, attention=attention, shrink=shrink)
    clock = Clock(progress)
    clock.expect({"load": 1.0, "measure": 20.0})
    with limited_run(Resources()):
        with clock.stage("load"):
            loaded = load_dense(to_proto_or_path(model))
            analysis = analyze_loaded(loaded, mixing=scope.mixing, attention=scope.attention, shrink=scope.shrink)
            groups = prunable(analysis, scope)
            if not groups:
                raise InputError("nothing of the model may be pruned", "onnxprune inspect shows why")
            used = ready_engine(analysis, shapes, timed_here(engine), providers=providers, threads=threads, batch=batch)
        with clock.stage("measure"):
            return measure_analyzed(
                analysis, groups, used.engine, used.shapes, copies=copies, before=before, measured=measured
            )
