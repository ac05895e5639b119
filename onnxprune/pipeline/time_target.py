"""Holds an allocation to a time: it is timed, and made again where the prediction was wrong.

Allocations with widths of several multiples are timed beside it, of the latency and of the MACs: damage and times are
predicted with errors, and an allocation that is the best by the predictions is so by their errors too. Of all that take
the time, the one is taken that is really the best, as far as a short refit tells.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from onnxprune.allocation.selection import Selection
from onnxprune.common.progress import step
from onnxprune.cost.targets import predicted
from onnxprune.engines.profiles import DEFAULT
from onnxprune.errors import InputError, RunError
from onnxprune.extensions.points import as_cost
from onnxprune.options import AUTO, LATENCY, Channels
from onnxprune.pipeline.analysis import Analysis, reanalyze
from onnxprune.pipeline.latency import Timed
from onnxprune.pipeline.prepare import Prepared
from onnxprune.timing.engines import Engine
from onnxprune.timing.measure import slice_copy

logger = logging.getLogger(__name__)

CORRECTIONS, PROBES = 6, 3
"""How often an allocation by the times is made again and timed, and how often each of those beside it."""
MULTIPLES, MACS_MULTIPLES = (4, 8), (4, 8, 16)
"""Multiples of widths with which allocations of the latency and of the MACs are tried beside it."""
CHECKED = 1.5
"""Seconds for which an allocation, or what blocks leave, is timed: longer than each copy that it was predicted from."""
TOLERANCE = 0.02
"""A time is met to within this share of it: medians of repeated measurements differ by about as much."""
SLACK = 0.03
"""Share of the time asked for that an allocation may leave unused without being made again."""
FLATTEST, LEAST_STEP = 0.2, 0.3
"""How little of the time an amount is taken to change, relative to both, and what is left of an amount at least."""
COMPARED, WORSE = 5, 1.5
"""Series whose damage is measured, the least predicted damage first, and how much more of it they may have."""

Allocate = Callable[[Channels], Selection]
Predict = Callable[[Selection], float]
Judge = Callable[[Selection], float]


@dataclass(frozen=True)
class MeasuredLatency:
    """Latency of what an allocation leaves.

    Attributes:
        predicted: By the times at many widths, in milliseconds.
        measured: By a run of it, in milliseconds; None where the times come from elsewhere.
        engine: What it was measured in.
    """

    predicted: float
    measured: float | None
    engine: str | None = None


@dataclass(frozen=True)
class Trial:
    """An allocation and the time that was measured of it.

    Attributes:
        selected: The allocation.
        predicted: See `MeasuredLatency`.
        measured: In milliseconds.
        series: Number of the cost and multiple that it was made for.
    """

    selected: Selection
    predicted: float
    measured: float
    series: int = 0

    @property
    def damage(self) -> float:
        """The predicted damage."""
        return sum(float(entry.get("damage", 0.0)) for entry in self.selected.entries)


def predicted_latency(prepared: Prepared) -> Predict:
    """The latency of what a selection leaves, in milliseconds."""
    groups, shapes = prepared.groups, prepared.options.checks.input_shapes
    model = predicted(as_cost(LATENCY), prepared.analysis.coupling, groups, prepared.loaded.cost, shapes)
    return lambda selected: model.left(selected.units(groups))


def settle(
    allocate: Allocate,
    analysis: Analysis,
    timed: Timed,
    channels: Channels,
    predict: Predict,
    judge: Judge | None = None,
) -> tuple[Selection, MeasuredLatency]:
    """An allocation whose measured latency is what was asked for.

    Args:
        allocate: Selects channels for options.
        analysis: The analysis of the model; its model is not changed.
        timed: The times of the model.
        channels: The options, with a target of latency.
        predict: The time of what an allocation leaves, by the times; in milliseconds.
        judge: Measures the damage of an allocation; None where there are no data to do so.
    """
    selected = allocate(channels)
    if timed.engine is None:
        return selected, MeasuredLatency(float(selected.targets[LATENCY]["left"]), None)
    asked = float(selected.targets[LATENCY]["asked"])
    trials = list(_trials(allocate, analysis, timed, channels, predict, asked))
    chosen = _best(trials, asked, judge)
    target = {"asked": asked, "left": chosen.measured, "met": _met(chosen, asked)}
    others = {name: found for name, found in chosen.selected.targets.items() if name in channels.limits}
    latency = MeasuredLatency(chosen.predicted, chosen.measured, timed.engine.name)
    return replace(chosen.selected, targets={**others, LATENCY: target}), latency


def by_times_alone(
    allocate: Allocate, analysis: Analysis, timed: Timed, channels: Channels, predict: Predict
) -> tuple[Selection, float]:
    """An allocation by the times that is made again until its measured latency is what was asked for.

    Returns:
        The allocation, and its latency over what was asked for, 1 where it is met; both as predicted where the times
        come from elsewhere.
    """
    selected = allocate(channels)
    asked, left = (float(selected.targets[LATENCY][key]) for key in ("asked", "left"))
    if timed.engine is None:
        return selected, max(1.0, left / asked)
    chosen = _best(list(_trials(allocate, analysis, timed, channels, predict, asked, beside=False)), asked, None)
    return chosen.selected, 1.0 if _met(chosen, asked) else chosen.measured / asked


def _trials(
    allocate: Allocate,
    analysis: Analysis,
    timed: Timed,
    channels: Channels,
    predict: Predict,
    asked: float,
    *,
    beside: bool = True,
) -> Iterator[Trial]:
    """Allocations by the times, and others beside them where nothing else is asked."""
    whole = timed.times.milliseconds

    def by_time(limit: float, multiple: int | str) -> Channels:
        return replace(channels, target={**channels.target, LATENCY: f"{limit:.9g}ms"}, round_to=multiple)

    def by_macs(share: float, multiple: int | str) -> Channels:
        return replace(channels, target={"macs": min(share, 1.0)}, round_to=multiple, engine=DEFAULT, times=None)

    series: list[tuple[Callable[[float, int | str], Channels], float, float, int | str, int]] = [
        (by_time, asked, whole, channels.round_to, CORRECTIONS)
    ]
    if channels.round_to == AUTO and beside:
        series += [(by_time, asked, whole, multiple, PROBES) for multiple in MULTIPLES]
    if len(channels.target) == 1 and beside:
        multiples = MACS_MULTIPLES if channels.round_to == AUTO else (channels.round_to,)
        series += [(by_macs, asked / whole, 1.0, multiple, PROBES) for multiple in multiples]
    for number, (options, first, most, multiple, tries) in enumerate(series):
        step(f"allocation {number + 1} of {len(series)}", number, len(series))
        amount, seen = first, [(most, whole)]
        before: Selection | None = None
        for _ in range(tries):
            try:
                selected = allocate(options(amount, multiple))
            except InputError:  # the MACs cannot be counted
                if before is None and number > 0:
                    break
                raise
            if before is not None and (before.removed == selected.removed).all():
                break
            trial = replace(_timed(analysis, timed, selected, predict(selected)), series=number)
            yield trial
            if asked * (1 - SLACK) <= trial.measured <= asked or not selected.removed.any():
                break
            if trial.measured <= asked and whole <= asked:  # nothing had to be faster
                break
            if not all(target["met"] for target in selected.targets.values()):
                break
            seen.append((amount, trial.measured))
            amount, before = _next(seen, asked * (1 - SLACK / 2)), selected


def _next(seen: Sequence[tuple[float, float]], goal: float) -> float:
    """The amount with which a time is expected to be measured, on the line through the nearest pairs.

    Args:
        seen: Pairs of an amount that was asked for and a measured time; that of the original, at least one more.
        goal: The time, less than that of the original.
    """
    shorter = [pair for pair in seen if pair[1] < goal]
    longer = sorted({pair[0]: pair for pair in seen if pair[1] >= goal}.values())  # one of those of an amount
    if not longer:
        return seen[-1][0]
    if shorter:
        (x, low), (y, high) = (find(pairs, key=lambda pair: pair[1]) for find, pairs in ((max, shorter), (min, longer)))
        return x + (y - x) * (goal - low) / (high - low)
    (x, low), *others = longer
    if not others:
        return x * max(goal / low, LEAST_STEP)
    y, high = others[0]
    slope = max((high - low) / (y - x), FLATTEST * high / y)
    return max(x - (low - goal) / slope, LEAST_STEP * x)


def _timed(analysis: Analysis, timed: Timed, selected: Selection, predicted: float) -> Trial:
    assert timed.engine is not None
    measured = measured_ratio(analysis, timed.engine, selected) * timed.times.milliseconds
    logger.info("latency: %.4g ms predicted, %.4g ms measured", predicted, measured)
    return Trial(selected, predicted, measured)


def _best(trials: Sequence[Trial], asked: float, judge: Judge | None) -> Trial:
    """Of the allocations that meet the target the one of the least damage, else the fastest."""
    met = [trial for trial in trials if _met(trial, asked)]
    if not met:
        return min(trials, key=lambda trial: trial.measured)
    met.sort(key=lambda trial: trial.damage)
    compared = [t for t in _apart(met) if t.damage <= WORSE * met[0].damage][:COMPARED]
    if judge is None or len(compared) == 1:
        return met[0]
    errors = [judge(trial.selected) for trial in compared]
    logger.info(
        "damage: %s predicted, %s measured", [f"{t.damage:.3g}" for t in compared], [f"{e:.3g}" for e in errors]
    )
    return compared[errors.index(min(errors))]


def _apart(trials: Sequence[Trial]) -> Iterator[Trial]:
    """The first allocation of each series: others hardly differ from it. Of equal ones the first."""
    seen: set[int | bytes] = set()
    for trial in trials:
        keys: set[int | bytes] = {trial.series, trial.selected.removed.tobytes()}
        if not keys & seen:
            yield trial
        seen |= keys


def _met(trial: Trial, asked: float) -> bool:
    return trial.measured <= asked * (1 + TOLERANCE)


def measured_ratio(analysis: Analysis, engine: Engine, selected: Selection) -> float:
    """Time of what a selection leaves over that of the original."""
    copy = reanalyze(analysis, analysis.model.copy())
    io_slices = slice_copy(copy.model, copy.coupling, selected.removed)
    try:
        return engine.ratio(copy.model, io_slices, CHECKED)
    except RunError as error:
        raise InputError(f"the pruned model cannot be timed: {error.message}", error.hint) from error
