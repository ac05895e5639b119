"""Depth: which blocks of a model go before its channels do, and the model that they leave.

A number of blocks is taken one by one, each time the one whose removal does least damage to the outputs. With a target
blocks compete with channels, see `depth_target`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from onnxprune.common.progress import step
from onnxprune.coupling.blocks import Block
from onnxprune.errors import InputError, option
from onnxprune.options import AUTO, Options
from onnxprune.pipeline.analysis import Analysis
from onnxprune.pipeline.block_trials import BlockTrials, Removal, open_blocks, without_blocks
from onnxprune.pipeline.depth_target import weighed
from onnxprune.pipeline.original import Original
from onnxprune.pipeline.prepare import Prepared, opened, scored
from onnxprune.pipeline.progress import Clock

RUINED = 1e100
"""Damage of a removal that leaves outputs without numbers: more than any other."""


def prepare(original: Original, options: Options, clock: Clock, analysis: Analysis | None = None) -> Prepared:
    """Prepares a model as `prepare.prepare` does, once its blocks are gone that the options ask for.

    Raises:
        InputError: The model, the data or an option is unusable, or the model has not so many blocks.
    """
    prepared = opened(original, options, clock, analysis)
    depth = 0 if options.channels is None else options.channels.depth
    if not depth:
        return scored(prepared)
    blocks = open_blocks(prepared)
    trials = BlockTrials(prepared, len(blocks))
    if depth == AUTO:
        return weighed(scored(prepared), blocks, trials)
    with clock.stage("depth"):
        removals = least_damaging(blocks, int(depth), trials.damage)
    return scored(without_blocks(prepared, removals))


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

    def finite(some: Sequence[Block]) -> float:
        found = damage(some)
        return found if math.isfinite(found) else RUINED

    left, chosen, total = list(blocks), list[Removal](), 0.0
    adds: list[float] = []
    for number, block in enumerate(left):
        step(block.sum, number, len(left))
        adds.append(finite([block]))
    while len(chosen) < count:
        if not left:
            raise InputError(f"only {len(chosen)} blocks of the model may go", f"ask for fewer with {option('depth')}")
        least = adds.index(min(adds))
        if chosen:
            adds[least] = finite([*(removal.block for removal in chosen), left[least]]) - total
            if adds[least] > min(adds):
                continue
        taken = Removal(left[least], adds[least])
        chosen.append(taken)
        total += taken.damage
        stay = [i for i, block in enumerate(left) if not block.within(taken.block)]
        left, adds = [left[i] for i in stay], [adds[i] for i in stay]
    return chosen
