"""Whole numbers for real values: the inverse of what is read, and near what is rounded."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.layers.dequantize import unpacked
from onnxprune.layers.quantize import packed, quantised

REAL = np.random.default_rng(0).standard_normal((6, 32))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_packed_numbers_are_read_back(bits: int) -> None:
    """Also where the last byte is not full."""
    numbers = np.random.default_rng(1).integers(0, 2**bits, (3, 2, 8))
    scale, zero = np.ones(6, np.float32), np.zeros((6,), np.float32)
    found = unpacked(packed(numbers, bits), scale, zero, bits)
    np.testing.assert_array_equal(found.reshape(numbers.shape), numbers)
    assert packed(numbers[..., :1], 4).shape == (3, 2, 1)


@pytest.mark.parametrize(("low", "high"), [(0, 15), (-128, 127), (-8, 7)])
def test_errors_are_below_half_a_step(low: int, high: int) -> None:
    """Of the plain scale that covers the range: those that are tried beside it are taken where they are better."""
    zero = np.full(len(REAL), (low + high + 1) // 2, np.float64)
    found = quantised(REAL, low, high, np.dtype(np.float32), zero)
    assert found.numbers.min() >= low and found.numbers.max() <= high
    error = np.square((found.numbers - found.zero[:, None]) * found.scale[:, None] - REAL).mean(axis=1)
    step = 2 * np.abs(REAL).max(axis=1) / (high - low - 1)
    assert (error <= np.square(step) / 4).all()


def test_what_was_quantised_stays_as_it_is() -> None:
    """Values on the grid of a scale are met exactly."""
    numbers = np.random.default_rng(2).integers(-8, 8, (5, 64))
    numbers[:, :2] = -8, 7
    real = numbers * np.array([0.25, 0.5, 1, 2, 0.125])[:, None]
    found = quantised(real, 0, 15, np.dtype(np.float32), np.full(5, 8.0))
    np.testing.assert_array_equal((found.numbers - 8) * found.scale[:, None], real)


def test_blocks_of_zeros_stay_zero() -> None:
    found = quantised(np.zeros((2, 8)), 0, 15, np.dtype(np.float16), np.full(2, 8.0))
    assert (found.numbers == found.zero[:, None]).all() and (found.scale == 1).all()
