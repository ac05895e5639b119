"""How far models are from the one that they came from, on given inputs: run side by side, batch by batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

import numpy as np

from onnxprune.logits import scored
from onnxprune.model import Model
from onnxprune.narrowing import WHOLE, Batch, Narrowing
from onnxprune.runtime import runnable


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
        Exception: Whatever onnxruntime raises for a model or inputs that it does not take.
    """
    names = [o.name for o in original.proto.graph.output]
    count, first, second = (np.zeros(len(names)) for _ in range(3))
    wrong = np.zeros((len(others), len(names)))
    floats = np.ones(len(names), dtype=bool)
    with contextlib.ExitStack() as stack:
        reference, *sessions = [stack.enter_context(runnable(scored(m))).session() for m in (original, *others)]
        for feeds in batches:
            wanted = narrowing.arrays(names, reference.run(None, dict(feeds)))
            floats &= np.array([np.asarray(w).dtype.kind == "f" for w in wanted])
            targets = [np.asarray(w, dtype=np.float64) if f else np.zeros(0)
                       for w, f in zip(wanted, floats, strict=True)]
            count += [t.size for t in targets]
            first += [t.sum() for t in targets]
            second += [np.square(t).sum() for t in targets]
            for i, other in enumerate(sessions):
                made = other.run(None, narrowing.feeds(feeds))
                wrong[i] += [np.square(t - m).sum() if f else 0.0
                             for t, m, f in zip(targets, made, floats, strict=True)]
    variance = np.maximum(second - first * first / np.maximum(count, 1), 1e-30)
    shares = np.where(np.isfinite(wrong), wrong, np.inf)[:, floats] / variance[floats]
    return [float(s.mean()) if s.size else 0.0 for s in shares]
