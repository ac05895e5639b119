"""Several pruned models of one original, which share its analysis, data, times, statistics and damage."""

from __future__ import annotations

import time as clocks
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from onnxprune.calibration.sent import received, sent
from onnxprune.common.progress import ProgressCallback, inner
from onnxprune.engines.times import Times
from onnxprune.errors import InputError, OnnxPruneError, VerificationError
from onnxprune.options import LATENCY, Channels, Options
from onnxprune.pipeline.analysis import reanalyze
from onnxprune.pipeline.attempt import attempt
from onnxprune.pipeline.group_trials import cut
from onnxprune.pipeline.latency import Timed, ready_engine
from onnxprune.pipeline.original import Original
from onnxprune.pipeline.prepare import Prepared, opened, prepare
from onnxprune.pipeline.progress import Clock, work_after, work_of_attempt
from onnxprune.pipeline.result import Result
from onnxprune.pipeline.run import judged
from onnxprune.pipeline.score import Damage, learn_damage
from onnxprune.pipeline.sent import with_data
from onnxprune.statistics.moments import REPAIR_ROWS


@dataclass(frozen=True)
class Made:
    """What became of a variant.

    Attributes:
        result: The pruned model; None where there is none.
        failed: Why there is none.
        seconds: Time that it took.
        learned_from_all: Whether its repair learned from all samples that a single run would take.
    """

    result: Result | None = None
    failed: str | None = None
    seconds: float = 0.0
    learned_from_all: bool = True


@dataclass(frozen=True)
class Learned:
    """What takes long to learn of the original, and is sent to other processes.

    Attributes:
        damage: What removal costs, or why that is not known, by what it depends on.
        times: Times at many widths; None where no target needs them.
        timed_here: Whether pruned models are timed as well.
    """

    damage: Mapping[Hashable, Damage | OnnxPruneError | None]
    times: Times | None
    timed_here: bool


class Variants:
    """Makes pruned models by options that differ in the amount and the criterion alone.

    It can be sent to another process, and then makes the same models there.
    """

    def __init__(
        self,
        original: Original,
        wanted: Mapping[str, Options],
        clock: Clock,
        repair_samples: int,
        learned: Learned | None = None,
    ) -> None:
        """Prepares what they share.

        Args:
            original: The model.
            wanted: The options of each by its name; one at least.
            clock: Times the stages.
            repair_samples: Samples that a repair learns from at most.
            learned: What another process has learned.

        Raises:
            InputError: The model, the data or an option is unusable.
        """
        self._wanted, self._repair_samples = dict(wanted), repair_samples
        first = max(wanted.values(), key=lambda options: (LATENCY in channels_of(options).limits, options.targets_macs))
        self._base = prepare(original, first, clock) if learned is None else prepared_by(learned, original, first)
        data = self._base.loaded.data
        if data is not None:
            fit = cut(data.fit, repair_samples)
            rows = REPAIR_ROWS.share((fit.count or 1) / (data.fit.count or 1))
            self._base = replace(self._base, repair_data=replace(data, fit=fit), repair_rows=rows)
        self._damage: dict[Hashable, Damage | OnnxPruneError | None] = {}
        self._damage |= {_scored_by(first): self._base.damage} if learned is None else learned.damage

    def __reduce__(self) -> tuple[Any, ...]:
        timed = self._base.timed
        learned = Learned(
            self._damage, None if timed is None else timed.times, timed is not None and timed.engine is not None
        )
        data = sent(next(iter(self._wanted.values())).calibration.data)
        return _received, (self._base.original, self._wanted, data, self._repair_samples, learned)

    def learn(self, names: Iterable[str]) -> None:
        """Learns what some variants need to know, before any is made."""
        for name in names:
            self._learn(self._wanted[name])

    def __call__(self, name: str) -> Made:
        """Makes a variant, or says why there is none."""
        start, options = clocks.perf_counter(), self._wanted[name]
        try:
            result, failed = self._make(options, inner()), None
        except (InputError, VerificationError) as error:
            result, failed = None, error.message
        data, part = self._base.loaded.data, self._base.repair_data
        whole = data is None or part is None or part.fit is data.fit
        return Made(result, failed, clocks.perf_counter() - start, whole)

    def _make(self, options: Options, progress: ProgressCallback) -> Result:
        """One pruned model, verified and measured, as a run of its own makes it from as many samples.

        Raises:
            InputError: An option is unusable.
            VerificationError: The pruned model fails in onnxruntime where the original does not.
        """
        clock = Clock(progress)
        clock.expect({**work_of_attempt(options), **work_after(options)})
        prepared = replace(self._prepared(options), clock=clock)
        whole = prepared.analysis
        copy = replace(reanalyze(whole, whole.model.copy()), stored=whole.stored)
        return judged(prepared, attempt(prepared, prepared.options, copy), options)

    def _prepared(self, options: Options) -> Prepared:
        """What a run with these options begins with."""
        base = self._base
        settled = replace(options, repair=base.options.repair)
        timed = base.timed if LATENCY in channels_of(options).limits else None
        cost = replace(base.loaded.cost, times=None if timed is None else timed.times)
        self._learn(options)
        damage = self._damage[_scored_by(options)]
        if isinstance(damage, OnnxPruneError):
            raise damage
        loaded = replace(base.loaded, options=settled, cost=cost)
        return replace(base, loaded=loaded, timed=timed, damage=damage)

    def _learn(self, options: Options) -> None:
        """Estimates the damage of removal by the criterion of a variant, where that is not done."""
        key, base = _scored_by(options), self._base
        if key in self._damage:
            return
        settled = replace(options, repair=base.options.repair)
        with base.clock.stage("score"):
            try:
                self._damage[key] = learn_damage(
                    base.analysis,
                    base.groups,
                    base.loaded.data,
                    settled,
                    channels_of(settled),
                    replace(base.loaded.cost, times=None if base.timed is None else base.timed.times),
                    base.synthetic_feeds,
                    base.moments,
                )
            except InputError as error:
                self._damage[key] = error


def prepared_by(learned: Learned, original: Original, options: Options) -> Prepared:
    """What `prepare` makes, with what another process has learned."""
    prepared = opened(original, options, Clock())
    if learned.times is None:
        return prepared
    channels, shapes = channels_of(options), options.checks.input_shapes
    engine = ready_engine(prepared.analysis, shapes, channels.engine).engine if learned.timed_here else None
    return replace(prepared, timed=Timed(learned.times, engine))


def _received(
    original: Original, wanted: Mapping[str, Options], data: Any, repair_samples: int, learned: Learned
) -> Variants:
    data = received(data)
    options = {name: with_data(asked, data) for name, asked in wanted.items()}
    return Variants(original, options, Clock(), repair_samples, learned)


def channels_of(options: Options) -> Channels:
    """The channels that options remove."""
    assert options.channels is not None  # a sweep has no other options
    return options.channels


def _scored_by(options: Options) -> tuple[Any, bool]:
    """What the damage of removal depends on: the criterion, and whether its heights are measured at the outputs."""
    channels = channels_of(options)
    return channels.importance, channels.compares_groups
