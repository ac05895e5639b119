"""Depth for a target: as many blocks go as leave the least damage once channels do the rest."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from onnxprune.allocation import selection
from onnxprune.allocation.selection import Selection
from onnxprune.common.progress import step
from onnxprune.cost.measure import measure
from onnxprune.cost.targets import measured as measured_cost
from onnxprune.cost.targets import totals
from onnxprune.coupling.blocks import Block
from onnxprune.coupling.caches import of_one_shape
from onnxprune.coupling.groups import Group
from onnxprune.errors import InputError, option
from onnxprune.extensions.points import CostFactory, Limit
from onnxprune.graph.graph import Node
from onnxprune.options import LATENCY, Channels
from onnxprune.pipeline.analysis import shares_by_group
from onnxprune.pipeline.block_trials import BlockTrials, Removal, lost_with, with_absolute_targets, without_blocks
from onnxprune.pipeline.prepare import Prepared, scored
from onnxprune.pipeline.score import allocate
from onnxprune.pipeline.time_target import by_times_alone, predicted_latency
from onnxprune.pipeline.trial_refit import FEWEST, can_tell, refitted_error

logger = logging.getLogger(__name__)

NOTHING_MISSED = (0.0, 0.0)
SECONDS = 0.5
"""Seconds for which a model without a block is timed."""


def weighed(prepared: Prepared, blocks: Sequence[Block], trials: BlockTrials) -> Prepared:
    """The model without the blocks that are worse than channels, or as it is where none are.

    Both are held against each other after a repair: what was predicted of them is a sum of single effects. Where the
    model with all blocks is better, half as many blocks are tried, down to a single one.

    Raises:
        InputError: There are too few samples to tell.
    """
    if not can_tell(prepared.loaded.data, prepared.options):
        raise InputError(
            f"depth 'auto' needs at least {FEWEST} calibration samples to refit and to judge with",
            f"give more, or a number of blocks: {option('depth', 2)}",
        )
    with prepared.clock.stage("depth"):
        removals = _best_share(prepared, _ranked(prepared, blocks, trials), trials)
        whole = _at_target(prepared) if removals else NOTHING_MISSED
    while removals:
        shallow = scored(without_blocks(prepared, removals))
        with prepared.clock.stage("depth"):
            found = _at_target(shallow)
        logger.info("depth: error %.3g with all blocks, %.3g without %d", whole[1], found[1], len(removals))
        if found < whole:
            return shallow
        removals = removals[: len(removals) // 2]
    return prepared


Ranked = tuple[Removal, Mapping[str, float]]
"""A block, and what its removal saves of each cost."""


def _ranked(prepared: Prepared, blocks: Sequence[Block], trials: BlockTrials) -> list[Ranked]:
    """Blocks with the damage of each alone, and what each saves, the least damage for what is saved first."""
    channels, whole = _channels(prepared), _totals(prepared)
    limits = _limits(prepared)
    ranked = list[tuple[float, Ranked]]()
    for number, block in enumerate(blocks):
        step(block.sum, number, len(blocks))
        left = _costs_left(prepared, channels, trials, block)
        saved = {name: whole[name] - left[name] for name in limits}
        worth = sum(saved[name] / (whole[name] - limit) for name, limit in limits.items() if limit < whole[name])
        removal = Removal(block, trials.damage([block]))
        if worth > 0:
            ranked.append((removal.damage / worth, (removal, saved)))
    chosen: list[Ranked] = []
    for _, (removal, savings) in sorted(ranked, key=lambda one: one[0]):
        if not any(removal.block.within(other.block) or other.block.within(removal.block) for other, _ in chosen):
            chosen.append((removal, savings))
    return chosen


def _best_share(prepared: Prepared, ranked: Sequence[Ranked], trials: BlockTrials) -> list[Removal]:
    """As many of the first blocks as leave the least predicted damage once channels do the rest.

    The damage is measured of all of them at once, as it grows faster than their number. It is what a repair leaves, as
    damage curves of channels are after one; how much that is of the least block stands for all.
    """
    if not ranked:
        return []
    share = trials.repaired_share(min((removal for removal, _ in ranked), key=lambda one: one.damage))
    taken, best, least = list[Ranked](), list[Removal](), _predicted(prepared, ())
    logger.info("depth: damage %.3g predicted with all blocks", least)
    before = 0.0
    for removal, savings in ranked:
        after = share * trials.damage([*(other.block for other, _ in taken), removal.block])
        taken.append((replace(removal, damage=after - before), savings))
        before, damage = after, _predicted(prepared, taken)
        logger.info("depth: damage %.3g predicted with %d blocks less, %.3g of them", damage, len(taken), after)
        if damage < least:
            best, least = [one for one, _ in taken], damage
        elif after > least:
            break  # further blocks alone are worse than what was found
    return best


def _predicted(prepared: Prepared, removals: Sequence[Ranked]) -> float:
    """Damage of some blocks and of the channels that must go beside them; infinite where that misses the target.

    What the blocks save is added to what may be left, and channels inside of them stay: they are gone already.
    """
    channels, limits = _channels(prepared), _limits(prepared)
    target: dict[str | CostFactory, Limit] = {}
    for key, cost in zip(channels.target, channels.costs, strict=True):
        more = limits[cost.name] + sum(saved[cost.name] for _, saved in removals)
        target[key] = selection.as_amount(cost.name, more)
    gone = {node for removal, _ in removals for node in removal.block.nodes}
    keep = shares_by_group(prepared.analysis, prepared.groups, channels.keep)
    keep |= {i: 1.0 for i, group in enumerate(prepared.groups) if _is_inside(group, gone)}
    assert prepared.damage is not None
    found = selection.by_budget(
        prepared.analysis.coupling,
        prepared.groups,
        prepared.damage.curves,
        replace(channels, target=target),
        prepared.loaded.cost,
        prepared.options.checks.input_shapes,
        keep,
        of_one_shape(prepared.analysis.coupling, prepared.groups),
    )
    if not all(target["met"] for target in found.targets.values()):
        return math.inf
    return sum(float(e.get("damage", 0.0)) for e in found.entries) + sum(r.damage for r, _ in removals)


def _is_inside(group: Group, nodes: Collection[Node]) -> bool:
    """Whether all that a group slices is read by some nodes alone."""
    return all(node in nodes for s in group.slices for node, _ in s.value.consumers)


def _at_target(prepared: Prepared) -> tuple[float, float]:
    """By how much the target is missed, 0 where it is met, and the error of the outputs after a repair.

    A latency is that which is measured: predictions are off by more than what a block is worth.
    """
    assert prepared.damage is not None
    damage, cost, options = prepared.damage, prepared.loaded.cost, prepared.options

    def select(channels: Channels) -> Selection:
        return allocate(prepared.analysis, prepared.groups, damage, channels, cost, options)

    channels, over = _channels(prepared), 1.0
    if LATENCY in channels.limits and prepared.timed is not None:
        predict = predicted_latency(prepared)
        selected, over = by_times_alone(select, prepared.analysis, prepared.timed, channels, predict)
    else:
        selected = select(channels)
    others = [t for name, t in selected.targets.items() if name != LATENCY and not t["met"]]
    missed = max([over - 1, *(t["left"] / t["asked"] - 1 for t in others)])
    return missed, refitted_error(prepared, prepared.analysis, selected, complete=True)


def _channels(prepared: Prepared) -> Channels:
    assert prepared.options.channels is not None  # the options see to that
    return prepared.options.channels


def _totals(prepared: Prepared) -> dict[str, float]:
    """The costs that the target limits, before anything is removed."""
    costs, shapes = _channels(prepared).costs, prepared.options.checks.input_shapes
    found = totals(costs, prepared.analysis.coupling, prepared.loaded.cost, shapes)
    return {name: float(total or 0) for name, total in found.items()}


def _limits(prepared: Prepared) -> dict[str, float]:
    """What may be left of each cost, as an amount; of the latency in milliseconds."""
    channels = with_absolute_targets(prepared).channels
    assert channels is not None
    return {name: float(str(limit).removesuffix("ms")) for name, limit in channels.limits.items()}


def _costs_left(prepared: Prepared, channels: Channels, trials: BlockTrials, block: Block) -> dict[str, float]:
    """What is left of the costs that the target limits in the model without a block."""
    model, lost = trials.model([block]), lost_with([block])
    shapes = lost.shapes(prepared.options.checks.input_shapes)
    counted = measure(model, shapes, run=prepared.options.targets_macs)
    found = {}
    for cost in channels.costs:
        if cost.name == LATENCY:
            assert prepared.timed is not None and prepared.timed.engine is not None  # no times come from elsewhere
            ratio = prepared.timed.engine.ratio(model, lost, SECONDS)
            found[cost.name] = ratio * prepared.timed.times.milliseconds
        else:
            found[cost.name] = float(measured_cost(cost, model, counted, shapes) or 0)
    return found
