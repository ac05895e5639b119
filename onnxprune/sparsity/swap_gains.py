"""Pairwise reductions: sums over rows of a function of two columns, computed in chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Sums = NDArray[np.float64]

CHUNK = 2**16
"""Number of elements that are computed at a time, so that they fit into the cache."""

PairFunction = Callable[[Floats, Floats, Floats], Any]
"""Writes f(one, other) for many others into the last argument.

The arguments have shapes (quantities, rows), (quantities, others, rows) and (others, rows).
"""


def pairwise_sums(ones: Floats, others: Floats, join: PairFunction) -> Sums:
    """Returns the sum over rows of a function of each pair of columns.

    Args:
        ones: Shape (quantities, ones, rows).
        others: Shape (quantities, others, rows).
        join: The function.

    Returns:
        Shape (ones, others).
    """
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
    """max(one, other)."""
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


TOP: dict[int, PairFunction] = {1: _top_one, 2: _top_two, 3: _top_three}
"""N -> the sum of the N largest elements of two pairs (a1, a2), (b1, b2), given two quantities of each pair.

The quantities are the sums and, for N < 3, the maxima, else the minima: N = 1: max(max a, max b); N = 2: max(a1 + a2,
b1 + b2, max a + max b); N = 3: a1 + a2 + b1 + b2 - min(min a, min b).
"""
