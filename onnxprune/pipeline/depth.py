"""Depth: which blocks of a model go before its channels do, and the model that they leave.

A number of blocks is taken one by one, each time the one whose removal does least damage to the outputs. With a target
blocks compete with channels: those that do least damage for what they save are tried in that order, and as many are
taken as leave the least damage in sum once channels do the rest.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnxprune.allocation import selection
from onnxprune.cost.measure import measure
from onnxprune.cost.targets import measured as measured_cost
from onnxprune.cost.targets import totals
from onnxprune.coupling.blocks import Block, find_blocks
from onnxprune.coupling.groups import Group
from onnxprune.edit.bypass import Summand, bypass
from onnxprune.errors import InputError, option
from onnxprune.extensions import CostFactory, Limit
from onnxprune.graph.graph import Node
from onnxprune.model.model import Model
from onnxprune.model.sparse_initializers import densify
from onnxprune.options import AUTO, LATENCY, Channels, Options, Scope
from onnxprune.pipeline.analysis import Analysis, inline_functions, reanalyze
from onnxprune.pipeline.latency import ready_engine
from onnxprune.pipeline.original import Original
from onnxprune.pipeline.prepare import Prepared, open_groups, opened, scored
from onnxprune.pipeline.progress import Clock
from onnxprune.pipeline.score import allocate
from onnxprune.pipeline.trial_refit import can_tell, refitted_error
from onnxprune.progress import step
from onnxprune.runtime.io_slices import WHOLE
from onnxprune.verification.output_error import measured

logger = logging.getLogger(__name__)

SECONDS = 0.5
"""Seconds for which a model without a block is timed."""


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
        return {"sum": self.block.sum, "summand": self.block.summand, "nodes": nodes, "damage": damage}


def prepare(original: Original, options: Options, clock: Clock, analysis: Analysis | None = None) -> Prepared:
    """Prepares a model as `prepare.prepare` does, once its blocks are gone that the options ask for.

    Raises:
        InputError: The model, the data or an option is unusable, or the model has not so many blocks.
    """
    prepared = opened(original, options, clock, analysis)
    depth = 0 if options.channels is None else options.channels.depth
    if not depth:
        return scored(prepared)
    trials = _Trials(prepared)
    if depth == AUTO:
        return _weighed(scored(prepared), trials)
    with clock.stage("depth"):
        removals = least_damaging(_open_blocks(prepared), int(depth), trials.damage)
    return scored(_without(prepared, removals))


def least_damaging(blocks: Sequence[Block], count: int, damage: Callable[[Sequence[Block]], float]) -> list[Removal]:
    """As many blocks, each the one that adds least damage to that of those before it.

    What a block adds is measured again only where it may be the least: it rarely becomes less.

    Args:
        blocks: The blocks to choose from.
        count: How many are wanted.
        damage: Damage of the removal of some of them.

    Raises:
        InputError: There are not so many.
    """
    left, chosen, total = list(blocks), list[Removal](), 0.0
    adds: list[float] = []
    for number, block in enumerate(left):
        step(block.sum, number, len(left))
        adds.append(damage([block]))
    while len(chosen) < count:
        if not left:
            raise InputError(f"only {len(chosen)} blocks of the model may go", f"ask for fewer with {option('depth')}")
        least = adds.index(min(adds))
        if chosen:
            adds[least] = damage([*(removal.block for removal in chosen), left[least]]) - total
            if adds[least] > min(adds):
                continue
        taken = Removal(left[least], adds[least])
        chosen.append(taken)
        total += taken.damage
        stay = [i for i, block in enumerate(left) if not block.within(taken.block)]
        left, adds = [left[i] for i in stay], [adds[i] for i in stay]
    return chosen


def _open_blocks(prepared: Prepared) -> list[Block]:
    """The blocks that the options leave open.

    Raises:
        InputError: There are none.
    """
    found = [b for b in find_blocks(prepared.analysis.coupling.graph) if is_open(b, prepared.options.scope)]
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


class _Trials:
    """Models without some blocks, and what that does to the outputs."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared

    def model(self, blocks: Sequence[Block]) -> Model:
        """A copy of the model without some blocks."""
        copy = self._prepared.analysis.model.copy()
        bypass(copy, [Summand(block.sum, block.summand) for block in blocks])
        return copy

    def damage(self, blocks: Sequence[Block]) -> float:
        """Error of the outputs without some blocks: after a short refit where data tell, else as they are."""
        prepared, model = self._prepared, self.model(blocks)
        options, data, original = prepared.options, prepared.loaded.data, prepared.original.dense()
        if data is not None and can_tell(data, options):
            analysis = reanalyze(prepared.analysis, model)
            nothing = selection.nothing(analysis.coupling)
            return refitted_error(original, analysis, nothing, data, options, prepared.loaded.cost.macs or 0)
        feeds = prepared.synthetic_feeds() if data is None else data.fit.batches()
        return measured(original, [model], feeds, WHOLE, unsquash=True).shares()[0]


def _without(prepared: Prepared, removals: Sequence[Removal]) -> Prepared:
    """The same of the model without some blocks: nothing of it is scored yet."""
    model = prepared.original.load()
    inline_functions(model)
    bypass(model, [Summand(r.block.sum, r.block.summand) for r in removals])
    options = prepared.options
    cost = measure(model, options.checks.input_shapes, run=options.targets_macs)
    sparse = densify(model)
    analysis = reanalyze(prepared.analysis, model)
    loaded = replace(prepared.loaded, model=model, sparse=sparse, cost=cost, options=_absolute(prepared))
    return replace(
        prepared,
        loaded=loaded,
        analysis=analysis,
        groups=open_groups(analysis, options),
        damage=None,
        timed=None,
        blocks=[removal.entry for removal in removals],
        whole=prepared.loaded.cost,
    )


def _absolute(prepared: Prepared) -> Options:
    """The options with targets as amounts: shares are of the original, not of what its blocks leave."""
    options, channels = prepared.options, prepared.options.channels
    assert channels is not None  # the options see to that
    if not channels.target:
        return options
    shapes = options.checks.input_shapes
    whole = totals(channels.costs, prepared.analysis.coupling, prepared.loaded.cost, shapes)
    if LATENCY in whole and prepared.timed is None:
        whole[LATENCY] = ready_engine(prepared.analysis, shapes, channels.engine).engine.milliseconds()
    return replace(options, channels=selection.intermediate_target(channels, whole, 1.0))


def _weighed(prepared: Prepared, trials: _Trials) -> Prepared:
    """The model without the blocks that are worse than channels, or as it is where none are.

    Both are held against each other after a short refit: what was predicted of them is a sum of single effects.
    """
    with prepared.clock.stage("depth"):
        ranked = _ranked(prepared, trials)
        removals = _best_share(prepared, ranked)
    if not removals:
        return prepared
    shallow = scored(_without(prepared, [removal for removal, _ in removals]))
    with prepared.clock.stage("depth"):
        errors = [_error_at_target(one) for one in (prepared, shallow)]
    logger.info("depth: error %.3g with all blocks, %.3g without %d", *errors, len(removals))
    return shallow if errors[1] < errors[0] else prepared


Ranked = tuple[Removal, Mapping[str, float]]
"""A block, and what its removal saves of each cost."""


def _ranked(prepared: Prepared, trials: _Trials) -> list[Ranked]:
    """Blocks with their damage and what each saves, the least damage for what is saved first."""
    channels, whole = _channels(prepared), _totals(prepared)
    limits = {name: float(str(limit).removesuffix("ms")) for name, limit in _limits(prepared).items()}
    ranked, blocks = list[tuple[float, Ranked]](), _open_blocks(prepared)
    for number, block in enumerate(blocks):
        step(block.sum, number, len(blocks))
        left = _costs_left(prepared, channels, trials.model([block]))
        saved = {name: whole[name] - left[name] for name in limits}
        worth = sum(saved[name] / max(whole[name] - limit, 1e-9) for name, limit in limits.items())
        removal = Removal(block, trials.damage([block]))
        if worth > 0:
            ranked.append((removal.damage / worth, (removal, saved)))
    chosen: list[Ranked] = []
    for _, (removal, savings) in sorted(ranked, key=lambda one: one[0]):
        if not any(removal.block.within(other.block) or other.block.within(removal.block) for other, _ in chosen):
            chosen.append((removal, savings))
    return chosen


def _best_share(prepared: Prepared, ranked: Sequence[Ranked]) -> Sequence[Ranked]:
    """As many of the first blocks as leave the least predicted damage once channels do the rest."""
    best, least = ranked[:0], _predicted(prepared, ())
    for count in range(1, len(ranked) + 1):
        damage = _predicted(prepared, ranked[:count])
        logger.info("depth: damage %.3g predicted with %d blocks less", damage, count)
        if damage < least:
            best, least = ranked[:count], damage
    return best


def _predicted(prepared: Prepared, removals: Sequence[Ranked]) -> float:
    """Damage of some blocks and of the channels that must go beside them; infinite where that misses the target.

    What the blocks save is added to what may be left, and channels inside of them stay: they are gone already.
    """
    channels, limits = _channels(prepared), _limits(prepared)
    target: dict[str | CostFactory, Limit] = {}
    for key, cost in zip(channels.target, channels.costs, strict=True):
        more = float(str(limits[cost.name]).removesuffix("ms")) + sum(saved[cost.name] for _, saved in removals)
        target[key] = f"{more:.9g}ms" if cost.name == LATENCY else more
    gone = {node for removal, _ in removals for node in removal.block.nodes}
    whole = {i: 1.0 for i, group in enumerate(prepared.groups) if _is_inside(group, gone)}
    assert prepared.damage is not None
    found = selection.by_budget(
        prepared.analysis.coupling,
        prepared.groups,
        prepared.damage.curves,
        replace(channels, target=target),
        prepared.loaded.cost,
        prepared.options.checks.input_shapes,
        whole,
    )
    if not all(target["met"] for target in found.targets.values()):
        return math.inf
    return sum(float(e.get("damage", 0.0)) for e in found.entries) + sum(r.damage for r, _ in removals)


def _is_inside(group: Group, nodes: Collection[Node]) -> bool:
    """Whether all that a group slices is read by some nodes alone."""
    return all(node in nodes for s in group.slices for node, _ in s.value.consumers)


def _error_at_target(prepared: Prepared) -> float:
    """Error of the outputs at the target, as predicted, after a short refit."""
    assert prepared.damage is not None and prepared.loaded.data is not None
    cost, shapes = prepared.loaded.cost, prepared.options.checks.input_shapes
    selected = allocate(prepared.analysis, prepared.groups, prepared.damage, _channels(prepared), cost, shapes)
    macs = cost.macs or 0
    original = prepared.original.dense()
    return refitted_error(original, prepared.analysis, selected, prepared.loaded.data, prepared.options, macs)


def _channels(prepared: Prepared) -> Channels:
    assert prepared.options.channels is not None  # the options see to that
    return prepared.options.channels


def _totals(prepared: Prepared) -> dict[str, float]:
    """The costs that the target limits, before anything is removed."""
    costs, shapes = _channels(prepared).costs, prepared.options.checks.input_shapes
    found = totals(costs, prepared.analysis.coupling, prepared.loaded.cost, shapes)
    return {name: float(total or 0) for name, total in found.items()}


def _limits(prepared: Prepared) -> dict[str, Limit]:
    """What may be left of each cost, as an amount."""
    channels = _absolute(prepared).channels
    assert channels is not None
    return channels.limits


def _costs_left(prepared: Prepared, channels: Channels, model: Model) -> dict[str, float]:
    """What is left of the costs that the target limits in a model without some blocks."""
    shapes = prepared.options.checks.input_shapes
    counted = measure(model, shapes, run=prepared.options.targets_macs)
    found = {}
    for cost in channels.costs:
        if cost.name == LATENCY:
            assert prepared.timed is not None and prepared.timed.engine is not None  # no times come from elsewhere
            ratio = prepared.timed.engine.ratio(model, WHOLE, SECONDS)
            found[cost.name] = ratio * prepared.timed.times.milliseconds
        else:
            found[cost.name] = float(measured_cost(cost, model, counted, shapes) or 0)
    return found
