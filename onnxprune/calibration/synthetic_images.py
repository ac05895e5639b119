"""Synthetic images with natural statistics.

Images follow the dead leaves model: flat patches of all sizes that occlude each other have the edges, the power
spectrum and the heavy-tailed statistics of natural images (Lee, Mumford and Huang, "Occlusion models for natural
images", IJCV 2001); features learned on such images alone transfer to real images (Baradad et al., "Learning to see by
looking at noise", NeurIPS 2021).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration.synthetic_signals import standardized

Floats = NDArray[np.float32]

LEAVES = 30
SMALLEST, LARGEST, POWER = 0.08, 0.6, 1.5
"""Radii of leaves relative to the longer side; their density is proportional to radius ** -(1 + POWER)."""
BLUR = 1.2
"""Maximum standard deviation of the blur in pixels, for a side of 32; proportional to the square root of the side."""


def pictures(rng: np.random.Generator, count: int, channels: int, height: int, width: int) -> Floats:
    """Returns dead-leaves images with shading, blur and 1/f texture.

    Shape (count, channels, height, width), values in [0, 1].
    """
    made = _leaves(rng, count, channels, height, width)
    widest = BLUR * (max(height, width) / 32) ** 0.5
    for picture in made:
        picture[:] = _blurred(picture, rng.uniform(0, widest))
    for picture in made:
        picture += rng.uniform(0, 0.08) * _textures(rng, channels, height, width)
    made -= made.mean(axis=(1, 2, 3), keepdims=True)
    made /= made.std(axis=(1, 2, 3), keepdims=True) + 1e-6
    contrast, light = rng.uniform(0.15, 0.3, (count, 1, 1, 1)), rng.uniform(0.3, 0.65, (count, 1, 1, 1))
    return np.clip(made * contrast + light, 0, 1).astype(np.float32)


def _leaves(rng: np.random.Generator, count: int, channels: int, height: int, width: int) -> Floats:
    """Returns leaves painted over each other on a plain background; shape (count, channels, height, width)."""
    side = max(height, width)
    y, x = (np.mgrid[:height, :width] / side).astype(np.float32)

    def uniform(low: float, high: float) -> Floats:
        return rng.uniform(low, high, (count, 1, 1)).astype(np.float32)

    def normal(*shape: int) -> Floats:
        return rng.standard_normal((count, *shape, 1, 1)).astype(np.float32)

    base, spread = uniform(0.1, 0.9)[:, None] + 0.1 * normal(channels), uniform(0.05, 0.45)[:, None]
    made: Floats = np.broadcast_to(base, (count, channels, height, width)).copy()
    for _ in range(LEAVES):
        radius = uniform(LARGEST**-POWER, SMALLEST**-POWER) ** np.float32(-1 / POWER)
        right, down, turn, aspect = x - uniform(-0.1, 1.1), y - uniform(-0.1, 1.1), uniform(0, np.pi), uniform(0.3, 1)
        along = right * np.cos(turn) + down * np.sin(turn)
        across = (down * np.cos(turn) - right * np.sin(turn)) / aspect
        far = np.where(uniform(0, 1) < 0.5, np.hypot(along, across), np.maximum(np.abs(along), np.abs(across)))
        shade = 0.3 * (normal() * along + normal() * across)
        colour = base + spread * (normal(1) + normal(channels) / 2)
        np.copyto(made, colour + shade[:, None], where=(far < radius)[:, None])
    return made


def _blurred(picture: Floats, deviation: float) -> Floats:
    """Applies a cyclic Gaussian blur over the last two axes."""
    height, width = picture.shape[-2:]
    f = np.fft.fftfreq(height)[:, None] ** 2 + np.fft.rfftfreq(width)[None] ** 2
    kept = np.exp(-2 * (np.pi * deviation) ** 2 * f)
    return np.fft.irfft2(np.fft.rfft2(picture) * kept, s=(height, width)).astype(np.float32)


def _textures(rng: np.random.Generator, channels: int, height: int, width: int) -> Floats:
    """Returns mostly gray 1/f noise of variance 1 (Ruderman, "The statistics of natural images", 1994)."""
    f = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None] * width)
    f[0, 0] = 1
    raw = np.fft.irfft2(
        np.fft.rfft2(rng.standard_normal((channels, height, width))) * f ** -rng.uniform(0.6, 1.3), s=(height, width)
    )
    grey = raw.mean(axis=0, keepdims=True) * channels**0.5
    mixed = grey + 0.3 * raw
    return standardized(mixed)
