"""Several pruned models of one original, which share its analysis, data, times, statistics and damage."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

from onnxprune.options import LATENCY, Channels, Options
from onnxprune.pipeline.analysis import reanalyze
from onnxprune.pipeline.attempt import attempt
from onnxprune.pipeline.group_trials import cut
from onnxprune.pipeline.original import Original
from onnxprune.pipeline.prepare import Prepared, prepare
from onnxprune.pipeline.progress import Clock
from onnxprune.pipeline.result import Result
from onnxprune.pipeline.run import judged
from onnxprune.pipeline.score import Damage, learn_damage


class Variants:
    """Makes pruned models by options that differ in the amount and the criterion alone."""

    def __init__(self, original: Original, wanted: Sequence[Options], clock: Clock, repair_samples: int) -> None:
        """Prepares what they share.

        Args:
            original: The model.
            wanted: The options of each; one at least.
            clock: Times the stages.
            repair_samples: Samples that a repair learns from at most.

        Raises:
            InputError: The model, the data or an option is unusable.
        """
        first = max(wanted, key=lambda options: (LATENCY in channels_of(options).limits, options.targets_macs))
        self._base = prepare(original, first, clock)
        data = self._base.loaded.data
        if data is not None:
            self._base = replace(self._base, repair_data=replace(data, fit=cut(data.fit, repair_samples)))
        self._damage: dict[Hashable, Damage | None] = {_scored_by(first): self._base.damage}

    @property
    def learns_from_all(self) -> bool:
        """Whether a repair learns from all samples that a single run would take."""
        data, part = self._base.loaded.data, self._base.repair_data
        return data is None or part is None or part.fit is data.fit

    def make(self, options: Options) -> Result:
        """One pruned model, verified and measured, as a run of its own makes it from as many samples.

        Raises:
            InputError: An option is unusable.
            VerificationError: The pruned model fails in onnxruntime where the original does not.
        """
        prepared = self._prepared(options)
        whole = prepared.analysis
        copy = replace(reanalyze(whole, whole.model.copy()), stored=whole.stored)
        return judged(prepared, attempt(prepared, prepared.options, copy), options)

    def _prepared(self, options: Options) -> Prepared:
        """What a run with these options begins with."""
        base = self._base
        settled = replace(options, repair=base.options.repair)
        timed = base.timed if LATENCY in channels_of(options).limits else None
        cost = replace(base.loaded.cost, times=None if timed is None else timed.times)
        prepared = replace(base, loaded=replace(base.loaded, options=settled, cost=cost), timed=timed)
        key = _scored_by(options)
        if key not in self._damage:
            with base.clock.stage("score"):
                self._damage[key] = learn_damage(
                    base.analysis,
                    base.groups,
                    base.loaded.data,
                    settled,
                    channels_of(settled),
                    cost,
                    base.synthetic_feeds,
                    base.moments,
                )
        return replace(prepared, damage=self._damage[key])


def channels_of(options: Options) -> Channels:
    """The channels that options remove."""
    assert options.channels is not None  # a sweep has no other options
    return options.channels


def _scored_by(options: Options) -> tuple[Any, bool]:
    """What the damage of removal depends on: the criterion, and whether its heights are measured at the outputs."""
    channels = channels_of(options)
    return channels.importance, bool(channels.limits or channels.global_ranking)
