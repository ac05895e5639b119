"""One run: from a model to a smaller one, stage by stage."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.allocation import selection
from onnxprune.allocation.bisection import RUNS, smallest
from onnxprune.allocation.selection import Selection
from onnxprune.calibration.synthetic import Feeds
from onnxprune.cost.measure import Cost, measure
from onnxprune.edit.permute import lift
from onnxprune.edit.remove import remove
from onnxprune.model.model import Model, load
from onnxprune.model.sparse_initializers import densify, resparsify
from onnxprune.options import Options
from onnxprune.patterns import Pattern
from onnxprune.pipeline import rounds
from onnxprune.pipeline.analysis import (
    Analysis,
    Source,
    analyze_loaded,
    load_dense,
    prunable,
    reanalyze,
    to_proto_or_path,
)
from onnxprune.pipeline.data import SyntheticFeeds, open_data
from onnxprune.pipeline.evaluate import judge
from onnxprune.pipeline.permute import permute, record
from onnxprune.pipeline.progress import Clock
from onnxprune.pipeline.repair import kept_features, repair
from onnxprune.pipeline.result import Result
from onnxprune.pipeline.score import learn_damage, select
from onnxprune.pipeline.settle import resolve_repair
from onnxprune.pipeline.store_sparse import store
from onnxprune.pipeline.zero import zero
from onnxprune.planning import plan as planning
from onnxprune.planning.masks import zeros
from onnxprune.planning.plan import Plan
from onnxprune.repair.data_free import inputs
from onnxprune.report.build import build, clean
from onnxprune.runtime.io_slices import WHOLE, IoSlices
from onnxprune.runtime.process import warm_up
from onnxprune.verification import gates
from onnxprune.verification.check import Verification, check

logger = logging.getLogger(__name__)


@dataclass
class _Trial:
    """A pruned model that may be the result.

    Attributes:
        options: What it was made with.
        analysis: Of the original; its model is the one that is pruned.
        selected: Which channels go.
        plan: What goes.
        model: What is left; weights are dense until it is done.
        io_slices: What inputs and outputs lost.
        kept: Which output features of the original's layers stay, where they are refitted.
        original: Loads what the layers are refitted to.
        notes: What the report says besides.
        verified: What the verification found, once it was asked.
    """

    options: Options
    analysis: Analysis
    selected: Selection
    plan: Plan
    model: Model
    io_slices: IoSlices
    kept: Mapping[str, NDArray[np.int64]]
    original: Callable[[], Model]
    notes: dict[str, Any]
    verified: Verification | None = None

    @property
    def met(self) -> bool:
        return all(gate["met"] for gate in self.notes["gates"].values())

    @property
    def changed(self) -> bool:
        return bool(self.plan.removed or self.plan.permuted or self.plan.zeroed)

    @property
    def cost(self) -> Cost | None:
        """What it costs; None where that is as much as before: zeros change nothing."""
        if not (self.plan.removed or self.plan.permuted or self.options.sparse_storage or self.notes.get("repair")):
            return None
        shapes = self.io_slices.shapes(self.options.input_shapes)
        return measure(self.model, shapes, run="macs" in self.options.target)


class Run:
    """One run: what is learned once, and the models that are made of it (several where the drift is searched)."""

    def __init__(self, model: Source, options: Options, clock: Clock) -> None:
        """Loads and analyses a model, and learns what the removal of its units costs.

        Raises:
            InputError: The model, the data or an option is unusable.
        """
        self.clock, self.given = clock, to_proto_or_path(model)
        self.as_graph = self.given is not model
        with clock.stage("load"):
            if options.verify or options.calib is not None:
                warm_up()
            source = load(self.given)
            self.before = measure(source, options.input_shapes, run="macs" in options.target)
            self.kept_sparse = densify(source)
            self.options, self.unrepaired = resolve_repair(source, options)
            self.data = open_data(source, self.options, clock.progress)
            self.gates = gates.opened(source.proto, options.gate, data=self.data is not None)
            self.synthetic_feeds: SyntheticFeeds = cache(self._made_up)
        with clock.stage("analyze"):
            self.analysis = analyze_loaded(
                source, mixing=options.mixing, attention=options.attention, shrink=options.shrink
            )
            self.chosen = prunable(self.analysis, options)
        logger.info("%d groups, %d of them open to pruning", len(self.analysis.groups), len(self.chosen))
        with clock.stage("score"):
            self.curves, self.scores = learn_damage(
                self.analysis, self.chosen, self.data, self.options, self.before, self.synthetic_feeds
            )

    def result(self) -> Result:
        """The model that the options ask for; asked once, since it is made of the one that was analysed.

        Raises:
            VerificationError: It fails in onnxruntime where the original does not.
        """
        searched: list[dict[str, Any]] = []
        trial = self._search(searched) if self.options.drift_search else self._attempt(self.options, self.analysis)
        before, after = self.before, trial.cost or self.before
        verified = trial.verified or self._verify(trial)
        if verified.verified and None in (before.macs, after.macs):
            before = measure(load(self.given), self.options.input_shapes, run=True)
            after = measure(trial.model, trial.io_slices.shapes(self.options.input_shapes), run=True)
        trial.notes["targets"] = _measured(trial.selected.targets, after)
        if self.options.drift_search:
            trial.notes["search"] = {"trials": searched, "found": _amount(trial.options)}
        report = build(self.analysis.coupling, trial.plan, before, after, verified, self.clock.seconds, self.options)
        return Result(
            trial.model,
            trial.plan,
            clean(report | trial.notes),
            as_graph=self.as_graph,
            keep_anyway=self.options.keep_anyway,
        )

    def _made_up(self) -> list[Feeds]:
        return inputs(load_dense(self.given), self.options.seed, self.options.input_shapes or None)

    def _take(self, options: Options) -> Selection:
        if not options.channels:
            return selection.nothing(self.analysis.coupling)
        return select(self.analysis, self.chosen, self.curves, self.scores, options, self.before)

    def _search(self, searched: list[dict[str, Any]]) -> _Trial:
        """The smallest model within the gates; `searched` gets a line on each that was made."""

        def options(share: float) -> Options:
            return selection.intermediate_target(self.options, self.before, share)

        def attempt(share: float) -> _Trial:
            self.clock.prefix = f"search, model {len(searched) + 1} of at most {RUNS}: "
            trial = self._attempt(options(share), reanalyze(self.analysis, self.analysis.model.copy()))
            searched.append(
                {
                    **_amount(trial.options),
                    "params": measure(trial.model).params,
                    "met": trial.met,
                    "gates": {name: gate["measured"] for name, gate in trial.notes["gates"].items()},
                }
            )
            logger.info("search: %s", searched[-1])
            return trial

        def same(one: float, other: float) -> bool:
            return np.array_equal(self._take(options(one)).gone, self._take(options(other)).gone)

        found = smallest(attempt, lambda trial: trial.met, same)
        self.clock.prefix = ""
        return found

    def _attempt(self, options: Options, analysis: Analysis) -> _Trial:
        """Prunes a model that was analysed (it is changed), repairs it and holds it to the gates."""
        clock = self.clock
        with clock.stage("plan"):
            selected = self._take(options)
            made = planning.make(analysis.coupling, selected.gone, selected.entries)
            kept = kept_features(analysis.coupling, selected.gone) if options.repair != "none" else {}
        with clock.stage("apply"):
            remove(analysis.model, analysis.coupling, selected.gone)
            left = analysis.model if made.removed or options.zeros else load(self.given)
        trial = _Trial(
            options,
            analysis,
            selected,
            made,
            left,
            planning.io_slices(made),
            kept,
            partial(load_dense, self.given),
            {"targets": selected.targets, "unrepaired_because": self.unrepaired},
        )
        if made.removed and options.repair != "none":
            with clock.stage("repair"):
                trial.notes["repair"] = repair(
                    load_dense(self.given), left, kept, self.data, options, trial.io_slices, self.synthetic_feeds
                )
        if options.permute:
            with clock.stage("permute"):
                self._permute(trial)
        if options.zeros is not None:
            with clock.stage("zero"):
                self._zero(trial, options.zeros)
        if trial.changed and self.data is not None:
            with clock.stage("judge"):
                trial.notes["calibration"] = judge(load(self.given), trial.model, self.data, trial.io_slices)
        resparsify(trial.model, self.kept_sparse)
        if options.sparse_storage:
            with clock.stage("store"):
                trial.notes["storage"] = store(trial.model, options).as_report()
        trial.notes["gates"] = self._gates(trial)
        return trial

    def _permute(self, trial: _Trial) -> None:
        """Reorders what is left for a pattern N:M."""
        whole, options = trial.analysis, trial.options
        rest = reanalyze(whole, trial.model) if trial.plan.removed else whole
        origin = rounds.channel_correspondence(whole.coupling, trial.selected.gone, rest.coupling)
        moved = permute(rest.model, rest.coupling, origin, options)
        record(trial.plan, moved.entries)
        trial.notes["permuted"] = moved.told()
        if moved.moves and options.repair != "none":  # layers are refitted to what the original made in their order
            lifted = reanalyze(whole, load_dense(self.given))
            lift(lifted.model, lifted.coupling, origin, moved.moves)
            trial.original = lifted.model.copy

    def _zero(self, trial: _Trial, pattern: Pattern) -> None:
        """Sets weights of what is left to zero in a pattern."""
        made, options, notes = trial.plan, trial.options, trial.notes
        rest = analyze_loaded(trial.model) if made.removed or options.permute else trial.analysis
        zeroed = zero(
            trial.original,
            rest.model,
            rest.coupling,
            trial.kept,
            self.data,
            options,
            trial.io_slices,
            self.synthetic_feeds,
            first=not made.removed,
        )
        made.zeroed = {name: zeros(mask, pattern) for name, mask in zeroed.masks.items()}
        notes["dense"] = zeroed.dense
        if zeroed.repair:
            notes["repair"] = [*(notes.get("repair") or []), *zeroed.repair]
        if not trial.changed:
            notes["whole_because"] = sorted(set(zeroed.dense.values())) or ["no weight is left open to zeros"]

    def _gates(self, trial: _Trial) -> dict[str, dict[str, Any]]:
        """What each gate says, and what it was measured on."""
        if not self.gates:
            return {}
        if self.data is None:
            trial.verified = self._verify(trial)
            found, on = gates.on_made_up(trial.verified.drift), "made-up inputs"
        else:
            with self.clock.stage("judge"):
                found = gates.on_data(self.gates, load(self.given), trial.model, self.data.held, trial.io_slices)
            on = "calibration samples" + (" held back" if self.data.held_out else "")
        return {gate.name: {**gate.verdict(found), "on": on} for gate in self.gates}

    def _verify(self, trial: _Trial) -> Verification:
        with self.clock.stage("verify"):
            return verify(self.given, trial.model, self.options, io_slices=trial.io_slices)


def _measured(targets: Mapping[str, dict[str, Any]], after: Cost) -> dict[str, dict[str, Any]]:
    """The targets with what was counted in the result, in place of what was predicted."""
    left = {"params": after.params, "macs": after.macs, "bytes": after.bytes}
    return {
        name: target | {"left": left[name], "met": left[name] is not None and left[name] <= target["asked"]}
        for name, target in targets.items()
    }


def _amount(options: Options) -> dict[str, Any]:
    """What options say about how much."""
    return {"ratio": options.ratio} if options.ratio is not None else {"target": dict(options.target)}


def verify(
    original: Source,
    result: Model | Result | onnx.ModelProto | str | os.PathLike[str],
    options: Options | None = None,
    *,
    feeds: Mapping[str, NDArray[Any]] | None = None,
    io_slices: IoSlices | None = None,
) -> Verification:
    """Checks a pruned model against its original in onnxruntime, see `verification.check`.

    What inputs and outputs lost (`io_slices`) is known of a `Result`.
    """
    if options is not None and not options.verify:
        return Verification(verified=False, reason="the runtime check was skipped")
    asked = replace(options) if options is not None else None
    target = result._model if isinstance(result, Result) else result
    if io_slices is None and isinstance(result, Result):
        io_slices = planning.io_slices(result.plan)
    return check(
        to_proto_or_path(original),
        target,
        feeds,
        input_shapes=asked.input_shapes if asked else None,
        seed=asked.seed if asked else 0,
        io_slices=io_slices or WHOLE,
    )
