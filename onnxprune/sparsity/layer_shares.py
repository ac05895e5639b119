"""Allocation of a total share of zeros to weights with the least total damage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STEPS = 200
"""Number of grid points of the share of zeros."""
MAX_SHARE = 0.98
"""Maximum share of zeros of a weight, unless the total is larger."""


def shares(
    sizes: Sequence[int], probes: Sequence[float], damages: Sequence[Sequence[float]], total: float
) -> list[float]:
    """Returns the share of zeros of each weight that minimizes the total damage.

    Between the probes the logarithm of the damage is interpolated linearly. The optimum over the lower convex hulls of
    these curves has the same price per zero for all weights (Everett, "Generalized Lagrange multiplier method", 1963),
    which is found by bisection.

    Args:
        sizes: Number of elements of each weight.
        probes: Shares at which the damage was measured, ascending, greater than 0.
        damages: Damage of each weight at each probe.
        total: Share of zeros among the elements of all weights.
    """
    grid = np.linspace(0, max(MAX_SHARE, total), STEPS)
    curves = [_hull(grid, _curve(grid, probes, d)) for d in damages]
    prices = [np.diff(c) / np.diff(grid) / n for c, n in zip(curves, sizes, strict=True)]
    low, high = 0.0, max(float(p.max()) for p in prices) + 1e-30
    wanted, counts = total * sum(sizes), np.asarray(sizes)
    for _ in range(200):
        price = (low * high) ** 0.5 if low > 0 else high / 2**40
        zeros = float((counts * [grid[int((p <= price).sum())] for p in prices]).sum())
        low, high = (price, high) if zeros < wanted else (low, price)
        if low > 0 and high / low < 1 + 1e-9:
            break
    under, over = (np.array([grid[int((p <= price).sum())] for p in prices]) for price in (low, high))
    gap = float((counts * (over - under)).sum())
    part = (wanted - float((counts * under).sum())) / gap if gap > 0 else 0.0
    result = under + np.clip(part, 0, 1) * (over - under)
    return [float(s) for s in result]


def _curve(grid: Floats, probes: Sequence[float], damages: Sequence[float]) -> Floats:
    """Returns the nondecreasing damage at each grid point: 0 at share 0, extrapolated beyond the last probe."""
    known = np.maximum.accumulate(np.maximum(np.asarray(damages, dtype=np.float64), 1e-12))
    at, logs = np.asarray(probes, dtype=np.float64), np.log(known)
    slope = (logs[-1] - logs[-2]) / (at[-1] - at[-2]) if len(at) > 1 else 0.0
    inner = np.exp(np.where(grid > at[-1], logs[-1] + slope * (grid - at[-1]), np.interp(grid, at, logs)))
    found: Floats = np.where(grid < at[0], known[0] * (grid / at[0]) ** 2, inner)
    return found


def _hull(grid: Floats, curve: Floats) -> Floats:
    """Returns the lower convex hull of a curve at the grid points."""
    stack: list[int] = []
    for i in range(len(grid)):
        while len(stack) > 1 and (
            (curve[stack[-1]] - curve[stack[-2]]) * (grid[i] - grid[stack[-1]])
            >= (curve[i] - curve[stack[-1]]) * (grid[stack[-1]] - grid[stack[-2]])
        ):
            stack.pop()
        stack.append(i)
    found: Floats = np.interp(grid, grid[stack], curve[stack])
    return found
