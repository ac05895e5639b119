"""Latency in a run: reads or measures the times of the model, and holds an allocation to what it really takes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxprune.allocation.selection import Selection
from onnxprune.coupling.groups import Group
from onnxprune.engines import DEFAULT, Timer, is_timer
from onnxprune.errors import InputError, RunError, option
from onnxprune.options import LATENCY, Channels
from onnxprune.pipeline.analysis import Analysis, reanalyze
from onnxprune.planning.fingerprint import fingerprint
from onnxprune.progress import step
from onnxprune.runtime.worker import CPU
from onnxprune.times import Times
from onnxprune.timing.engines import Engine, External, OnnxRuntime, timer
from onnxprune.timing.measure import COPIES, measure_times, slice_copy
from onnxprune.verification.check import working_feeds

logger = logging.getLogger(__name__)

CORRECTIONS = 6
"""How often an allocation is measured, and made again where the prediction was wrong."""
CHECKED = 1.5
"""Seconds for which an allocation is timed: longer than each of the copies that it was predicted from."""
TOLERANCE = 0.02
"""A time is met to within this share of it: medians of repeated measurements differ by about as much."""
RIVALS, PROBES = (4, 8, 16), 3
"""Multiples at which targets of MACs are measured beside the allocation by the times, and how often each."""
SLACK = 0.03
"""Share of the time asked for that an allocation may leave unused without being made again."""


@dataclass(frozen=True)
class Timed:
    """The times of a model, and what they can be checked with.

    Attributes:
        times: The times.
        engine: Times pruned models; None where the times come from elsewhere and nothing here can check them.
    """

    times: Times
    engine: Engine | None


@dataclass(frozen=True)
class MeasuredLatency:
    """Latency of what an allocation leaves.

    Attributes:
        predicted: By the times at many widths, in milliseconds; None where it was measured only.
        measured: By a run of it, in milliseconds; None where the times come from elsewhere.
        engine: What it was measured in.
    """

    predicted: float | None
    measured: float | None
    engine: str | None = None


def timed(
    analysis: Analysis, groups: Sequence[Group], channels: Channels, shapes: Mapping[str, Sequence[int]]
) -> Timed:
    """Reads the times that the options name, or measures the model: in onnxruntime on one thread, or as `engine` says.

    Args:
        analysis: The analysis of the model.
        groups: The groups that may shrink.
        channels: The options.
        shapes: Shapes of graph inputs.

    Raises:
        InputError: The times are unreadable or of another model, or the model does not run.
    """
    read = None if channels.times is None else read_times(channels.times, analysis)
    if read is not None and not is_timer(channels.engine):
        return Timed(read, None)
    try:
        used = ready_engine(analysis, shapes, channels.engine)
        if read is not None:
            return Timed(read, used.engine)
        return Timed(measure(analysis, groups, used.engine, used.shapes, copies=COPIES), used.engine)
    except RunError as error:
        raise InputError(f"the model cannot be timed: {error.message}", error.hint) from error


@dataclass(frozen=True)
class ReadyEngine:
    """An engine that has loaded a model, and the shapes of the inputs that it feeds."""

    engine: Engine
    shapes: Mapping[str, Sequence[int]]


def ready_engine(
    analysis: Analysis,
    shapes: Mapping[str, Sequence[int]],
    engine: Timer = DEFAULT,
    *,
    providers: Sequence[Any] = (CPU,),
    threads: int = 1,
    batch: int = 1,
) -> ReadyEngine:
    """The engine that times copies of a model: what is given a model file, else onnxruntime; see `stages.measure`.

    Raises:
        InputError: The model does not run on synthetic inputs, or takes no such batch.
        RunError: The engine does not take the model.
    """
    model = analysis.model.copy()
    feeds, names = working_feeds(model, shapes or None, batch)
    if batch > 1 and not any(a.shape[:1] == (batch,) for a in feeds.values()):
        raise InputError(f"the model takes no batch of {batch}", f"{option('input_shapes')} gives its inputs a size")
    fed = {name: a.shape for name, a in feeds.items()}
    if is_timer(engine):
        return ReadyEngine(External(model, *timer(engine)), fed)
    return ReadyEngine(OnnxRuntime(model, feeds, names, threads=threads, providers=providers), fed)


def read_times(source: Times | str | os.PathLike[str], analysis: Analysis) -> Times:
    """Reads times, and checks that they are those of a model.

    Raises:
        InputError: The file is unreadable, or the times are of another model.
    """
    if isinstance(source, Times):
        times = source
    else:
        try:
            text = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise InputError(f"times {os.fspath(source)!r} cannot be read: {reason}") from None
        times = Times.from_json(text)
    if times.model != fingerprint(analysis.model.proto):
        raise InputError("the times were measured for another model", "they fit checkpoints of one architecture only")
    return times


def measure(
    analysis: Analysis,
    groups: Sequence[Group],
    engine: Engine,
    shapes: Mapping[str, Sequence[int]],
    *,
    copies: int = COPIES,
    before: Times | None = None,
    measured: Callable[[Times], None] = lambda times: None,
) -> Times:
    """Measures the times of an analysed model at many widths; see `timing.measure`."""

    def found(times: Times) -> None:
        step(f"copy {len(times.rows)} of {copies + 1}", len(times.rows), copies + 1)
        measured(times)

    return measure_times(
        analysis.model,
        analysis.coupling,
        groups,
        lambda copy: reanalyze(analysis, copy).coupling,
        engine,
        input_shapes=shapes,
        copies=copies,
        before=before,
        measured=found,
    )


def settle(
    allocate: Callable[[Channels], Selection], analysis: Analysis, timed: Timed, channels: Channels
) -> tuple[Selection, MeasuredLatency]:
    """An allocation whose measured latency is what was asked for.

    Where the prediction is wrong, the limit is corrected by as much, and the allocation is made again. Allocations of
    MACs at multiples that engines compute fast are measured beside it: where the times mislead, one of them does less
    damage in the same time.

    Args:
        allocate: Selects channels for options.
        analysis: The analysis of the model; its model is not changed.
        timed: The times of the model.
        channels: The options, with a target of latency.
    """
    selected = allocate(channels)
    if timed.engine is None:
        return selected, MeasuredLatency(float(selected.targets[LATENCY]["left"]), None)
    asked = float(selected.targets[LATENCY]["asked"])
    trials = [*_corrected(allocate, analysis, timed, channels, selected)]
    if len(channels.target) == 1 and selected.entries:
        for multiple in RIVALS:
            trials += _rivals(allocate, analysis, timed, channels, multiple, asked)
    chosen, latency = min(trials, key=lambda trial: _rank(trial[0], trial[1], asked))
    assert latency.measured is not None
    target = {"asked": asked, "left": latency.measured, "met": _met(latency.measured, asked)}
    others = {name: found for name, found in chosen.targets.items() if name in channels.limits}
    return replace(chosen, targets={**others, LATENCY: target}), latency


Trial = tuple[Selection, MeasuredLatency]


def _corrected(
    allocate: Callable[[Channels], Selection], analysis: Analysis, timed: Timed, channels: Channels, selected: Selection
) -> Iterator[Trial]:
    """Allocations by the times, each with the limit that the last one's error calls for."""
    assert timed.engine is not None
    limit = asked = float(selected.targets[LATENCY]["asked"])
    for _ in range(CORRECTIONS):
        predicted = float(selected.targets[LATENCY]["left"])
        measured = measured_ratio(analysis, timed.engine, selected) * timed.times.milliseconds
        logger.info("latency: %.4g ms predicted, %.4g ms measured, %.4g ms asked for", predicted, measured, asked)
        yield selected, MeasuredLatency(predicted, measured, timed.engine.name)
        if asked * (1 - SLACK) <= measured <= asked or not selected.targets[LATENCY]["met"]:
            break
        limit *= asked * (1 - SLACK / 2) / measured
        before = selected
        selected = allocate(replace(channels, target={**channels.target, LATENCY: f"{limit:.9g}ms"}))
        if (before.removed == selected.removed).all():
            break


def _rivals(
    allocate: Callable[[Channels], Selection],
    analysis: Analysis,
    timed: Timed,
    channels: Channels,
    multiple: int,
    asked: float,
) -> Iterator[Trial]:
    """Allocations of MACs at a multiple, towards the share of them that takes the time: it grows about evenly."""
    assert timed.engine is not None
    share, whole = asked / timed.times.milliseconds, timed.times.milliseconds
    predicted: float | None = None
    for _ in range(PROBES):
        try:
            selected = allocate(replace(channels, target={"macs": share}, round_to=multiple))
        except InputError:  # the MACs cannot be counted
            return
        measured = measured_ratio(analysis, timed.engine, selected) * whole
        logger.info("multiples of %d: %.4g ms at %.3g of the MACs", multiple, measured, share)
        yield selected, MeasuredLatency(predicted, measured, timed.engine.name)
        if asked * (1 - SLACK) <= measured <= asked:
            return
        slope = max((whole - measured) / (1 - share), 0.2 * whole)
        predicted = asked * (1 - SLACK / 2)
        share = min(max(share + (predicted - measured) / slope, 0.3 * share), 0.99)


def _rank(selected: Selection, latency: MeasuredLatency, asked: float) -> tuple[bool, float]:
    """Orders allocations: of those that meet the target the least damage comes first, else the shortest time."""
    assert latency.measured is not None
    if _met(latency.measured, asked):
        return False, sum(float(entry.get("damage", 0.0)) for entry in selected.entries)
    return True, latency.measured


def _met(measured: float, asked: float) -> bool:
    return measured <= asked * (1 + TOLERANCE)


def measured_ratio(analysis: Analysis, engine: Engine, selected: Selection) -> float:
    """Time of what a selection leaves over that of the original."""
    copy = reanalyze(analysis, analysis.model.copy())
    io_slices = slice_copy(copy.model, copy.coupling, selected.removed)
    try:
        return engine.ratio(copy.model, io_slices, CHECKED)
    except RunError as error:
        raise InputError(f"the pruned model cannot be timed: {error.message}", error.hint) from error
