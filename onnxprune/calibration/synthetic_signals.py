"""Synthetic signals: noise of a spectral slope, and sounds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.polynomial.polynomial import polyval
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

BLOCK = 2**14
"""Values of sounds that are computed together; longer signals are computed one by one."""

Rows = TypeVar("Rows", Doubles, list[Any])


def along_time(make: Callable[[tuple[int, ...]], Floats], shape: tuple[int, ...]) -> Floats:
    """Returns signals of any layout, such as (batch, channels, samples) and (batch, samples, channels).

    Time is the longest axis other than the first one, the last of them where several are equally long.

    Args:
        make: Returns signals of a given shape, whose last axis is time.
        shape: The shape of the result.
    """
    if len(shape) < 3:
        return make(shape)
    axis = max(range(1, len(shape)), key=lambda i: (shape[i], i))
    made = make((*shape[:axis], *shape[axis + 1 :], shape[axis]))
    return np.ascontiguousarray(np.moveaxis(made, -1, axis))


def signals(rng: np.random.Generator, shape: tuple[int, ...], slope: float) -> Floats:
    """Returns noise with amplitudes proportional to frequency ** -slope along the last axis; mean 0, variance 1."""
    return standardized(_colored(rng.standard_normal(shape), slope))


def sounds(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Returns sounds: tones with harmonics and bursts of noise along the last axis, over faint background noise.

    As in speech, most of a signal is quiet, and its events have a pitch and a spectral color; mean variance 1.
    """
    length = shape[-1]
    rows = np.empty((math.prod(shape[:-1]), length))
    for part in _blocks(rows, length):
        _fill(part, [_Sound.draw(rng, length) for _ in part])
    loud: Floats = (rows / (rows.std() + 1e-6)).reshape(shape).astype(np.float32)
    return loud


def standardized(raw: Doubles, axis: int | None = None) -> Floats:
    """Shifts and scales an array to mean 0 and variance 1, as a whole or along an axis."""
    mean, deviation = (f(axis=axis, keepdims=True) for f in (raw.mean, raw.std))
    made: Floats = ((raw - mean) / (deviation + 1e-6)).astype(np.float32)
    return made


@dataclass(frozen=True)
class _Noise:
    """What a noise is computed from: a spectral slope and white noise."""

    slope: float
    white: Doubles

    @classmethod
    def draw(cls, rng: np.random.Generator, length: int, low: float, high: float) -> _Noise:
        return cls(rng.uniform(low, high), rng.standard_normal(length))


@dataclass(frozen=True)
class _Tone:
    """A tone of gliding frequency: cycles in the whole signal, their relative change, and frequencies of resonances."""

    base: float
    glide: float
    peaks: Doubles

    @classmethod
    def draw(cls, rng: np.random.Generator, length: int) -> _Tone:
        return cls(length * 10 ** rng.uniform(-2.3, -1.5), rng.normal(0, 0.1), rng.uniform(0.02, 0.3, 3) * length)


@dataclass(frozen=True)
class _Swell:
    """When an event is heard: middle and width as shares of the signal, and its largest amplitude."""

    middle: float
    width: float
    loudness: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> _Swell:
        return cls(rng.uniform(0.1, 0.9), rng.uniform(0.02, 0.2), 10 ** rng.uniform(-1, 0))


@dataclass(frozen=True)
class _Sound:
    """The random numbers of one sound."""

    loudness: float
    background: _Noise
    events: list[tuple[_Swell, _Tone | _Noise]] = field(default_factory=list)

    @classmethod
    def draw(cls, rng: np.random.Generator, length: int) -> _Sound:
        sound = cls(10 ** rng.uniform(-3, -1), _Noise.draw(rng, length, 0, 0.8))
        for _ in range(rng.integers(1, 6)):
            swell = _Swell.draw(rng)
            is_tone = rng.random() < 0.6
            sound.events.append((swell, _Tone.draw(rng, length) if is_tone else _Noise.draw(rng, length, -0.5, 1)))
        return sound


def _fill(rows: Doubles, drawn: Sequence[_Sound]) -> None:
    """Computes sounds, all of their noises and all of their tones at once; shape of `rows` is (sounds, length)."""
    loudness = np.array([[s.loudness] for s in drawn], np.float32)
    rows[:] = loudness * _noises([s.background for s in drawn])
    swells, kinds = zip(*(event for s in drawn for event in s.events), strict=True)
    heard = iter(_amplitudes(swells, rows.shape[1]) * _waves(kinds, rows.shape[1]))
    for row, sound in zip(rows, drawn, strict=True):
        for wave in itertools.islice(heard, len(sound.events)):
            row += wave


def _amplitudes(swells: Sequence[_Swell], length: int) -> Doubles:
    """Returns the amplitudes of events over time; shape (events, length)."""
    middle, width, loudness = np.array([(s.middle, s.width, s.loudness) for s in swells]).T[..., None]
    amplitudes: Doubles = np.exp(-0.5 * np.square((_time(length) - middle) / width)) * loudness
    return amplitudes


def _waves(kinds: Sequence[_Tone | _Noise], length: int) -> Floats:
    """Returns standardized tones and noises; shape (events, length)."""
    waves = np.empty((len(kinds), length), np.float32)
    tones = [(i, k) for i, k in enumerate(kinds) if isinstance(k, _Tone)]
    noises = [(i, k) for i, k in enumerate(kinds) if isinstance(k, _Noise)]
    for part in _blocks(tones, length):
        waves[[i for i, _ in part]] = _tones([k for _, k in part], length)
    for block in _blocks(noises, length):
        waves[[i for i, _ in block]] = _noises([k for _, k in block])
    return waves


def _blocks(rows: Rows, length: int) -> Iterator[Rows]:
    """Yields parts of rows of a length, each of at most `BLOCK` values or one row."""
    together = max(1, BLOCK // max(1, length))
    for start in range(0, len(rows), together):
        yield rows[start : start + together]


def _noises(drawn: Sequence[_Noise]) -> Floats:
    """Returns standardized noises; shape (noises, length)."""
    return standardized(_colored(np.array([n.white for n in drawn]), np.array([[n.slope] for n in drawn])), axis=-1)


def _colored(white: Doubles, slope: float | Doubles) -> Doubles:
    """Multiplies amplitudes by frequency ** -slope along the last axis."""
    length = white.shape[-1]
    frequencies = np.maximum(np.fft.rfftfreq(length) * length, 1.0)
    return np.fft.irfft(np.fft.rfft(white) * frequencies**-slope, n=length)


def _tones(drawn: Sequence[_Tone], length: int) -> Floats:
    """Returns standardized tones with harmonics, amplified near three resonances; shape (tones, length)."""
    base, glide = np.array([(t.base, t.glide) for t in drawn]).T[..., None]
    peaks = np.array([t.peaks for t in drawn])
    time = _time(length)
    phase = 2 * np.pi * base * (time + glide * np.square(time))
    highest = np.maximum(1, (0.45 * length / base).astype(int) - 1)
    orders = np.arange(1, highest.max() + 1)
    away = (orders * base)[..., None] - peaks[:, None]
    loud = np.exp(-0.5 * np.square(away / (0.03 * length))).sum(axis=-1) + 0.05
    # The sum of loud_k / sqrt(k) * sin(k * phase), as a polynomial of exp(i * phase).
    weights = np.where(orders <= highest, loud / orders**0.5, 0.0)
    powers = np.concatenate([np.zeros((1, len(drawn), 1)), weights.T[..., None]])
    return standardized(polyval(np.exp(1j * phase), powers, tensor=False).imag, axis=-1)


def _time(length: int) -> Doubles:
    return np.linspace(0, 1, length, endpoint=False)
