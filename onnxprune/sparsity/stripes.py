"""From weights that sum over the same units to the columns and stripes that a search for their order looks at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph.operators import WeightLayout
from onnxprune.sparsity.permutation_search import Index, Stripes
from onnxprune.sparsity.swap_gains import Floats


class Reader(NamedTuple):
    """A weight that sums over some units.

    Attributes:
        worth: What its elements are worth; shape of the weight.
        layout: How it is read.
        places: The indices of its reduction axis that each unit owns; shape (units, indices a unit).
    """

    worth: Floats
    layout: WeightLayout
    places: Index


def gather(readers: Iterable[Reader], m: int, share: float, rng: np.random.Generator) -> list[Stripes]:
    """Rows of weights as stripes; rows whose stripes hold the same units are one part.

    Units that own several indices have a row for each. A weight of which one stripe holds a unit twice, or units at
    different ones of their indices, does not fit into this picture and is left out.

    Args:
        readers: The weights.
        m: Length of a stripe.
        share: Share of the rows of each weight that is drawn.
        rng: What draws them.
    """
    found: dict[bytes, tuple[Index, list[Floats], list[Floats]]] = {}
    for worth, layout, places in readers:
        lines = np.moveaxis(worth, layout.inputs, 0).reshape(worth.shape[layout.inputs], -1)
        if share < 1:
            count = max(round(share * lines.shape[1]), 1)
            lines = lines[:, np.sort(rng.choice(lines.shape[1], count, replace=False))]
        for turn, (slots, at) in enumerate(_stripes(len(lines), layout.input_blocks, places, m)):
            fixed = np.where(((slots < 0) & (at >= 0))[:, :, None], lines[at], np.float32(0))
            part = found.setdefault(slots.tobytes(), (slots, [], []))
            part[1].append(lines[places[:, turn]])
            part[2].append(fixed)
    return [
        Stripes(np.concatenate(values, axis=1), slots, _concatenated(fixed)) for slots, values, fixed in found.values()
    ]


def _concatenated(fixed: list[Floats]) -> Floats | None:
    found: Floats = np.concatenate(fixed, axis=2)
    return found if found.any() else None


def _stripes(length: int, blocks: int, places: Index, m: int) -> Iterator[tuple[Index, Index]]:
    """Units and indices in each stripe that holds units, for the first, second, ... index that units own."""
    grid = _grid(length, blocks, m)
    owner, turn = np.full(length + 1, -1), np.full(length + 1, -1)  # the last is what index -1 stands for
    owner[places] = np.arange(len(places))[:, None]
    turn[places] = np.arange(places.shape[1])
    turns = turn[grid]
    latest = turns.max(axis=1)
    if ((turns >= 0) & (turns != latest[:, None])).any():
        return
    for j in range(places.shape[1]):
        mine = grid[latest == j]
        yield owner[mine], mine


def _grid(length: int, blocks: int, m: int) -> NDArray[np.int64]:
    """The indices of each stripe, -1 behind the last of a block; shape (stripes, m)."""
    block = length // blocks
    inside = np.full(-(-block // m) * m, -1)
    inside[:block] = np.arange(block)
    found = np.concatenate([np.where(inside >= 0, inside + b * block, -1) for b in range(blocks)])
    return found.reshape(-1, m)
