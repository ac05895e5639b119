"""Running statistics of BatchNormalization nodes: aligned to synthetic inputs, and re-estimated after pruning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxprune.graph.graph import Graph
from onnxprune.layers.batch_norm import Normalization, normalizations
from onnxprune.model.model import Model
from onnxprune.repair.kept_indices import KeptIndices
from onnxprune.runtime.io_slices import WHOLE, IoSlices
from onnxprune.runtime.staged_run import StagedRun

Vectors = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Mean and variance, one of each for a channel."""


CONSTANT = 1e-6
"""Share of its running variance below which a channel does not vary."""


@contextmanager
def aligned(
    original: Model,
    pruned: Model,
    batches: Iterable[Mapping[str, NDArray[np.generic]]],
    kept: KeptIndices | None = None,
) -> Iterator[Model]:
    """Replaces the running statistics of both models by those of these batches, within the context.

    Normalized values then have the mean and variance that they had in training, whatever the batches are: later layers
    receive inputs of the same scale (the statistics are those that "The knowledge within", Haroush et al., CVPR
    2020, and "ZeroQ", Cai et al., CVPR 2020, fit whole images to).

    Args:
        original: The model before pruning; not modified.
        pruned: The model after pruning; its running statistics are replaced in place and restored in the end.
        batches: Inputs.
        kept: What the pruned model has of the original's values; None for all.

    Yields:
        The original, or a copy of it with other statistics.
    """
    nodes = {n.name: n for n in normalizations(Graph(pruned.proto))}
    if not nodes:
        yield original
        return
    copy = original.copy()
    pairs = [(n, nodes[n.name]) for n in normalizations(Graph(copy.proto)) if n.name in nodes]
    indices = [_kept(copy, a, pruned, b, kept) for a, b in pairs]
    before = [(pruned.array(b.mean), pruned.array(b.variance)) for _, b in pairs]
    try:
        with StagedRun(copy, batches, [[a.x.name] for a, _ in pairs]) as walk:
            for (a, b), where in zip(pairs, indices, strict=True):
                seen = list(walk.step()[a.x.name])
                if where is None:
                    continue
                for model, node, vectors in (
                    (copy, a, (s := channel_statistics(seen))),
                    (pruned, b, (s[0][where], s[1][where])),
                ):
                    _set(model, node.mean, vectors[0])
                    _set(model, node.variance, vectors[1])
        yield copy
    finally:
        for (_, b), (mean, variance) in zip(pairs, before, strict=True):
            pruned.set_array(b.mean, mean)
            pruned.set_array(b.variance, variance)


def reestimate(
    original: Model,
    pruned: Model,
    kept: KeptIndices,
    batches: Iterable[Mapping[str, NDArray[np.generic]]],
    io_slices: IoSlices = WHOLE,
) -> int:
    """Updates running statistics of a pruned model, in place, to the changed inputs of its normalizations.

    The change of the input's mean on these batches is added to the mean, and the variance is multiplied by the ratio of
    variances: an unchanged input keeps the statistics of training, which a few samples estimate less well.

    Args:
        original: The model before pruning.
        pruned: The model after it.
        kept: What the pruned model has of the original's values.
        batches: Inputs of the original.
        io_slices: What inputs of the pruned model lost.

    Returns:
        How many nodes have other statistics now.
    """
    nodes = {n.name: n for n in normalizations(Graph(pruned.proto))}
    pairs = [(n, nodes[n.name]) for n in normalizations(Graph(original.proto)) if n.name in nodes]
    indices = [_kept(original, a, pruned, b, kept) for a, b in pairs]
    with (
        StagedRun(original, batches, [[a.x.name] for a, _ in pairs]) as first,
        StagedRun(pruned, io_slices.batches(batches), [[b.x.name] for _, b in pairs]) as second,
    ):
        for (a, b), where in zip(pairs, indices, strict=True):
            seen = kept.all_rows(a.x.name, first.step()[a.x.name], 1)
            then, now = channel_statistics(seen), channel_statistics(second.step()[b.x.name])
            if where is not None:
                before = then[0][where], then[1][where]
                _set(pruned, b.mean, pruned.array(b.mean) + now[0] - before[0])
                tiny = CONSTANT * pruned.array(b.variance)  # of channels that are dead on the samples nothing is known
                known = (before[1] > tiny) & (now[1] > tiny)
                _set(pruned, b.variance, pruned.array(b.variance) * np.where(known, now[1] / before[1], 1.0))
    return sum(where is not None for where in indices)


def _set(model: Model, tensor: TensorProto, vector: NDArray[np.float64]) -> None:
    model.set_array(tensor, vector.astype(model.array(tensor).dtype))


def channel_statistics(arrays: Iterable[NDArray[np.generic]]) -> Vectors:
    """Mean and variance of each channel (axis 1), over all arrays."""
    count, total, squares = 0, np.zeros(1), np.zeros(1)
    for array in arrays:
        rows = np.moveaxis(array, 1, 0).reshape(array.shape[1], -1).astype(np.float64)
        count += rows.shape[1]
        total, squares = total + rows.sum(axis=1), squares + np.square(rows).sum(axis=1)
    mean = total / max(count, 1)
    return mean, np.maximum(squares / max(count, 1) - mean**2, 1e-12)


def _kept(
    original: Model, a: Normalization, pruned: Model, b: Normalization, kept: KeptIndices | None
) -> NDArray[np.int64] | None:
    """Channels of the original that the pruned node still has; None where they are not known."""
    before, after = len(original.array(a.mean)), len(pruned.array(b.mean))
    if kept is not None and a.name not in kept.layers:
        return None
    found = np.arange(before) if kept is None else kept.along(a.x.name, 1, before)
    return found if len(found) == after else None
