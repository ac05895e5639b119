"""A cost as plain data, which a page evaluates for other numbers of removed units: a sum of products of lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class CostTerm:
    """A constant times the product of some lengths.

    Attributes:
        factor: The constant.
        axes: Positions of the lengths in `CostTable.lengths`.
        blocks: To multiples of what each length is rounded up; empty where none is.
        odd: Position of a length, and a number: the term counts only where the length is no multiple of it; empty
            where it always counts.
        causes: Groups of which one must lose a unit for the term to be there; empty where it always is.
    """

    factor: float
    axes: list[int]
    blocks: list[int]
    odd: list[int]
    causes: list[int]


@dataclass(frozen=True)
class CostTable:
    """The sum of some terms and of what does not change.

    Attributes:
        fixed: What is there whatever is removed.
        lengths: Lengths of axes before removal.
        slopes: By how much a unit of a group shrinks a length: position of the length, of the group, and number.
        terms: The terms.
        singles: Whether terms of 1 and less count.
    """

    fixed: float
    lengths: list[int]
    slopes: list[list[int]]
    terms: list[CostTerm]
    singles: bool = True


def slopes_by_entry(slopes: NDArray[np.float64] | NDArray[np.int64]) -> list[list[int]]:
    """The entries that are not zero: row, column, value."""
    return [[int(row), int(column), int(slopes[row, column])] for row, column in np.argwhere(slopes)]


def unpadded(axes: Sequence[int], padding: int) -> list[int]:
    """Positions without those of the length that pads rows."""
    return [axis for axis in axes if axis != padding]
