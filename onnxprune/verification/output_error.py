"""Squared error of models' outputs against those of the model that they came from, on given inputs."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.model.model import Model
from onnxprune.runtime.io_slices import WHOLE, Batch, IoSlices
from onnxprune.runtime.session import session
from onnxprune.verification.comparable_outputs import Component, with_comparable_outputs, with_scores
from onnxprune.verification.output_values import OutputValues, Reference, Values, class_shares

Array = NDArray[Any]
Floats = NDArray[np.float64]

BLOCK = 2**20
"""Elements of outputs that are compared at a time."""


def relative_errors(
    original: Model, others: Sequence[Model], batches: Iterable[Batch], io_slices: IoSlices = WHOLE
) -> list[float]:
    """Relative squared error of models' outputs: error over variance, averaged over the outputs.

    Args:
        original: The reference model.
        others: Models with its interface, but for what `io_slices` removed.
        batches: Inputs of the original.
        io_slices: What inputs and outputs of the others lost.

    Returns:
        One number a model, see `Errors.shares`.

    Raises:
        RunError: onnxruntime does not take a model or the inputs.
    """
    return measured(original, others, batches, io_slices).shares()


def measured(
    original: Model,
    others: Sequence[Model],
    batches: Iterable[Batch],
    io_slices: IoSlices = WHOLE,
    *,
    unsquash: bool = False,
) -> Errors:
    """Runs models side by side, batch by batch, and collects the errors of their outputs.

    Where an output is a choice (a class id, say), the scores that it was chosen by are compared instead, see
    `comparable_outputs.with_comparable_outputs`.

    Args:
        original: See `relative_errors`, and so for the next three.
        others: See there.
        batches: See there.
        io_slices: See there.
        unsquash: Whether outputs are compared before a final softmax (`comparable_outputs.with_comparable_outputs`): a
            saturated softmax hides errors. Models that lost slices of outputs are compared as they are.

    Raises:
        RunError: onnxruntime does not take a model or the inputs.
    """
    outputs = side_by_side([original, *others], batches, io_slices, unsquash=unsquash)
    errors = Errors(len(others), outputs.components)
    for whole, *parts in outputs.batches:
        errors.add(whole, parts)
    return errors


@dataclass(frozen=True)
class SideBySide:
    """Outputs of several models on the same inputs.

    Attributes:
        components: What the outputs are; None where they are those of the models, with choices as scores.
        batches: For each batch the outputs of each model, the original first.
    """

    components: Sequence[Component] | None
    batches: Iterator[list[list[Array]]]


def side_by_side(
    models: Sequence[Model], batches: Iterable[Batch], io_slices: IoSlices = WHOLE, *, unsquash: bool = False
) -> SideBySide:
    """Runs an original and other models batch by batch; the arguments are those of `measured`."""
    original, *others = models
    models = [without_outputs(original, io_slices.gone), *others]
    names = io_slices.left([o.name for o in original.proto.graph.output])
    views = [with_comparable_outputs(m) for m in models] if unsquash and not io_slices.removed else []
    compared = [[o.name for o in view.proto.graph.output] for view, _ in views]
    components = None
    if views and all(c == compared[0] for c in compared):
        names, components = compared[0], views[0][1]
        reference, *sessions = [session(view) for view, _ in views]
    else:
        reference, *sessions = [session(with_scores(m)) for m in models]

    def run() -> Iterator[list[list[Array]]]:
        given, *rest = itertools.tee(batches, len(models))  # in one pass: a reader may have no two at a time
        made = [one.each(io_slices.batches(part)) for one, part in zip(sessions, rest, strict=True)]
        for whole, *parts in zip(reference.each(given), *made, strict=True):
            yield [io_slices.arrays(names, whole), *parts]

    return SideBySide(components, run())


def without_outputs(model: Model, names: Collection[str]) -> Model:
    """A model that does not return what another one lacks."""
    if not names:
        return model
    copy = model.copy()
    outputs = [out for out in copy.proto.graph.output if out.name not in names]
    del copy.proto.graph.output[:]
    copy.proto.graph.output.extend(outputs)
    return copy


class Errors:
    """Squared errors of outputs of some models, batch by batch.

    Only outputs of floats count, and of these only elements that are finite in the original: a score that is masked
    with minus infinity has no distance. Outputs that decide at many positions are weighted, see `output_values`.
    """

    def __init__(self, models: int, components: Sequence[Component] | None = None) -> None:
        """Sums for a number of models, of no batch yet.

        Args:
            models: How many models are compared with the original.
            components: What the outputs are; None where they are compared as they are.
        """
        self._models, self._values = models, OutputValues(components)
        self._batches: list[dict[int, Floats]] = []
        self._totals: dict[int, OutputTotals] = {}

    def add(self, wanted: Sequence[Array], made: Sequence[Sequence[Array]]) -> None:
        """Adds a batch: the outputs of the original, and those of each model."""
        self.add_values(self._values.reference(wanted), [self._values.of(outputs) for outputs in made])

    def add_values(self, wanted: Sequence[Reference | None], made: Sequence[Sequence[Values | None]]) -> None:
        """Adds a batch of compared values."""
        batch: dict[int, Floats] = {}
        for i, (target, *others) in enumerate(zip(wanted, *made, strict=True)):
            if target is not None:
                batch[i] = np.stack([_squared_errors(target, o.array) for o in others if o is not None], axis=1)
                self._totals.setdefault(i, OutputTotals()).add(target)
        self._batches.append(batch)

    def extend(self, other: Errors) -> None:
        """Adds the batches of other measurements of as many models."""
        self._batches += other._batches
        for key, totals in other._totals.items():
            self._totals.setdefault(key, OutputTotals()).extend(totals)

    def by_batch(self) -> Floats:
        """What each batch adds to `shares`; shape (batches, models). Infinite where an output should be finite."""
        found = np.zeros((len(self._batches), self._models))
        used = {key: totals.scale() for key, totals in self._totals.items() if totals.elements}
        for n, batch in enumerate(self._batches):
            for key, wrong in batch.items():
                if key in used:
                    found[n] += used[key] @ np.where(np.isfinite(wrong), wrong, np.inf) / len(used)
        return found

    def shares(self) -> list[float]:
        """For each model the squared error over the variance, averaged over the outputs; may be infinite."""
        return [float(s) for s in self.by_batch().sum(axis=0)]


class OutputTotals:
    """Sums over batches of one output of the original, by classes of positions."""

    def __init__(self) -> None:
        self.elements = 0
        self._channels = 1
        self._sums = np.zeros((3, 1))

    def add(self, target: Reference) -> None:
        """Adds a batch."""
        array, sums = target.array, np.zeros((3, len(target.array)))
        for rows in _blocks(array):
            values = array[rows].astype(np.float64, copy=False)
            sums[0, rows] = array.shape[1] if target.known is None else target.known[rows].sum(axis=1)
            sums[1, rows] = values.sum(axis=1)
            sums[2, rows] = np.square(values).sum(axis=1)
        self.elements += int(sums[0].sum())
        self._channels = max(array.shape[1], 1)
        weights = np.ones((1, len(array))) if target.weights is None else target.weights.astype(np.float64)
        self._sums = self._sums + np.stack([weights @ by_position for by_position in sums])

    def extend(self, other: OutputTotals) -> None:
        """Adds the sums of other batches."""
        self.elements += other.elements
        self._channels = other._channels
        self._sums = self._sums + other._sums

    def shares(self) -> Floats:
        """What the elements of each class are multiplied by, so that all weights together are 1."""
        weight = self._sums[0]
        found: Floats = class_shares(weight / self._channels) / np.maximum(weight, 1e-30)
        return found

    def scale(self) -> Floats:
        """What the squared errors of each class are multiplied by, so that their sum is a share of the variance."""
        _, total, square = self._sums
        shares = self.shares()
        variance = float(shares @ square - np.square(shares @ total))
        found: Floats = shares / max(variance, 1e-30)
        return found


def _blocks(array: Array) -> Iterator[slice]:
    """Yields ranges of positions of at most `BLOCK` elements, or of one position: copies as doubles stay small."""
    step = max(1, BLOCK // max(array.shape[1], 1))
    for start in range(0, len(array), step):
        yield slice(start, start + step)


def _squared_errors(target: Reference, made: Array) -> Floats:
    """Weighted sums of the squared errors, one a class."""
    if target.array.shape != made.shape:  # as long as what was found: without a distance
        return np.full(1 if target.weights is None else len(target.weights), np.inf)
    by_position = np.zeros(len(made))
    for rows in _blocks(made):
        wrong = np.square(np.subtract(target.array[rows], made[rows], dtype=np.float64))
        if target.known is not None:
            wrong = np.where(target.known[rows], wrong, 0.0)
        by_position[rows] = wrong.sum(axis=1)
    found: Floats = np.array([by_position.sum()]) if target.weights is None else target.weights @ by_position
    return found
