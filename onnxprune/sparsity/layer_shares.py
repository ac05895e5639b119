"""How many zeros each weight gets, so that all of them together have their share at the least damage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STEPS = 200
"""Shares that are weighed against each other."""
MOST = 0.98
"""No weight loses more."""


def shares(
    sizes: Sequence[int], probes: Sequence[float], damages: Sequence[Sequence[float]], total: float
) -> list[float]:
    """Shares of zeros, one a weight, that minimise the summed damage.

    The damage between probes is read from straight lines of its logarithm, and its lower convex hull is what counts:
    then one price for a zero, the same for all weights, is the optimum (Everett, "Generalized Lagrange multiplier
    method", 1963).

    Args:
        sizes: Elements of each weight.
        probes: Shares at which damage was measured, rising, from above 0.
        damages: What it was, for each weight at each probe.
        total: Share of all elements together.
    """
    grid = np.linspace(0, max(MOST, total), STEPS)
    curves = [_hull(grid, _curve(grid, probes, d)) for d in damages]
    prices = [np.diff(c) / np.diff(grid) / n for c, n in zip(curves, sizes, strict=True)]
    low, high = 0.0, max(float(p.max()) for p in prices) + 1e-30
    wanted, all_ = total * sum(sizes), np.asarray(sizes)
    for _ in range(200):
        price = (low * high) ** 0.5 if low > 0 else high / 2**40
        taken = float((all_ * [grid[int((p <= price).sum())] for p in prices]).sum())
        low, high = (price, high) if taken < wanted else (low, price)
        if low > 0 and high / low < 1 + 1e-9:
            break
    under, over = (np.array([grid[int((p <= price).sum())] for p in prices]) for price in (low, high))
    space = float((all_ * (over - under)).sum())
    part = (wanted - float((all_ * under).sum())) / space if space > 0 else 0.0
    found = under + np.clip(part, 0, 1) * (over - under)
    return [float(s) for s in found]


def _curve(grid: Floats, probes: Sequence[float], damages: Sequence[float]) -> Floats:
    """Damage at every share: rising, nothing at 0, beyond the last probe on as before it."""
    known = np.maximum.accumulate(np.maximum(np.asarray(damages, dtype=np.float64), 1e-12))
    at, logs = np.asarray(probes, dtype=np.float64), np.log(known)
    slope = (logs[-1] - logs[-2]) / (at[-1] - at[-2]) if len(at) > 1 else 0.0
    inner = np.exp(np.where(grid > at[-1], logs[-1] + slope * (grid - at[-1]), np.interp(grid, at, logs)))
    found: Floats = np.where(grid < at[0], known[0] * (grid / at[0]) ** 2, inner)
    return found


def _hull(grid: Floats, curve: Floats) -> Floats:
    """The largest convex function below a curve."""
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
