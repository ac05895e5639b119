"""Builds the inputs of the permutation search (columns and stripes) from weights that contract over the same units."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph.operators import WeightLayout
from onnxprune.sparsity.permutation_search import Index, Stripes
from onnxprune.sparsity.swap_gains import Floats


class ReadingWeight(NamedTuple):
    """A weight that contracts over some units.

    Attributes:
        scores: Scores of its elements; shape of the weight.
        layout: How the layer reads it.
        positions: Indices of its reduction axis that each unit owns; shape (units, indices per unit).
    """

    scores: Floats
    layout: WeightLayout
    positions: Index


def gather(readers: Iterable[ReadingWeight], m: int, share: float, rng: np.random.Generator) -> list[Stripes]:
    """Collects rows of weights; rows whose stripes contain the same units form one part.

    A unit with several indices contributes a row for each of them. A weight is skipped if a stripe contains several
    indices of one unit, or indices of different rank in their units.

    Args:
        readers: The weights.
        m: Length of a stripe.
        share: Share of the rows of each weight that is sampled.
        rng: Random numbers of the sampling.
    """
    found: dict[bytes, tuple[Index, list[Floats], list[Floats]]] = {}
    for scores, layout, positions in readers:
        lines = np.moveaxis(scores, layout.inputs, 0).reshape(scores.shape[layout.inputs], -1)
        if share < 1:
            count = max(round(share * lines.shape[1]), 1)
            lines = lines[:, np.sort(rng.choice(lines.shape[1], count, replace=False))]
        for turn, (slots, at) in enumerate(_stripes(len(lines), layout.input_blocks, positions, m)):
            fixed = np.where(((slots < 0) & (at >= 0))[:, :, None], lines[at], np.float32(0))
            part = found.setdefault(slots.tobytes(), (slots, [], []))
            part[1].append(lines[positions[:, turn]])
            part[2].append(fixed)
    return [
        Stripes(np.concatenate(values, axis=1), slots, _concatenated(fixed)) for slots, values, fixed in found.values()
    ]


def _concatenated(fixed: list[Floats]) -> Floats | None:
    found: Floats = np.concatenate(fixed, axis=2)
    return found if found.any() else None


def _stripes(length: int, blocks: int, positions: Index, m: int) -> Iterator[tuple[Index, Index]]:
    """Yields units and indices of the stripes that contain the first, second, ... index of the units."""
    grid = _grid(length, blocks, m)
    owner, turn = np.full(length + 1, -1), np.full(length + 1, -1)  # the last entry belongs to index -1
    owner[positions] = np.arange(len(positions))[:, None]
    turn[positions] = np.arange(positions.shape[1])
    turns = turn[grid]
    latest = turns.max(axis=1)
    if ((turns >= 0) & (turns != latest[:, None])).any():
        return
    for j in range(positions.shape[1]):
        mine = grid[latest == j]
        yield owner[mine], mine


def _grid(length: int, blocks: int, m: int) -> NDArray[np.int64]:
    """Returns the indices of each stripe, -1 for padding at the end of a block; shape (stripes, m)."""
    block = length // blocks
    inside = np.full(-(-block // m) * m, -1)
    inside[:block] = np.arange(block)
    found = np.concatenate([np.where(inside >= 0, inside + b * block, -1) for b in range(blocks)])
    return found.reshape(-1, m)
