"""Index tensors whose entries along some axes are given anew: the tensor itself, or nodes that compute it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.edit.resize import NewPositions


def with_positions(array: NDArray[Any], changes: Sequence[NewPositions]) -> NDArray[Any]:
    """Returns an index tensor with other positions; those of other columns do not depend on the axes that get shorter.

    Args:
        array: The tensor, as long as before along those axes.
        changes: The positions.
    """
    for change in changes:
        if change.along is not None:
            array = array.take(np.arange(len(change.entries)), axis=change.along)
    array = array.copy()
    for change in changes:
        column = array if change.column is None else array[..., change.column]
        column[...] = _along(change, column.ndim)
    return array


def factors_and_summands(
    changes: Sequence[NewPositions], rank: int, depth: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns what to multiply an index tensor by, and what to add then, so that it has other positions.

    Both broadcast to it. The tensor must have length 1 along the axes of the changes.

    Args:
        changes: The positions.
        rank: Number of axes of the tensor.
        depth: Length of its last axis, where that is one of columns.
    """
    by_column = [c.column is not None for c in changes]
    factors = np.ones([*[1] * (rank - 1), depth if all(by_column) else 1], dtype=np.int64)
    summands = np.zeros_like(factors)
    for change in changes:
        if change.along is not None:
            summands = np.repeat(summands, len(change.entries), axis=change.along)
    for change in changes:
        for part, value in ((factors, np.zeros(1, np.int64)), (summands, change.entries)):
            column = part if change.column is None else part[..., change.column]
            column[...] = value if len(value) == 1 else _along(change, column.ndim)
    return factors, summands


def _along(change: NewPositions, rank: int) -> NDArray[np.int64]:
    """The positions with the axes that they broadcast along."""
    if change.along is None:
        return change.entries
    return change.entries.reshape([-1 if i == change.along else 1 for i in range(rank)])
