"""Importance by distance to the other channels of the group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.importance.magnitude import Scores


def fpgm(parts: Iterable[NDArray[Any]]) -> Scores:
    """Sum of Euclidean distances from each unit to all others of its group.

    Units near the geometric median are redundant (He et al., "Filter pruning via geometric median", CVPR 2019).
    Distances are computed from Gram matrices, which are summed over the tensors.

    Args:
        parts: Weights of the units in each tensor; each of shape (units, entries).

    Returns:
        Score of each unit; shape (units,).
    """
    gram: NDArray[np.float64] | None = None
    for part in parts:
        rows = part.astype(np.float64)
        gram = rows @ rows.T if gram is None else gram + rows @ rows.T
    if gram is None:
        return np.zeros(0)
    squares = np.diag(gram)
    distances: Scores = np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0)).sum(axis=1)
    return distances
