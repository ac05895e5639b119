"""Lengths to try for the free axes of a model's inputs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Lengths of free axes, by the guessed meaning of the axis."""

    batch: int = 1
    spatial: int = 64
    sequence: int = 8
    channels: int = 3


CLIPS = (8, 16)
"""Lengths of a batch to try for a model that takes no single samples: it folds the frames of a clip into the batch."""
SIZES = (
    *(Sizes(spatial=length) for length in (64, 128, 224, 256, 32)),
    *(Sizes(sequence=length) for length in (16, 128, 1024, 16_384)),
    *(Sizes(batch=length) for length in CLIPS),
)
"""Lengths to try in turn for a model that does not take the first ones: images are scaled to a fixed size, and a signal
must be longer than the windows that are cut out of it (16,384 samples are a second of sound)."""
