"""Real values of weights that are stored as whole numbers."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray


def dequantised(weight: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any] | None, axis: int) -> NDArray[Any]:
    """``(weight - zero) * scale``, per tensor, along `axis`, or in blocks along it.

    A scale with an axis less than the weight, ``(directions, gates)``, serves every row of a weight
    ``(directions, rows, gates)``.
    """

    def spread(x: NDArray[Any]) -> NDArray[Any]:
        x = x.astype(np.float32)
        if x.size == 1:
            return x.reshape(())
        if x.ndim == 1:
            return x.reshape([-1 if i == axis % weight.ndim else 1 for i in range(weight.ndim)])
        if x.ndim < weight.ndim:
            return x[:, None]
        block = -(-weight.shape[axis] // x.shape[axis])
        return np.repeat(x, block, axis=axis).take(range(weight.shape[axis]), axis=axis)

    centred = weight.astype(np.float32) - (spread(zero) if zero is not None else 0)
    real: NDArray[Any] = centred * spread(scale)
    return real


def unpacked(weight: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any] | None, bits: int) -> NDArray[Any]:
    """Numbers of a few bits, low ones first in each byte, times the scale of their block.

    Args:
        weight: Bytes, of which consecutive ones along the last axes are a block; shape (n, ..., bytes).
        scale: A scale for each block, in their order; n times the blocks of one of the first axis.
        zero: Zero points, packed like the numbers along the last axis, or one float for each block; None for the middle
            of the range.
        bits: Bits of a number.

    Returns:
        Shape (n, ..., bytes, numbers of a byte).
    """
    scales = scale.astype(np.float32).reshape(len(weight), -1)
    numbers = _split(weight, bits).reshape(*scales.shape, -1)
    if zero is None:
        points: NDArray[Any] = np.float32(2 ** (bits - 1)).reshape(1, 1)
    elif zero.dtype == np.uint8:
        rows = zero.reshape(len(weight), zero.shape[1] if zero.ndim > 2 else 1, -1)
        points = _split(rows, bits)[..., : scales.shape[1] // rows.shape[1]].reshape(scales.shape)
    else:
        points = zero.astype(np.float32).reshape(scales.shape)
    real: NDArray[Any] = (numbers - points[:, :, None]) * scales[:, :, None]
    return real.reshape(*weight.shape, 8 // bits)


def _split(packed: NDArray[Any], bits: int) -> NDArray[np.float32]:
    """The numbers in each byte of the last axis, one after the other."""
    flat: NDArray[np.float32] = _numbers_of_bytes(bits).take(packed, mode="clip").view(np.float32)
    return flat


@functools.cache
def _numbers_of_bytes(bits: int) -> NDArray[Any]:
    """The numbers that each byte holds, as one element a byte: looked up faster than shifted; shape (256,)."""
    shifts = np.arange(0, 8, bits)
    numbers = ((np.arange(256)[:, None] >> shifts) & (2**bits - 1)).astype(np.float32)
    found: NDArray[Any] = numbers.view(f"V{numbers[0].nbytes}").reshape(-1)
    return found
