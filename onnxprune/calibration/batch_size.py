"""How many samples a batch has, by what a model makes of them."""

from __future__ import annotations

import math

from onnxprune.calibration.samples import Samples
from onnxprune.cost.measure import static_shapes
from onnxprune.model.model import Model
from onnxprune.model.skeleton import inlined_skeleton
from onnxprune.runtime.io_slices import WHOLE, IoSlices

ELEMENT = 4
"""Bytes of an element of an activation."""
LARGEST = 2**23
"""Bytes up to which activations are made of memory that was freed: threads have heaps of 64 MB with glibc, which are
given back as soon as they are empty."""


def small_batches(model: Model, samples: Samples, io_slices: IoSlices = WHOLE) -> Samples:
    """The samples in batches whose activations have at most `LARGEST` bytes each, where the model takes any number.

    A larger array is made of new pages by the system each time, which can take as long as the operator that fills it.

    Args:
        model: The model that they feed.
        samples: The samples.
        io_slices: What inputs of the model lost.
    """
    feeds = dict(next(iter(io_slices.batches(samples.silent()))))
    shapes = static_shapes(inlined_skeleton(model.proto), {name: array.shape for name, array in feeds.items()})
    largest = ELEMENT * max(map(math.prod, shapes.values()), default=0)
    return samples if largest <= LARGEST else samples.in_batches(max(1, samples.size(feeds) * LARGEST // largest))
