"""Synthetic inputs: random inputs in the value range that the model was trained with, for runs without data.

A model does not store the range of its inputs, but it can be inferred: a few inputs in each candidate range are run,
and the most plausible range is used (`plausibility`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnxprune.calibration.plausibility import Plausibility
from onnxprune.calibration.synthetic_images import pictures
from onnxprune.calibration.synthetic_signals import along_time, signals, sounds
from onnxprune.cost.measure import counted_shapes, measure
from onnxprune.errors import RunError
from onnxprune.model.inputs import fed_inputs
from onnxprune.model.model import Model
from onnxprune.runtime.axis_lengths import Sizes
from onnxprune.runtime.batching import why_not_joined
from onnxprune.runtime.sample_inputs import candidate_sizes, input_dims, sample_inputs
from onnxprune.runtime.session import session

Feeds = dict[str, NDArray[np.generic]]

BATCH = 32
FEW_PROBES, FINALISTS, PROBES = 3, 4, 12
"""Samples to compare all ranges on, how many are then left, and samples to compare those on."""
MAX_ELEMENTS, MAX_ACTIVATIONS, MIN_SAMPLES, MAX_SAMPLES = 9_000_000, 36_000_000, 64, 384
"""Default number of samples, within these bounds: as many as have `MAX_ELEMENTS` elements in total, and no activation
of the model more than `MAX_ACTIVATIONS`, since activations are what a run holds and moves. No batch has more either,
and free axes have lengths at which a sample has not."""
MAX_MACS, MIN_SAMPLES_LARGE = 500_000_000_000, 16
"""Fewer samples, down to `MIN_SAMPLES_LARGE`, if they would take more than `MAX_MACS` multiply-accumulates in total, or
if one alone has more than `MAX_ACTIVATIONS`."""


@dataclass(frozen=True)
class Range:
    """A value range of float inputs: images are ``factor * image + shift``, all others ``factor * noise``.

    Attributes:
        factor: Scale.
        shift: Offset.
        slope: Spectral slope of the noise, see `synthetic_signals.signals`; None for sounds.
    """

    factor: float
    shift: float
    slope: float | None = 0.0


PICTURES = (
    Range(1, 0),
    Range(2, -1),
    Range(4.4, -2.1),
    Range(12, -5.6),
    Range(40, -19),
    Range(100, -47),
    Range(255, 0),
    Range(255, -118),
)
"""[0, 1]; [-1, 1]; standardized per channel; ranges in between; [0, 255]; [0, 255] minus the mean."""
SIGNALS = tuple(Range(factor, 0, slope) for factor in (1, 0.1, 10, 100) for slope in (0, 1, None))
"""White noise, 1/f noise and sounds, with several standard deviations."""


def synthetic(
    model: Model,
    count: int | None = None,
    seed: int = 0,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    varied: bool = False,
) -> list[Feeds]:
    """Returns synthetic inputs; equal seeds give equal inputs.

    Args:
        model: The model.
        count: Number of samples; None for a default that depends on the size of a sample and the cost of the model.
        seed: Seed of the random numbers.
        input_shapes: Shapes by input name, see `sample_inputs.input_dims`.
        varied: Whether to use all ranges in turn instead of the most plausible one.

    Returns:
        Batches of feeds; of one sample each if the batch axes are fixed.

    Raises:
        InputError: As in `sample_inputs.input_dims`.
    """
    generator = _generator(model, input_shapes)
    ranges = PICTURES if generator.pictures else SIGNALS if generator.floats else (Range(1, 0),)
    if len(ranges) > 1 and not varied:
        plausibility = Plausibility(model)
        for probes, left in ((FEW_PROBES, FINALISTS), (PROBES, 1)):
            scores = [plausibility.deviation(generator.feeds(probes, seed, [candidate])) for candidate in ranges]
            ranges = tuple(ranges[i] for i in np.argsort(scores, kind="stable")[:left])
    if count is None:
        least = MIN_SAMPLES if generator.activations <= MAX_ACTIVATIONS else MIN_SAMPLES_LARGE
        by_size = min(MAX_ELEMENTS // generator.elements, MAX_ACTIVATIONS // generator.activations)
        macs = measure(model, generator.shapes).macs or 1
        count = max(MIN_SAMPLES_LARGE, min(MAX_MACS // macs, MAX_SAMPLES, max(least, by_size)))
    return generator.feeds(count, seed, ranges)


def _generator(model: Model, input_shapes: Mapping[str, Sequence[int]] | None) -> _Generator:
    """Returns a generator of inputs that the model runs with, where it runs at all.

    Free axes have the first lengths that the model takes, of those at which its activations are small if there are
    any; samples are joined where that does not change its outputs.
    """
    generators = [_Generator(model, input_shapes, sizes) for sizes in candidate_sizes(model.proto, input_shapes)]
    generator = generators[0]
    if len(generators) == 1 and not generator.free:
        return generator
    runner = session(model)
    for other in _small_first(generators) if len(generators) > 1 else ():
        try:
            runner.run(None, sample_inputs(model.proto, input_shapes=input_shapes, sizes=other.sizes))
        except RunError as error:
            if error.fatal:
                return generator
        else:
            generator = other
            break
    generator.free = generator.free and why_not_joined(runner, *generator.pair()) is None
    return generator


def _small_first(generators: Sequence[_Generator]) -> Iterator[_Generator]:
    """Yields those of small activations in their order, then the others from the smallest up."""
    large = []
    for generator in generators:
        if generator.activations <= MAX_ACTIVATIONS:
            yield generator
        else:
            large.append(generator)
    yield from sorted(large, key=lambda g: g.activations)


class _Generator:
    """Generates inputs of one model.

    Attributes:
        sizes: Lengths of free axes; a model that takes no single samples counts as many as it takes as one.
        shapes: Shapes of the inputs of one sample.
        free: Whether the first axis of every input is a batch axis, for any number of samples.
        floats: Names of the inputs of floats.
        pictures: Names of those that are images.
        elements: Elements of the largest input of one sample.
    """

    def __init__(self, model: Model, input_shapes: Mapping[str, Sequence[int]] | None, sizes: Sizes) -> None:
        self._model, self._given, self.sizes = model, input_shapes, sizes
        proto = model.proto
        batch = sizes.batch
        one, two = (input_dims(proto, input_shapes, replace(sizes, batch=n * batch)) for n in (1, 2))
        self.free = all(two[n][:1] == (2 * batch,) and one[n][:1] == (batch,) for n in one)
        self.shapes = one
        kinds = {
            v.name: helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type)
            for v in fed_inputs(proto.graph)
            if v.type.tensor_type.elem_type != onnx.TensorProto.STRING
        }
        self.floats = [n for n, kind in kinds.items() if kind.kind == "f"]
        bytes_ = [n for n, kind in kinds.items() if kind.kind in "iu" and kind.itemsize == 1]
        self.pictures = [n for n in self.floats if _channel_axis(one[n]) is not None]
        self._bytes = [n for n in bytes_ if _channel_axis(one[n]) is not None]
        self.elements = max([1, *(math.prod(s) for s in one.values())])

    @cached_property
    def activations(self) -> int:
        """Elements of the largest value that the model computes of one sample, as far as shapes are known."""
        return max([1, *(math.prod(shape) for shape in counted_shapes(self._model, self.shapes).values())])

    def feeds(self, count: int, seed: int, ranges: Sequence[Range]) -> list[Feeds]:
        """Returns batches of `count` samples in total, which use the ranges in turn."""
        largest = min(BATCH, MAX_ELEMENTS // 8 // self.elements, MAX_ACTIVATIONS // self.activations)
        size = max(1, largest) if self.free else 1
        sizes = [min(size, count - start) for start in range(0, count, size)]
        return [self._batch(n, [seed, i], ranges[i % len(ranges)]) for i, n in enumerate(sizes)]

    def pair(self) -> tuple[Feeds, list[Feeds]]:
        """Returns two samples in one batch, and the same samples one by one."""
        feeds, rows = self._batch(2, [0], Range(1, 0)), self.sizes.batch
        return feeds, [{name: array[i * rows : (i + 1) * rows] for name, array in feeds.items()} for i in range(2)]

    def _batch(self, size: int, seed: Sequence[int], how: Range) -> Feeds:
        rng = np.random.default_rng(seed)
        sizes, first = replace(self.sizes, batch=size * self.sizes.batch), int(rng.integers(2**31))
        found: Feeds = dict(sample_inputs(self._model.proto, seed=first, input_shapes=self._given, sizes=sizes))
        for name in [*self.floats, *self._bytes]:
            shape, kind = found[name].shape, found[name].dtype
            if name not in self.pictures and name not in self._bytes:
                if found[name].ndim and found[name].size and "mask" not in name.lower():
                    found[name] = (how.factor * along_time(partial(_signal, rng, how.slope), shape)).astype(kind)
                continue
            at = _channel_axis(shape) or 1
            height, width = (n for i, n in enumerate(shape) if i not in (0, at))
            made = np.moveaxis(pictures(rng, shape[0], shape[at], height, width), 1, at)
            lowest = -128 if kind == np.int8 else 0
            made = np.rint(made * 255) + lowest if name in self._bytes else how.factor * made + how.shift
            found[name] = np.ascontiguousarray(made, dtype=kind)
        return found


def _signal(rng: np.random.Generator, slope: float | None, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Returns noise of a spectral slope along the last axis, or sounds if the slope is None."""
    return sounds(rng, shape) if slope is None else signals(rng, shape, slope)


def _channel_axis(shape: Sequence[int]) -> int | None:
    """Returns the channel axis of an image batch; None if the shape is not that of images."""
    if len(shape) != 4:
        return None
    for axis, space in ((1, shape[2:]), (3, shape[1:3])):
        if shape[axis] <= 4 and min(space) >= 8:
            return axis
    return None
