"""Layer-wise reconstruction of recurrent layers, whose pre-activations are no values of the graph.

The pre-activations are linear in input and state, ``W x + R h``, so they follow from the original's weights and values.
Each of the two terms is a least-squares target: ``W x`` for the pruned layer's input, ``R h`` for its kept hidden
units. A GRU that resets the state before the product (``linear_before_reset = 0``) multiplies R by the state times a
gate; there the state itself is used as an approximation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnxprune.layers.recurrent import Cell, Floats, _stored
from onnxprune.model.model import Model
from onnxprune.repair.kept_indices import KeptIndices
from onnxprune.repair.layer_samples import LayerSamples, held_out
from onnxprune.repair.least_squares import Fit
from onnxprune.statistics.covariance import Floats as Doubles

Fitted = Callable[[str, LayerSamples, LayerSamples, Doubles, Doubles, bool], Fit]


def refit(
    original: Model,
    a: Cell,
    pruned: Model,
    b: Cell,
    x: Sequence[Floats],
    states: Sequence[Floats],
    read: Sequence[Floats],
    kept: KeptIndices,
    limit: int,
    seed: Sequence[int],
    fitted: Fitted,
) -> list[tuple[str, Fit]]:
    """Refits a layer of the pruned model in place, where that is better on held-out samples.

    Args:
        original: The model before pruning.
        a: The layer of the original.
        pruned: The model after pruning.
        b: The same layer of the pruned model.
        x: Inputs of `a`, one array a batch; shape (time, batch, features).
        states: Hidden states of `a`, one array a batch; shape (time, directions, batch, hidden).
        read: Inputs of `b`, as `x`.
        kept: What the pruned model has of the original's values.
        limit: Maximum number of sampled steps of a batch.
        seed: Seed of the sampling.
        fitted: Fits one matrix, see `layerwise.Fitter`.

    Returns:
        The fit of each matrix of each direction, with its name; `penalty` is None where the matrix was not changed.
    """
    w, r = _stored(original, a.weight), _stored(original, a.recurrence)
    new_w, new_r = _stored(pruned, b.weight).copy(), _stored(pruned, b.recurrence).copy()
    bias = None if b.bias is None else _stored(pruned, b.bias).copy()
    x, states = kept.all_rows(a.x.name, x, -1), kept.all_rows(a.states.name, states, -1)
    units = kept.along(a.recurrence.name, 2, r.shape[2])
    rows = (np.arange(a.gates)[:, None] * r.shape[2] + units).ravel()
    rng = np.random.default_rng(list(seed))
    done = []
    for d in range(len(w)):
        inputs = [
            _pair(np.asarray(old, np.float32), np.asarray(new, np.float32), rng, limit)
            for old, new in zip(x, read, strict=True)
        ]
        earlier = [_pair(s := a.before(y, d), s[..., units], rng, limit) for y in states]
        for part, (pairs, old, new, key) in enumerate(
            ((inputs, w[d], new_w[d], b.weight.key), (earlier, r[d], new_r[d], b.recurrence.key))
        ):
            half = None if bias is None else slice(part * len(rows), (part + 1) * len(rows))
            learned, held = _rows(pairs, old[rows].astype(np.float32))
            found = fitted(key, learned, held, new[None].astype(np.float64), np.zeros((1, len(new))), half is not None)
            if found.penalty is not None:
                new[:] = found.weight[0]
                if bias is not None and half is not None:
                    bias[d, half] += found.bias[0].astype(bias.dtype)
            done.append((f"{'input' if part == 0 else 'state'} {d}", found))
    for value, array in ((b.weight, new_w), (b.recurrence, new_r), (b.bias, bias)):
        if value is not None and value.tensor is not None and array is not None:
            pruned.set_array(value.tensor, array)
    return done


def _pair(old: Floats, new: Floats, rng: np.random.Generator, limit: int) -> tuple[Floats, Floats]:
    """The same steps of both, `limit` at most; shape (steps, features) each; no steps where their rows differ."""
    if old.shape[:-1] != new.shape[:-1]:
        return np.zeros((0, old.shape[-1]), np.float32), np.zeros((0, new.shape[-1]), np.float32)
    before, after = old.reshape(-1, old.shape[-1]), new.reshape(-1, new.shape[-1])
    if len(before) > limit:
        chosen = np.sort(rng.choice(len(before), limit, replace=False))
        before, after = before[chosen], after[chosen]
    return before, after


def _rows(pairs: Sequence[tuple[Floats, Floats]], old: Floats) -> tuple[LayerSamples, LayerSamples]:
    """Samples to fit and held-out samples of one term of the pre-activations: the product of an input with `old`."""
    parts = [(after, before @ old.T) for before, after in pairs]
    learned, held = (
        LayerSamples(np.concatenate([x for x, _ in some])[None], np.concatenate([y for _, y in some])[None])
        for some in held_out(parts)
    )
    return learned, held if len(parts) > 1 else learned
