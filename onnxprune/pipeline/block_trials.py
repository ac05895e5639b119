"""Trials of blocks: models without some of them, and what that does to the outputs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnxprune.allocation import selection
from onnxprune.common.checkpoint import step_of_run
from onnxprune.cost.measure import measure
from onnxprune.cost.targets import totals
from onnxprune.coupling.blocks import Block, find_blocks
from onnxprune.edit.bypass import Summand, bypass
from onnxprune.engines.profiles import timed_here
from onnxprune.errors import InputError, option
from onnxprune.model.model import Model
from onnxprune.model.sparse_initializers import densify
from onnxprune.options import LATENCY, Options, Scope
from onnxprune.pipeline.analysis import Analysis, inline_functions, prunable, reanalyze, shares_by_group
from onnxprune.pipeline.data import CalibrationSplit, _Synthetic
from onnxprune.pipeline.latency import ready_engine
from onnxprune.pipeline.observe import fresh_samples
from onnxprune.pipeline.prepare import Prepared, open_groups
from onnxprune.pipeline.time_target import CHECKED
from onnxprune.pipeline.trial_refit import refitted_error
from onnxprune.runtime.io_slices import IoSlices
from onnxprune.timing.engines import Engine
from onnxprune.verification.output_error import measured


@dataclass(frozen=True)
class Removal:
    """A block that goes.

    Attributes:
        block: The block.
        damage: Squared error of the outputs that it adds, as a share of their variance.
    """

    block: Block
    damage: float

    @property
    def entry(self) -> dict[str, Any]:
        """The entry of a plan."""
        nodes = [node.label for node in self.block.nodes]
        damage = float(f"{self.damage:.6g}")
        ends = list(self.block.ends)
        return {"sum": self.block.sum, "summand": self.block.summand, "nodes": nodes, "ends": ends, "damage": damage}


def open_blocks(prepared: Prepared) -> list[Block]:
    """The blocks that the options leave open.

    Raises:
        InputError: There are none.
    """
    coupling = prepared.analysis.coupling
    found = [b for b in find_blocks(coupling.graph, coupling.shrinking) if is_open(b, prepared.options.scope)]
    if not found:
        raise InputError(
            "no block of the model may go: no residual branch can be left out as a whole",
            f"leave {option('depth')} away",
        )
    return found


def is_open(block: Block, scope: Scope) -> bool:
    """Whether a block may go: none of its names is to be left whole, and one is to be pruned where only some are."""
    names = {name for node in block.nodes for name in (node.proto.name, *node.proto.input, *node.proto.output) if name}

    def hit(patterns: Sequence[str]) -> bool:
        return any(re.search(pattern, name) for pattern in patterns for name in names)

    return not hit(scope.ignore) and (not scope.only or hit(scope.only))


class BlockTrials:
    """Models without some blocks, and what that does to the outputs."""

    def __init__(self, prepared: Prepared, runs: int) -> None:
        """Chooses the samples: few enough to run the model on them `runs` times."""
        self._prepared = prepared
        data = prepared.loaded.data
        if data is None:
            samples = _Synthetic(prepared.synthetic_feeds())
            data = CalibrationSplit(samples, samples)
        shapes = prepared.options.checks.input_shapes
        self._batches = fresh_samples(prepared.analysis.model, data, runs=runs, input_shapes=shapes)

    def model(self, blocks: Sequence[Block]) -> Model:
        """A copy of the model without some blocks."""
        copy = self._prepared.analysis.model.copy()
        _leave_out(copy, blocks)
        return copy

    def damage(self, blocks: Sequence[Block]) -> float:
        """Squared error of the outputs without some blocks, with nothing repaired, as a share of their variance."""
        return step_of_run("damage of blocks", lambda: self._damage(blocks))

    def _damage(self, blocks: Sequence[Block]) -> float:
        prepared, model = self._prepared, self.model(blocks)
        lost = lost_with(blocks)
        return measured(prepared.original.dense(), [model], self._batches, lost, unsquash=True).shares()[0]

    def repaired_share(self, removal: Removal) -> float:
        """The share of the damage of a block that is left after a short refit."""
        prepared = self._prepared
        analysis = reanalyze(prepared.analysis, self.model([removal.block]))
        error = refitted_error(prepared, analysis, selection.nothing(analysis.coupling), [removal.entry])
        return min(error / max(removal.damage, 1e-12), 1.0)


def lost_with(blocks: Sequence[Block]) -> IoSlices:
    """The graph inputs and outputs that a model without some blocks lacks."""
    return IoSlices(gone=frozenset(name for block in blocks for name in block.ends))


def _leave_out(model: Model, blocks: Sequence[Block]) -> None:
    bypass(model, [Summand(block.sum, block.summand) for block in blocks], lost_with(blocks).gone)


def without_blocks(prepared: Prepared, removals: Sequence[Removal]) -> Prepared:
    """The same of the model without some blocks: nothing of it is scored yet."""
    model = prepared.original.load()
    inline_functions(model)
    _leave_out(model, [removal.block for removal in removals])
    lost = lost_with([removal.block for removal in removals])
    shapes, whole = lost.shapes(prepared.options.checks.input_shapes), _time_of_whole(prepared)
    milliseconds = None if whole is None else whole.engine.ratio(model, lost, CHECKED) * whole.milliseconds
    cost = measure(model, shapes, run=prepared.options.targets_macs)
    sparse = densify(model)
    analysis = reanalyze(prepared.analysis, model)
    options = still_matching(with_absolute_targets(prepared, whole), analysis)
    loaded = replace(prepared.loaded, model=model, sparse=sparse, cost=cost, options=options)
    return replace(
        prepared,
        loaded=loaded,
        analysis=analysis,
        groups=open_groups(analysis, options) if options.scope.only or not prepared.options.scope.only else [],
        damage=None,
        timed=None,
        blocks=[removal.entry for removal in removals],
        whole=prepared.loaded.cost,
        milliseconds=milliseconds,
    )


@dataclass(frozen=True)
class TimeOfWhole:
    """What the model with all blocks takes, and what measured it."""

    engine: Engine
    milliseconds: float


def _time_of_whole(prepared: Prepared) -> TimeOfWhole | None:
    """The time that a target of latency refers to; None where there is no such target or nothing here measures it."""
    channels, timed = prepared.options.channels, prepared.timed
    if channels is None or LATENCY not in channels.limits:
        return None
    if timed is not None:
        return None if timed.engine is None else TimeOfWhole(timed.engine, timed.times.milliseconds)
    shapes = prepared.options.checks.input_shapes
    engine = ready_engine(prepared.analysis, shapes, timed_here(channels.engine)).engine
    return TimeOfWhole(engine, engine.milliseconds())


def still_matching(options: Options, analysis: Analysis) -> Options:
    """The options without the expressions that matched names of blocks alone, which are gone."""
    channels, scope = options.channels, options.scope
    assert channels is not None  # the options see to that

    def stays(pattern: str, scope: Scope, keep: Mapping[str, float]) -> bool:
        try:
            shares_by_group(analysis, prunable(analysis, scope), keep)
        except InputError:
            return False
        return True

    only = [p for p in scope.only if stays(p, replace(scope, only=[p], ignore=[]), {})]
    ignore = [p for p in scope.ignore if stays(p, replace(scope, only=[], ignore=[p]), {})]
    scope = replace(scope, only=only, ignore=ignore)
    keep = {p: share for p, share in channels.keep.items() if stays(p, scope, {p: share})}
    return replace(options, scope=scope, channels=replace(channels, keep=keep))


def with_absolute_targets(prepared: Prepared, time: TimeOfWhole | None = None) -> Options:
    """The options with targets as amounts: shares are of the original, not of what its blocks leave.

    Args:
        prepared: The run.
        time: What the original takes, where that is not known to the run.
    """
    options, channels = prepared.options, prepared.options.channels
    assert channels is not None  # the options see to that
    if not channels.target:
        return options
    shapes = options.checks.input_shapes
    whole = totals(channels.costs, prepared.analysis.coupling, prepared.loaded.cost, shapes)
    if time is not None:
        whole[LATENCY] = time.milliseconds
    return replace(options, channels=selection.intermediate_target(channels, whole, 1.0))
