"""Squared error of models' outputs against those of the model that they came from, on given inputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.model.model import Model
from onnxprune.runtime.io_slices import WHOLE, Batch, IoSlices
from onnxprune.runtime.session import session
from onnxprune.verification.comparable_outputs import with_comparable_outputs, with_scores

Array = NDArray[Any]
Floats = NDArray[np.float64]


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
    models = [original, *others]
    names = [o.name for o in original.proto.graph.output]
    views = [with_comparable_outputs(m) for m in models] if unsquash and not io_slices.removed else []
    compared = [[o.name for o in view.proto.graph.output] for view, _ in views]
    if views and all(c == compared[0] for c in compared):
        names, centres = compared[0], views[0][1]
        reference, *sessions = [session(view) for view, _ in views]
    else:
        centres = [np.asarray] * len(names)
        reference, *sessions = [session(with_scores(m)) for m in models]
    errors = Errors(len(others))
    given, *rest = itertools.tee(batches, len(models))
    made = [one.each(io_slices.batches(part)) for one, part in zip(sessions, rest, strict=True)]
    for arrays in zip(reference.each(given), *made, strict=True):
        whole, *parts = ([centre(a) for centre, a in zip(centres, some, strict=True)] for some in arrays)
        errors.add(io_slices.arrays(names, whole), parts)
    return errors


class Errors:
    """Squared errors of outputs of some models, batch by batch.

    Only outputs of floats count, and of these only elements that are finite in the original: a score that is masked
    with minus infinity has no distance.

    Attributes:
        wrong: For each batch the sums of squared errors; shape (outputs, models).
        moments: For each batch count, sum and sum of squares of the original's outputs; shape (outputs, 3).
    """

    def __init__(self, models: int) -> None:
        """Sums for a number of models, of no batch yet."""
        self.wrong: list[Floats] = []
        self.moments: list[Floats] = []
        self._models = models

    def add(self, wanted: Sequence[Array], made: Sequence[Sequence[Array]]) -> None:
        """Adds a batch: the outputs of the original, and those of each model."""
        moments, wrong = np.zeros((len(wanted), 3)), np.zeros((len(wanted), self._models))
        for i, (output, *outputs) in enumerate(zip(wanted, *made, strict=True)):
            if np.asarray(output).dtype.kind != "f":
                continue
            target = np.asarray(output, dtype=np.float64)
            known = np.isfinite(target)
            if not known.all():
                target, outputs = target[known], [other[known] for other in outputs]
            moments[i] = target.size, target.sum(), np.square(target).sum()
            wrong[i] = [np.square(target - other).sum() for other in outputs]
        self.wrong.append(wrong)
        self.moments.append(moments)

    def extend(self, other: Errors) -> None:
        """Adds the batches of other measurements of as many models."""
        self.wrong += other.wrong
        self.moments += other.moments

    def by_batch(self) -> Floats:
        """What each batch adds to `shares`; shape (batches, models). Infinite where an output should be finite."""
        if not self.wrong:
            return np.zeros((0, self._models))
        count, total, squares = np.sum(self.moments, axis=0).T
        used = count > 0
        if not used.any():
            return np.zeros((len(self.wrong), self._models))
        variance = np.maximum(squares[used] - np.square(total[used]) / count[used], 1e-30)
        wrong = np.stack(self.wrong)[:, used]
        found: Floats = np.mean(np.where(np.isfinite(wrong), wrong, np.inf) / variance[:, None], axis=1)
        return found

    def shares(self) -> list[float]:
        """For each model the squared error over the variance, averaged over the outputs; may be infinite."""
        return [float(s) for s in self.by_batch().sum(axis=0)]
