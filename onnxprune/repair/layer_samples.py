"""Samples of single layers: inputs in the pruned model and targets from the original, at sampled positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph.graph import Node, Value
from onnxprune.graph.operators import Bounds, operator_of, other_summand
from onnxprune.layers.linear import LinearLayer, Positions
from onnxprune.repair.kept_indices import KeptIndices
from onnxprune.repair.least_squares import LayerSamples
from onnxprune.runtime.parallel import in_order
from onnxprune.runtime.staged_run import BatchValues
from onnxprune.statistics.moments import REPAIR_ROWS, Rows, rows_for

T = TypeVar("T")

HOLD_OUT = 5
"""Every fifth batch is held out."""


@dataclass(frozen=True)
class ResidualAdd:
    """The sum that a layer's output joins, its name, and that of the other summand."""

    sum: Value
    total: str
    other: str


def residual_add(layer: LinearLayer) -> ResidualAdd | None:
    """The sum after the layer whose other summand is computed before the layer; None if there is none."""
    if len(layer.output.consumers) != 1:
        return None
    node, i = layer.output.consumers[0]
    other, total = other_summand(node, i), node.outputs[0]
    if (
        other is None
        or total is None
        or node.scope is not layer.node.scope
        or other.tensor is not None
        or not _is_before(other, layer.node)
    ):
        return None
    if other.shape != layer.output.shape or total.shape != layer.output.shape:
        return None
    return ResidualAdd(total, total.name, other.name)


def _is_before(value: Value, node: Node) -> bool:
    return value.producer is None or value.producer.index < node.index


def layer_samples(
    a: LinearLayer,
    b: LinearLayer,
    join: ResidualAdd | None,
    made: Mapping[str, BatchValues],
    read: Mapping[str, BatchValues],
    kept: KeptIndices,
    count: int,
    seed: Sequence[int],
    memory: int | None = None,
    rows: Rows = REPAIR_ROWS,
) -> tuple[LayerSamples, LayerSamples]:
    """Samples to fit and held-out samples, of the same arrays where they are different ones.

    Args:
        a: The layer in the original.
        b: The layer in the pruned model.
        join: The sum that its output joins, if any.
        made: Values of the original.
        read: Values of the pruned model.
        kept: What the pruned model has of the original's values. Positions are drawn from those that both have.
        count: Number of batches.
        seed: Seed of the positions.
        memory: Bytes of activations to hold.
        rows: How many positions to sample.
    """
    rng = np.random.default_rng(list(seed))
    features = a.features[1]
    width = max(b.groups * b.columns, b.features[1])
    a_batch = rows_for(b.columns, count, rows, width=width, memory=memory)
    name = a.output.name if join is None else join.total
    made_here = kept.all_rows(name, made[name], a.out_axis)

    def drawn() -> Iterator[tuple[int, NDArray[Any], NDArray[Any], Positions]]:
        for n, x in enumerate(read[b.x.name]):
            y = made_here[n]
            positions = a.draw(y.shape, rng, a_batch)
            if not b.fits(x.shape, positions):  # an axis is not as long as the model declares: its rows are not known
                positions = Positions(positions.rows[:0], positions.shape)
            yield n, x, y, positions

    def sampled(one: tuple[int, NDArray[Any], NDArray[Any], Positions]) -> tuple[NDArray[np.float32], ...]:
        n, x, y, positions = one
        target = _flat(a, y, positions)[:, kept.along(name, a.out_axis % y.ndim, features)]
        beside = [] if join is None else [_grouped(_flat(b, read[join.other][n], positions), b.groups)]
        return _finite(b.patches(x, positions), _grouped(target, b.groups), *beside)

    parts = list(in_order(sampled, drawn()))
    low, high = bounds(b.output if join is None else join.sum)
    front, back = held_out(parts)
    if len(parts) == 1:
        return _stacked(front, low, high), _stacked(back, low, high)
    first = sum(part[0].shape[1] for part in front)
    ordered = [*front, *back]
    del parts, front, back  # so that each is released once it is copied
    whole = _stacked(ordered, low, high)
    return whole.cut(0, first), whole.cut(first, whole.count)


def held_out(parts: Sequence[T]) -> tuple[list[T], list[T]]:
    """Parts to fit and held-out parts: every fifth, the last of fewer, all for both where there is one."""
    if len(parts) == 1:
        return list(parts), list(parts)
    every = min(HOLD_OUT, len(parts))
    held = [i % every == every - 1 for i in range(len(parts))]
    return [p for p, h in zip(parts, held, strict=True) if not h], [p for p, h in zip(parts, held, strict=True) if h]


def _finite(*arrays: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """The samples that are finite in all arrays."""
    good = np.logical_and.reduce([np.isfinite(a).all(axis=(0, 2)) for a in arrays])
    return arrays if good.all() else tuple(a[:, good] for a in arrays)


def _stacked(parts: list[tuple[NDArray[np.float32], ...]], low: float, high: float) -> LayerSamples:
    """All parts one after the other; the list is emptied meanwhile, since they may take much memory."""
    total = sum(part[0].shape[1] for part in parts)
    stacks = [np.empty((a.shape[0], total, a.shape[2]), a.dtype) for a in parts[0]]
    at = 0
    while parts:
        part = parts.pop(0)
        for stack, array in zip(stacks, part, strict=True):
            stack[:, at : at + array.shape[1]] = array
        at += part[0].shape[1]
    x, y, *offset = stacks
    return LayerSamples(x, y, offset[0] if offset else 0.0, low, high)


def _grouped(features: NDArray[np.float32], groups: int) -> NDArray[np.float32]:
    """Features of shape (n, all) as (groups, n, features)."""
    return np.ascontiguousarray(features.reshape(len(features), groups, -1).transpose(1, 0, 2))


def bounds(value: Value) -> Bounds:
    """Bounds that the only consumer of a value clips it to; infinite where there is none."""
    if len(value.consumers) != 1:
        return -np.inf, np.inf
    node, i = value.consumers[0]
    declared = operator_of(node).clips
    return declared(node) if declared is not None and i == 0 else (-np.inf, np.inf)


def _flat(layer: LinearLayer, y: NDArray[Any], positions: Positions) -> NDArray[np.float32]:
    """Features at sampled positions, groups concatenated; shape (n, features)."""
    rows = layer.targets(y, positions)
    return np.ascontiguousarray(rows.transpose(1, 0, 2)).reshape(rows.shape[1], -1)
