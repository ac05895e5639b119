"""How far models are from the one that they came from, on given inputs: run side by side, batch by batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from onnxprune.logits import scored
from onnxprune.model import Model
from onnxprune.narrowing import WHOLE, Batch, Narrowing
from onnxprune.runtime import session


def relative_errors(original: Model, others: Sequence[Model], batches: Iterable[Batch],
                    narrowing: Narrowing = WHOLE) -> list[float]:
    """Relative squared error of models' outputs: error over variance, in the mean over the outputs of floats.

    In place of a choice it is that of the scores behind it, see `logits.scored`.

    Args:
        original: What the others came from.
        others: Models with its interface, but for what `narrowing` took.
        batches: Inputs of the original.
        narrowing: What inputs and outputs of the others lost.

    Returns:
        One number a model; infinite where an output is not finite.

    Raises:
        RunError: onnxruntime does not take a model or the inputs.
    """
    names = [o.name for o in original.proto.graph.output]
    count, first, second = (np.zeros(len(names)) for _ in range(3))
    wrong = np.zeros((len(others), len(names)))
    floats = np.ones(len(names), dtype=bool)
    models = [original, *others]
    reference, *sessions = [session(scored(m)) for m in models]
    given, *rest = itertools.tee(batches, len(models))
    made = [one.each(narrowing.batches(part)) for one, part in zip(sessions, rest, strict=True)]
    for whole, *others_made in zip(reference.each(given), *made, strict=True):
        wanted = narrowing.arrays(names, whole)
        floats &= np.array([np.asarray(w).dtype.kind == "f" for w in wanted])
        targets = [np.asarray(w, dtype=np.float64) if f else np.zeros(0) for w, f in zip(wanted, floats, strict=True)]
        count += [t.size for t in targets]
        first += [t.sum() for t in targets]
        second += [np.square(t).sum() for t in targets]
        for i, arrays in enumerate(others_made):
            wrong[i] += [np.square(t - m).sum() if f else 0.0
                         for t, m, f in zip(targets, arrays, floats, strict=True)]
    variance = np.maximum(second - first * first / np.maximum(count, 1), 1e-30)
    shares = np.where(np.isfinite(wrong), wrong, np.inf)[:, floats] / variance[floats]
    return [float(s.mean()) if s.size else 0.0 for s in shares]
