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
from onnxprune.report.build import gate_lines
from onnxprune.report.report import Amount, SearchReport, SearchTrial

logger = logging.getLogger(__name__)


def search(prepared: Prepared) -> tuple[Pruned, SearchReport]:
    """Returns the smallest model within the gates, and a record of every trial.

    With a limit on the drop of a metric, trials are chosen with one part of the held-out samples, and the model that is
    returned is confirmed on the other: the best of several on the same samples is better there than anywhere else.
    """
    trials = _Trials(prepared)
    found = furthest_good(trials.make, lambda pruned: pruned.met, trials.same)
    if found.confirmation is not None and found.met:
        found = _confirmed(trials, found)
    if not found.plan.changes_model and len(trials.records) > 1:
        found = replace(found, whole_because=trials.why_none())
    prepared.clock.prefix = ""
    return found, SearchReport(trials.records, _amount(found.options.channels))


class _Trials:
    """Makes pruned models for shares of the way to the furthest amount, and records them."""

    def __init__(self, prepared: Prepared) -> None:
        channels = prepared.options.channels
        assert channels is not None  # the options see to that
        self._prepared, self._furthest = prepared, channels
        shapes = prepared.options.checks.input_shapes
        self._whole = totals(channels.costs, prepared.analysis.coupling, prepared.loaded.cost, shapes)
        self.records: list[SearchTrial] = []
        self.verdicts: dict[float, tuple[bool, bool]] = {}
        """Share -> whether the model met the gates, and whether it meets the limit on the confirmation samples."""
        self._missed: dict[float, list[str]] = {}

    def channels(self, share: float) -> Channels:
        """The amount for a share."""
        return selection.intermediate_target(self._furthest, self._whole, share)

    def same(self, one: float, other: float) -> bool:
        """Whether two shares select the same channels."""
        first, second = (select(self._prepared, self.channels(share)).removed for share in (one, other))
        return np.array_equal(first, second)

    def make(self, share: float) -> Pruned:
        """Makes the model of a share."""
        prepared = self._prepared
        prepared.clock.prefix = f"search, model {len(self.records) + 1}: "
        copy = reanalyze(prepared.analysis, prepared.analysis.model.copy())
        with prepared.clock.trial(len(self.records), MAX_RUNS, work_of_attempt(prepared.options)):
            pruned = attempt(prepared, replace(prepared.options, channels=self.channels(share)), copy)
        self.records.append(_trial(pruned))
        self.verdicts[share] = pruned.met, self.holds(pruned)
        missed = gate_lines(pruned.gates) or gate_lines(self._prepared.loaded.evaluator.gates(pruned.confirmation))
        self._missed[share] = missed
        logger.info("search: %s", self.records[-1])
        return pruned

    def holds(self, pruned: Pruned) -> bool:
        """Whether a model is within the limit on the confirmation samples."""
        return all(gate.met for gate in self._prepared.loaded.evaluator.gates(pruned.confirmation).values())

    def why_none(self) -> list[str]:
        """Why nothing is removed: what the largest of the smaller models missed."""
        missed = next((self._missed[share] for share in sorted(self._missed) if self._missed[share]), [])
        return [f"no smaller model that was tried is within the gates; of the largest, {line}" for line in missed]

    def confirmed(self, pruned: Pruned) -> Pruned:
        """The model with its results on the confirmation samples."""
        gates = self._prepared.loaded.evaluator.gates(pruned.confirmation)
        return replace(pruned, metric=pruned.confirmation, gates={**pruned.gates, **gates})


FALLBACKS = (0.25, 0.5, 0.75)
"""Shares of the least amount that met the gates: they are tried where the chosen model fails the confirmation."""


def _confirmed(trials: _Trials, found: Pruned) -> Pruned:
    """The chosen model, if it holds on the confirmation samples; else a larger one that does.

    Of the larger ones, the largest model comes first, and the last that holds before one does not is taken: tests in an
    order that does not depend on the samples need no correction for their number (Angelopoulos et al., "Learn then
    test", 2021).
    """
    if trials.holds(found):
        return trials.confirmed(found)
    *met, chosen = sorted(share for share, (met, _) in trials.verdicts.items() if met)
    least = met[0] if met else chosen
    best, last = 0.0, found
    for share in [*(least * part for part in FALLBACKS), *met]:
        if share not in trials.verdicts:
            last = trials.make(share)
        if trials.verdicts[share] != (True, True):
            break
        best = share
    if last.options.channels != trials.channels(best):
        last = trials.make(best)
    return trials.confirmed(last)


def _trial(pruned: Pruned) -> SearchTrial:
    amount = _amount(pruned.options.channels)
    measured = {name: gate.measured for name, gate in pruned.gates.items()}
    return SearchTrial(amount.ratio, amount.target, measure(pruned.model).params, pruned.met, measured)


def _amount(channels: Channels | None) -> Amount:
    """The requested ratio or target."""
    if channels is None:
        return Amount()
    return Amount(ratio=channels.ratio) if channels.ratio is not None else Amount(target=channels.limits)
