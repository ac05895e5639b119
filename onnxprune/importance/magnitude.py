"""Importance by the size of what a channel owns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]


def power_sums(weight: NDArray[Any], axes: Iterable[int], power: int) -> dict[int, Scores]:
    """Sum of ``|w| ** power`` over everything but one axis.

    Args:
        weight: Weight of any rank, floating point.
        axes: Axes to keep, each on its own.
        power: 1 or 2.

    Returns:
        Per axis a vector of its length; float64.
    """
    wide = weight if weight.dtype in (np.float32, np.float64) else weight.astype(np.float32)
    axes = sorted(axes)
    if not axes or not wide.size:
        return {a: np.zeros(wide.shape[a]) for a in axes}
    # sums over the trailing axes first: what is left is small
    depth = axes[-1] + 1
    flat = np.ascontiguousarray(wide).reshape(*wide.shape[:depth], -1)
    inner = np.einsum("...i,...i->...", flat, flat) if power == 2 else np.abs(flat).sum(axis=-1)
    inner = inner.astype(np.float64)
    return {a: inner.sum(axis=tuple(i for i in range(depth) if i != a)) for a in axes}


def lamp(squares: Scores) -> Scores:
    """Layer-adaptive magnitude: a channel's share of all that are no smaller than itself.

    ``w_c^2 / sum of w_d^2 over w_d^2 >= w_c^2`` (Lee et al., "Layer-adaptive sparsity for the magnitude-based
    pruning", ICLR 2021), on channels in place of single weights.

    Args:
        squares: Squared norm of each channel of one group; shape (units,).
    """
    order = np.argsort(squares, kind="stable")
    tail = np.cumsum(squares[order][::-1])[::-1]
    result = np.empty_like(squares)
    result[order] = squares[order] / np.maximum(tail, np.finfo(np.float64).tiny)
    return result
