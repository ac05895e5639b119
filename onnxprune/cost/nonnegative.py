"""Least squares with coefficients of at least zero."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RIDGE = 1e-6
"""Share of the mean squared feature that is added to all of them: of features that agree none is preferred."""


def nonnegative_least_squares(features: Array, values: Array, ridge: float = RIDGE) -> Array:
    """Coefficients x >= 0 that minimise ``|features @ x - values|^2``.

    See Lawson and Hanson, "Solving Least Squares Problems", 1974, chapter 23.

    Args:
        features: Shape (rows, columns).
        values: Shape (rows,).
        ridge: Penalty of ``|x|^2`` as a share of the mean squared feature.

    Returns:
        Shape (columns,).
    """
    gram, target = features.T @ features, features.T @ values
    columns = len(target)
    gram[np.diag_indices(columns)] += ridge * max(float(np.trace(gram)) / max(columns, 1), 1e-300)
    x = np.zeros(columns)
    passive = np.zeros(columns, dtype=bool)
    tolerance = 1e-10 * float(np.abs(target).max(initial=0.0))
    for _ in range(3 * columns):
        slope = target - gram @ x
        slope[passive] = -np.inf
        if not columns or slope.max() <= tolerance:
            break
        passive[int(np.argmax(slope))] = True
        while True:
            solved = np.zeros(columns)
            solved[passive] = np.linalg.solve(gram[np.ix_(passive, passive)], target[passive])
            below = passive & (solved <= 0)
            if not below.any():
                break
            step = float((x[below] / np.maximum(x[below] - solved[below], 1e-300)).min())
            x += step * (solved - x)
            passive &= x > 1e-14 * max(float(x.max(initial=0.0)), 1e-300)
            x[~passive] = 0.0
        x = solved
    return x
