"""Inputs for when there are no data: made of random numbers, in the range that the model was trained for.

The range of the inputs is not written in a model, but it shows. Where BatchNormalization nodes are left, the layers
in front of them must make what the running statistics say. Without, trained layers still stand out by the mean of a
feature being small against its deviation: inputs that are too small leave nothing but biases, inputs that are too
large saturate all that follows. So a few inputs of each candidate run through the model, and the most plausible wins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnxprune.calibration.synthetic_images import pictures, signals, sounds
from onnxprune.cost.measure import measure
from onnxprune.graph.graph import Graph
from onnxprune.graph.shape_inference import infer
from onnxprune.layers.batch_norm import normalizations
from onnxprune.layers.find import linear_layers
from onnxprune.model.inputs import fed_inputs
from onnxprune.model.model import Model
from onnxprune.runtime.sample_inputs import Sizes, input_dims, sample_inputs
from onnxprune.runtime.session import session

Feeds = dict[str, NDArray[np.generic]]

BATCH, PROBES = 32, 12
ELEMENTS, FEWEST, MOST = 9_000_000, 64, 384
"""Samples by default: as many as hold so many elements, within these bounds."""
MACS, LEAST = 500_000_000_000, 16
"""Samples of a large model: fewer, down to these, where they take more multiply-accumulates."""
CAP = 10.0
"""What a feature that is off without bounds counts."""


@dataclass(frozen=True)
class Range:
    """How float inputs are made: pictures as ``factor * picture + shift``, all others as ``factor * noise``.

    Attributes:
        factor: Factor.
        shift: What is added.
        slope: Of noise, see `scenes.signals`; None for sounds.
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
"""[0, 1]; [-1, 1]; mean and deviation of each channel removed; whatever else; bytes; bytes less their mean."""
SIGNALS = tuple(Range(factor, 0, slope) for factor in (1, 0.1, 10, 100) for slope in (0, 1, None))
"""White noise, 1/f noise and sounds, of some deviations."""


def synthetic(
    model: Model,
    count: int | None = None,
    seed: int = 0,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    varied: bool = False,
) -> list[Feeds]:
    """Made-up inputs, ready to feed, the same for the same seed.

    Args:
        model: What they are for.
        count: How many samples; None for as many as the size of one suggests.
        seed: Seed of the random numbers.
        input_shapes: Shapes by input name, see `inputs.input_dims`.
        varied: Whether to take all ranges in turn, not the most plausible one.

    Returns:
        Batches; one sample each where the model fixes its batch axis.

    Raises:
        InputError: As `inputs.input_dims`.
    """
    maker = _Maker(model.proto, input_shapes)
    ranges = PICTURES if maker.pictures else SIGNALS if maker.floats else (Range(1, 0),)
    if len(ranges) > 1 and not varied:
        judge = _Judge(model)
        scores = [judge.score(maker.feeds(PROBES, seed, [candidate])) for candidate in ranges]
        ranges = ranges[int(np.argmin(scores)) :][:1]
    if count is None:
        macs = measure(model, input_shapes).macs or 1
        count = max(LEAST, min(MACS // macs, MOST, max(FEWEST, ELEMENTS // maker.elements)))
    return maker.feeds(count, seed, ranges)


class _Maker:
    """Makes inputs of one model."""

    def __init__(self, proto: onnx.ModelProto, input_shapes: Mapping[str, Sequence[int]] | None) -> None:
        self._proto, self._given = proto, input_shapes
        one, two = (input_dims(proto, input_shapes, Sizes(batch=n)) for n in (1, 2))
        self._free = all(two[n][:1] == (2,) and one[n][:1] == (1,) for n in one)
        self._shapes = one
        kinds = {
            v.name: helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type)
            for v in fed_inputs(proto.graph)
            if v.type.tensor_type.elem_type != onnx.TensorProto.STRING
        }
        self.floats = [n for n, kind in kinds.items() if kind.kind == "f"]
        bytes_ = [n for n, kind in kinds.items() if kind.kind in "iu" and kind.itemsize == 1]
        self.pictures = [n for n in self.floats if _channel_axis(one[n]) is not None]
        self._bytes = [n for n in bytes_ if _channel_axis(one[n]) is not None]
        self.elements = max([1, *(int(np.prod(s)) for s in one.values())])

    def feeds(self, count: int, seed: int, ranges: Sequence[Range]) -> list[Feeds]:
        """Batches of `count` samples in all, of each range in turn."""
        size = max(1, min(BATCH, ELEMENTS // 8 // self.elements)) if self._free else 1
        sizes = [min(size, count - start) for start in range(0, count, size)]
        return [self._batch(n, [seed, i], ranges[i % len(ranges)]) for i, n in enumerate(sizes)]

    def _batch(self, size: int, seed: Sequence[int], how: Range) -> Feeds:
        rng = np.random.default_rng(seed)
        found: Feeds = dict(
            sample_inputs(self._proto, seed=int(rng.integers(2**31)), input_shapes=self._given, batch=size)
        )
        for name in [*self.floats, *self._bytes]:
            shape, kind = found[name].shape, found[name].dtype
            if name not in self.pictures and name not in self._bytes:
                if found[name].ndim and found[name].size and "mask" not in name.lower():
                    made = sounds(rng, shape) if how.slope is None else signals(rng, shape, how.slope)
                    found[name] = (how.factor * made).astype(kind)
                continue
            at = _channel_axis(shape) or 1
            height, width = (n for i, n in enumerate(shape) if i not in (0, at))
            made = np.moveaxis(pictures(rng, shape[0], shape[at], height, width), 1, at)
            lowest = -128 if kind == np.int8 else 0
            made = np.rint(made * 255) + lowest if name in self._bytes else how.factor * made + how.shift
            found[name] = np.ascontiguousarray(made, dtype=kind)
        return found


def _channel_axis(shape: Sequence[int]) -> int | None:
    """Where a picture has its colours; None if the shape is not that of pictures."""
    if len(shape) != 4:
        return None
    for axis, space in ((1, shape[2:]), (3, shape[1:3])):
        if shape[axis] <= 4 and min(space) >= 8:
            return axis
    return None


class _Judge:
    """Tells how much the features of a model look as they did in training."""

    def __init__(self, model: Model) -> None:
        copy = model.copy()
        graph = Graph(copy.proto)
        infer(graph)
        stored = [
            (n.x, model.array(n.mean).astype(float), model.array(n.variance).astype(float))
            for n in normalizations(graph)
            if n.x.producer is not None
        ]
        self._known = {x.name: (mean, variance) for x, mean, variance in stored}
        self._axes = {x.name: 1 for x, _, _ in stored}
        if not stored:
            self._axes = {p.output.name: p.out_axis for p in linear_layers(graph)}
        have = {o.name for o in copy.proto.graph.output}
        copy.proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in self._axes if n not in have)
        self._session = session(copy)

    def score(self, batches: Sequence[Feeds]) -> float:
        """Small where plausible."""
        sums: dict[str, NDArray[np.float64]] = {}
        for feeds in batches:
            for name, array in zip(self._axes, self._session.run(list(self._axes), feeds), strict=True):
                rows = np.moveaxis(array, self._axes[name], 0).reshape(array.shape[self._axes[name]], -1)
                sums[name] = sums.get(name, 0.0) + _powers(rows.astype(np.float64))
        off = [self._off(name, *total) for name, total in sums.items()]
        return float(np.median(np.concatenate(off))) if off else 0.0

    def _off(
        self, name: str, count: NDArray[np.float64], total: NDArray[np.float64], squares: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """How far each feature is off."""
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 1e-20))
        if name in self._known:
            true_mean, true = self._known[name][0], np.sqrt(self._known[name][1] + 1e-20)
            off = np.abs(mean - true_mean) / true + np.abs(np.log(deviation / true))
        else:
            off = np.abs(mean) / deviation
        bounded: NDArray[np.float64] = np.nan_to_num(off, nan=CAP, posinf=CAP)
        return bounded


def _powers(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Count, sum and sum of squares of each row; shape (3, rows)."""
    found: NDArray[np.float64] = np.stack(
        [np.full(len(rows), float(rows.shape[1])), rows.sum(axis=1), np.square(rows).sum(axis=1)]
    )
    return found
