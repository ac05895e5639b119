"""Sums over rows of what each of some vectors makes with each of many others, without holding that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Sums = NDArray[np.float64]

CHUNK = 2**16
"""Elements that are made at a time: so many stay in the cache."""

Join = Callable[[Floats, Floats, Floats], Any]
"""Writes what an element adds up to with many others: given each as (quantities, rows), (quantities, many, rows)."""


def sums(ones: Floats, others: Floats, join: Join) -> Sums:
    """Sums over the rows of what each of `ones` makes with each of `others`; shape (ones, others)."""
    found = np.zeros((ones.shape[1], others.shape[1]))
    step = max(CHUNK // others.shape[1], 16)
    for begin in range(0, others.shape[2], step):
        piece = np.ascontiguousarray(others[:, :, begin : begin + step])
        made, weight = np.empty_like(piece[0]), np.ones(piece.shape[2], np.float32)
        for i in range(len(found)):
            join(ones[:, i, begin : begin + step], piece, made)
            found[i] += made @ weight
    return found


def larger(one: Floats, others: Floats, out: Floats) -> None:
    """The larger of both."""
    np.maximum(one[0], others[0], out=out)


def _top_one(one: Floats, others: Floats, out: Floats) -> None:
    np.maximum(one[1], others[1], out=out)


def _top_two(one: Floats, others: Floats, out: Floats) -> None:
    np.add(one[1], others[1], out=out)
    np.maximum(out, others[0], out=out)
    np.maximum(out, one[0], out=out)


def _top_three(one: Floats, others: Floats, out: Floats) -> None:
    np.minimum(one[1], others[1], out=out)
    np.subtract(others[0], out, out=out)
    np.add(out, one[0], out=out)


TOP: dict[int, Join] = {1: _top_one, 2: _top_two, 3: _top_three}
"""The sum of the N largest of two pairs, by N: from their sums, and from their larger elements (smaller with N = 3)."""
