"""How far models are from the one that they came from, on given inputs: run side by side, batch by batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.model.model import Model
from onnxprune.runtime.io_slices import WHOLE, Batch, IoSlices
from onnxprune.runtime.session import session
from onnxprune.verification.comparable_outputs import scored

Array = NDArray[Any]
Floats = NDArray[np.float64]


def relative_errors(
    original: Model, others: Sequence[Model], batches: Iterable[Batch], io_slices: IoSlices = WHOLE
) -> list[float]:
    """Relative squared error of models' outputs: error over variance, in the mean over the outputs, see `Errors`.

    In place of a choice it is that of the scores behind it, see `logits.scored`.

    Args:
        original: What the others came from.
        others: Models with its interface, but for what `io_slices` took.
        batches: Inputs of the original.
        io_slices: What inputs and outputs of the others lost.

    Returns:
        One number a model, see `Errors.shares`.

    Raises:
        RunError: onnxruntime does not take a model or the inputs.
    """
    names = [o.name for o in original.proto.graph.output]
    errors = Errors(len(others))
    models = [original, *others]
    reference, *sessions = [session(scored(m)) for m in models]
    given, *rest = itertools.tee(batches, len(models))
    made = [one.each(io_slices.batches(part)) for one, part in zip(sessions, rest, strict=True)]
    for whole, *others_made in zip(reference.each(given), *made, strict=True):
        errors.add(io_slices.arrays(names, whole), others_made)
    return errors.shares()


class Errors:
    """Squared errors of outputs over their variance, summed up batch by batch.

    Outputs of floats count, where they should be finite: a score that is masked by minus infinity has no distance.
    """

    def __init__(self, models: int) -> None:
        """Begins with nothing, for so many models."""
        self._wrong: list[Floats] = []
        self._moments: list[Floats] = []
        self._models = models

    def add(self, wanted: Sequence[Array], made: Sequence[Sequence[Array]]) -> None:
        """Takes in a batch: each output as it should be, and for each model as that makes it."""
        targets = [np.asarray(w, dtype=np.float64) if np.asarray(w).dtype.kind == "f" else None for w in wanted]
        if not self._moments:
            self._moments = [np.zeros(3) for _ in targets]
            self._wrong = [np.zeros(self._models) for _ in targets]
        for moments, wrong, target, *outputs in zip(self._moments, self._wrong, targets, *made, strict=True):
            if target is not None:
                known = np.isfinite(target)
                if not known.all():
                    target, outputs = target[known], [output[known] for output in outputs]
                moments += [target.size, target.sum(), np.square(target).sum()]
                wrong += [np.square(target - output).sum() for output in outputs]

    def shares(self) -> list[float]:
        """For each model the mean over the outputs; infinite where one is not finite and should be."""
        found = [
            np.where(np.isfinite(wrong), wrong, np.inf) / max(second - first * first / count, 1e-30)
            for wrong, (count, first, second) in zip(self._wrong, self._moments, strict=True)
            if count
        ]
        return [float(s) for s in np.mean(found, axis=0)] if found else [0.0] * self._models
