"""Batches for training: samples in random order, shifted, flipped and mixed where that is natural."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration import Samples
from onnxprune.calibration.disk_cache import DiskCache
from onnxprune.calibration.signature import signature_of
from onnxprune.gradients.trainable import bytes_of_batch
from onnxprune.graph.graph import Graph
from onnxprune.graph.shape_inference import infer
from onnxprune.model.model import Model
from onnxprune.repair.augmentation import Augmentation
from onnxprune.runtime.io_slices import WHOLE, Batch, IoSlices

BATCH = 32
"""Samples a step of the optimizer at most."""
FEWEST_STEPS = 8
"""Steps an epoch, at least, where there are as many samples."""
MIXED = 0.5
"""Share of the samples that another one is mixed into (Zhang et al., "mixup", ICLR 2018)."""


class TrainingBatches:
    """Samples, held in memory or in files, from which batches of one shape are made.

    The model may take fewer samples at a time than a step of the optimizer is to see: a step then has several batches.

    Attributes:
        alike: Whether all samples have the same shapes.
        steps: Steps of the optimizer in an epoch.
    """

    def __init__(
        self,
        samples: Samples,
        store: DiskCache,
        augmentation: Augmentation | None,
        size: int,
        most: int,
        seed: int,
        targets: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> None:
        """Reads the samples.

        Args:
            samples: The samples.
            store: What holds them.
            augmentation: How samples are varied; None where they are not.
            size: Samples a step.
            most: Samples a batch, at most.
            seed: Seed of the order and of all variations.
            targets: What comes with the samples and is mixed as they are, by name; shape (samples, ...).
        """
        self._feeds, shapes = store, set()
        for feeds in samples.in_batches(1).silent().batches():
            self._feeds.append(feeds)
            shapes.add(tuple((name, array.shape) for name, array in feeds.items()))
        self._targets = targets or {}
        floats = all(array.dtype.kind == "f" for array in self._feeds[0].values()) if len(self._feeds) else False
        self._mixes = bool(augmentation) and (floats or not self._targets)
        axes = samples.axes
        self._axes = None if axes is None else {**axes, **dict.fromkeys(self._targets, 0)}
        self.alike = len(shapes) == 1
        size = max(1, min(size, len(self._feeds)))
        self._batch = min(size, most) if samples.joined and self.alike else 1
        self._step = size // self._batch * self._batch
        self.steps = len(self._feeds) // self._step
        self._augmentation, self._seed = augmentation, seed

    def plain(self) -> Iterator[Batch]:
        """The batches as they are; samples that do not fill one are left out."""
        for i in range(0, len(self._feeds) - self._batch + 1, self._batch):
            yield self._joined([self._sample(j) for j in range(i, i + self._batch)])

    def epoch(self, number: int) -> Iterator[list[Batch]]:
        """The batches of each step of one epoch."""
        rng = np.random.default_rng([self._seed, 3, number])
        order = rng.permutation(len(self._feeds))
        for start in range(0, self.steps * self._step, self._step):
            chosen = [self._varied(int(i), rng) for i in order[start : start + self._step]]
            yield [self._joined(chosen[i : i + self._batch]) for i in range(0, self._step, self._batch)]

    def _sample(self, index: int) -> Batch:
        """A sample as it is, with its targets."""
        return {**self._feeds[index], **{name: array[index] for name, array in self._targets.items()}}

    def _varied(self, index: int, rng: np.random.Generator) -> Batch:
        """A sample, shifted and mixed with another one."""
        if not self._augmentation:
            return self._sample(index)
        feeds = self._augmentation.varied(self._sample(index), rng)
        if not self.alike or rng.random() >= MIXED or not self._mixes:
            return feeds
        other = self._augmentation.varied(self._sample(int(rng.integers(len(self._feeds)))), rng)
        share = rng.random()
        return {name: _mixed(array, other[name], share) for name, array in feeds.items()}

    def _joined(self, feeds: Sequence[Batch]) -> Batch:
        if len(feeds) == 1 or self._axes is None:
            return feeds[0]
        return {name: np.concatenate([f[name] for f in feeds], axis=self._axes[name]) for name in feeds[0]}


def training_batches(
    model: Model,
    student: Model,
    samples: Samples,
    seed: int,
    memory: int,
    *,
    io_slices: IoSlices = WHOLE,
    targets: Mapping[str, NDArray[np.float32]] | None = None,
    varied: bool = True,
) -> TrainingBatches:
    """The batches of a training, as large as memory allows.

    Args:
        model: The model that the samples are for; whether flips are natural is told by it.
        student: The model that is trained.
        samples: The samples.
        seed: Seed of the order and of all variations.
        memory: Bytes of activations and samples to hold.
        io_slices: What inputs of the student lost.
        targets: See `TrainingBatches`.
        varied: Whether samples are shifted, flipped and mixed.
    """
    graph = Graph(model.proto)
    infer(graph)
    augmentation = Augmentation(model, graph, samples.in_batches(1), seed) if varied else None
    first = io_slices.feeds(next(samples.in_batches(1).silent().batches()))
    most = max(1, memory // 2 // bytes_of_batch(student, first))
    store = DiskCache(signature_of(model.proto), memory // 4)
    size = max(1, min(BATCH, samples.parts // FEWEST_STEPS))
    return TrainingBatches(samples, store, augmentation, size, most, seed, targets)


def _mixed(first: NDArray[np.floating], second: NDArray[np.floating], share: float) -> NDArray[np.floating]:
    """The mean of two arrays with weights `share` and the rest; whole numbers are those of the first."""
    if first.dtype.kind != "f":
        return first
    return (share * first + (1 - share) * second).astype(first.dtype)
