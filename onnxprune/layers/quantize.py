"""Whole numbers for real values, each block with the scale that fits it best: the inverse of `dequantize`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8)
"""Shares of the range of a block that scales are tried for: clipping a few values may cost less than coarser steps."""


@dataclass(frozen=True)
class Blocks:
    """Real values in blocks, as whole numbers: ``(numbers - zero) * scale``.

    Attributes:
        numbers: Shape (blocks, values).
        scale: Shape (blocks,).
        zero: Shape (blocks,).
    """

    numbers: Floats
    scale: Floats
    zero: Floats

    @property
    def real(self) -> Floats:
        """The values that the numbers stand for; shape (blocks, values)."""
        return (self.numbers - self.zero[:, None]) * self.scale[:, None]


def quantised(real: Floats, low: int, high: int, kind: np.dtype[Any], zero: Floats) -> Blocks:
    """Rounds real values to whole numbers around zero points, block by block.

    Of several ranges of each block, and the scale of least squares of each, the one with the least squared error is
    taken. A block of zeros has scale 1.

    Args:
        real: Values; shape (blocks, values).
        low: The least number.
        high: The largest number.
        kind: Type that scales are stored in.
        zero: Zero points; shape (blocks,).
    """
    most, least = np.maximum(real.max(axis=1), 0), np.minimum(real.min(axis=1), 0)
    above, below = np.maximum(high - zero, 1), np.maximum(zero - low, 1)
    covering = np.maximum(most / above, -least / below)
    signed = np.where(most > -least, -most, -least) / below  # the largest value takes the longer end
    best = rounded(real, _stored(covering, kind), zero, low, high)
    for scale in (share * one for share in SHRINKS for one in (covering, signed)):
        found = rounded(real, _stored(scale, kind), zero, low, high)
        offsets = found.numbers - zero[:, None]
        fitted = (real * offsets).sum(axis=1) / np.maximum(np.square(offsets).sum(axis=1), 1e-300)
        best = _least(real, best, found)
        best = _least(real, best, rounded(real, _stored(fitted, kind), zero, low, high))
    return best


def _stored(scale: Floats, kind: np.dtype[Any]) -> Floats:
    """Scales as they are stored; 1 for those that would be zero."""
    found = scale.astype(kind).astype(np.float64)
    return np.where((found == 0) | ~np.isfinite(found), 1.0, found)


def rounded(real: Floats, scale: Floats, zero: Floats, low: int, high: int) -> Blocks:
    """The nearest numbers at given scales; arguments as those of `quantised`, and scales of shape (blocks,)."""
    numbers = np.clip(np.rint(real / scale[:, None]) + zero[:, None], low, high)
    return Blocks(numbers, scale, zero)


def _least(real: Floats, one: Blocks, other: Blocks) -> Blocks:
    """Of each block the version with the smaller squared error."""
    errors = [np.square(b.real - real).sum(axis=1) for b in (one, other)]
    better = errors[1] < errors[0]
    return Blocks(
        np.where(better[:, None], other.numbers, one.numbers),
        np.where(better, other.scale, one.scale),
        np.where(better, other.zero, one.zero),
    )


def packed(numbers: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Numbers of a few bits in bytes, low ones first, along the last axis; what does not fill a byte is filled with 0.

    Args:
        numbers: Whole numbers from 0; shape (..., n).
        bits: Bits of a number: 2, 4 or 8.

    Returns:
        Shape (..., bytes).
    """
    each = 8 // bits
    missing = -numbers.shape[-1] % each
    filled = np.pad(numbers.astype(np.uint8), [(0, 0)] * (numbers.ndim - 1) + [(0, missing)])
    parts = filled.reshape(*filled.shape[:-1], -1, each) << np.arange(0, 8, bits, dtype=np.uint8)
    found: NDArray[np.uint8] = np.bitwise_or.reduce(parts, axis=-1).astype(np.uint8)
    return found
