"""Importance by the magnitude of the weights of a unit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]


def power_sums(weight: NDArray[Any], axes: Iterable[int], power: int) -> dict[int, Scores]:
    """Sums ``|w| ** power`` over all axes but one.

    Args:
        weight: Floating-point weight of any rank.
        axes: Axes to keep, each in a separate sum.
        power: 1 or 2.

    Returns:
        Axis -> sums along it; float64, shape (length of the axis,).
    """
    wide = weight if weight.dtype in (np.float32, np.float64) else weight.astype(np.float32)
    axes = sorted(axes)
    if not axes or not wide.size:
        return {a: np.zeros(wide.shape[a]) for a in axes}
    # Trailing axes are reduced first, so that the remaining array is small.
    depth = axes[-1] + 1
    flat = np.ascontiguousarray(wide).reshape(*wide.shape[:depth], -1)
    inner = np.einsum("...i,...i->...", flat, flat) if power == 2 else np.abs(flat).sum(axis=-1)
    inner = inner.astype(np.float64)
    return {a: inner.sum(axis=tuple(i for i in range(depth) if i != a)) for a in axes}


def lamp(squares: Scores) -> Scores:
    """LAMP score: the squared norm of a unit relative to the sum over all units that are not smaller.

    ``|w_c|^2 / sum of |w_d|^2 over all d with |w_d|^2 >= |w_c|^2`` (Lee et al., "Layer-adaptive sparsity for the
    magnitude-based pruning", ICLR 2021), for units instead of single weights.

    Args:
        squares: Squared norm of each unit of one group; shape (units,).

    Returns:
        Score of each unit; shape (units,).
    """
    order = np.argsort(squares, kind="stable")
    tail = np.cumsum(squares[order][::-1])[::-1]
    result = np.empty_like(squares)
    result[order] = squares[order] / np.maximum(tail, np.finfo(np.float64).tiny)
    return result
