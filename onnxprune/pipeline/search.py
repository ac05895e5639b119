"""The search for the smallest model within the gates."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from onnxprune.allocation import selection
from onnxprune.allocation.bisection import MAX_RUNS, furthest_good
from onnxprune.cost.measure import measure
from onnxprune.cost.targets import totals
from onnxprune.options import Channels
from onnxprune.pipeline.analysis import reanalyze
from onnxprune.pipeline.attempt import Pruned, attempt, select
from onnxprune.pipeline.prepare import Prepared
from onnxprune.pipeline.progress import work_of_attempt
from onnxprune.report.report import Amount, SearchReport, SearchTrial

logger = logging.getLogger(__name__)


def search(prepared: Prepared) -> tuple[Pruned, SearchReport]:
    """Returns the smallest model within the gates, and a record of every trial."""
    trials: list[SearchTrial] = []
    furthest = prepared.options.channels
    assert furthest is not None  # the options see to that
    shapes = prepared.options.checks.input_shapes
    whole = totals(furthest.costs, prepared.analysis.coupling, prepared.loaded.cost, shapes)

    def channels(share: float) -> Channels:
        return selection.intermediate_target(furthest, whole, share)

    def make(share: float) -> Pruned:
        prepared.clock.prefix = f"search, model {len(trials) + 1} of at most {MAX_RUNS}: "
        copy = reanalyze(prepared.analysis, prepared.analysis.model.copy())
        with prepared.clock.trial(len(trials), MAX_RUNS, work_of_attempt(prepared.options)):
            pruned = attempt(prepared, replace(prepared.options, channels=channels(share)), copy)
        trials.append(_trial(pruned))
        logger.info("search: %s", trials[-1])
        return pruned

    def same(one: float, other: float) -> bool:
        return np.array_equal(select(prepared, channels(one)).removed, select(prepared, channels(other)).removed)

    found = furthest_good(make, lambda pruned: pruned.met, same)
    prepared.clock.prefix = ""
    return found, SearchReport(trials, _amount(found.options.channels))


def _trial(pruned: Pruned) -> SearchTrial:
    amount = _amount(pruned.options.channels)
    measured = {name: gate.measured for name, gate in pruned.gates.items()}
    return SearchTrial(amount.ratio, amount.target, measure(pruned.model).params, pruned.met, measured)


def _amount(channels: Channels | None) -> Amount:
    """The requested ratio or target."""
    if channels is None:
        return Amount()
    return Amount(ratio=channels.ratio) if channels.ratio is not None else Amount(target=channels.limits)
