"""Samples of single layers: inputs in the pruned model and targets from the original, at sampled positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph.graph import Node, Value
from onnxprune.graph.operators import Bounds, operator_of, other_summand
from onnxprune.layers.linear import LinearLayer, Positions
from onnxprune.repair.kept_indices import KeptIndices
from onnxprune.runtime.parallel import in_order
from onnxprune.runtime.staged_run import BatchValues
from onnxprune.statistics.covariance import PART, Floats
from onnxprune.statistics.moments import REPAIR_ROWS, Rows, rows_for

T = TypeVar("T")

HOLD_OUT = 5
"""Every fifth batch is held out."""
CONSTANT = 1e-12
"""Targets whose variance is below this share of their mean square are constant: the rest is the rounding of float32."""


@dataclass(frozen=True)
class LayerSamples:
    """Samples of a layer.

    Attributes:
        x: Inputs; shape (groups, n, columns).
        y: Targets for the layer's output plus `offset`; shape (groups, n, outputs).
        offset: What the graph adds to the layer's output; the same shape, or one number.
        low: Lower clipping bound of the following activation: 0 for a Relu, -inf for none.
        high: Upper clipping bound.
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    offset: NDArray[np.float32] | float = 0.0
    low: float = -np.inf
    high: float = np.inf

    @property
    def count(self) -> int:
        """Number of samples."""
        return int(self.x.shape[1])

    @property
    def is_clipped(self) -> bool:
        """Whether an activation that clips follows."""
        return bool(np.isfinite(self.low) or np.isfinite(self.high))

    def predict(self, weight: Floats, bias: Floats) -> NDArray[np.float32]:
        """Output of the layer on the inputs, plus the offset."""
        made: NDArray[np.float32] = self.x @ weight.transpose(0, 2, 1).astype(np.float32)
        made += bias[:, None].astype(np.float32)
        made += self.offset
        return made

    def seen(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values clipped as the following activation does."""
        return np.clip(values, self.low, self.high)

    def error(self, weight: Floats, bias: Floats) -> float:
        """Mean squared error of the clipped outputs, as a share of their variance, or else mean square."""
        target, variation = self._seen_targets
        wrong = np.square(target - self.seen(self.predict(weight, bias)), dtype=np.float64).sum()
        return float(wrong / variation) if np.isfinite(wrong) else np.inf

    @cached_property
    def _seen_targets(self) -> tuple[NDArray[np.float32], float]:
        """The clipped targets, and the sum of their squares about their means; about zero where they are constant."""
        target = self.seen(self.y)
        spread = float(np.square(target - target.mean(axis=1, keepdims=True), dtype=np.float64).sum())
        whole = float(np.square(target, dtype=np.float64).sum())
        return target, max(spread if spread > CONSTANT * whole else whole, 1e-30)

    def reachable(self, weight: Floats, bias: Floats) -> NDArray[np.float32]:
        """Targets for the layer, equal to its prediction where target and prediction are beyond the same bound."""
        wanted = np.empty_like(self.y)

        def fill(start: int) -> None:
            some = self.cut(start, start + PART)
            made = some.predict(weight, bias)
            beyond = ((some.y <= self.low) & (made <= self.low)) | ((some.y >= self.high) & (made >= self.high))
            wanted[:, start : start + PART] = np.where(beyond, made, some.y) - some.offset

        for _ in in_order(fill, range(0, self.count, PART)):
            pass
        return wanted

    def cut(self, start: int, stop: int) -> LayerSamples:
        """The samples of a range, without a copy."""
        offset = self.offset if isinstance(self.offset, float) else self.offset[:, start:stop]
        return replace(self, x=self.x[:, start:stop], y=self.y[:, start:stop], offset=offset)

    def joined(self, other: LayerSamples) -> LayerSamples:
        """These samples followed by others of the same layer; without a copy where both are cut out of the same."""
        offset = self.offset if isinstance(self.offset, float) else _followed_by(self.offset, np.asarray(other.offset))
        return replace(self, x=_followed_by(self.x, other.x), y=_followed_by(self.y, other.y), offset=offset)

    @property
    def wanted(self) -> NDArray[np.float32]:
        """Targets for the layer alone, without the offset."""
        return self.y if isinstance(self.offset, float) and self.offset == 0 else self.y - self.offset


def _followed_by(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Two arrays joined along axis 1; the array that they are the two parts of, if they are."""
    base = first.base
    if isinstance(base, np.ndarray) and base is second.base and first.shape[1] + second.shape[1] == base.shape[1]:
        split = first.shape[1]
        parts = base[:, :split], base[:, split:]
        if all(_same_memory(a, b) for a, b in zip((first, second), parts, strict=True)):
            return base
    return np.concatenate([first, second], axis=1)


def _same_memory(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    return bool(
        a.__array_interface__["data"] == b.__array_interface__["data"] and (a.shape, a.strides) == (b.shape, b.strides)
    )


@dataclass(frozen=True)
class ResidualAdd:
    """The sum that a layer's output joins, its name, and that of the other summand."""

    sum: Value
    total: str
    other: str


def residual_add(layer: LinearLayer) -> ResidualAdd | None:
    """The sum after the layer whose other summand is computed before the layer; None if there is none."""
    if len(layer.output.consumers) != 1 or layer.output.is_returned:
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
        only = _stacked(front, low, high)
        return only, only
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
    if all(np.isfinite(a).all() for a in arrays):  # several times faster than by sample
        return arrays
    good = np.logical_and.reduce([np.isfinite(a).all(axis=(0, 2)) for a in arrays])
    return tuple(a[:, good] for a in arrays)


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
    if len(value.consumers) != 1 or value.is_returned:
        return -np.inf, np.inf
    node, i = value.consumers[0]
    declared = operator_of(node).clips
    return declared(node) if declared is not None and i == 0 else (-np.inf, np.inf)


def _flat(layer: LinearLayer, y: NDArray[Any], positions: Positions) -> NDArray[np.float32]:
    """Features at sampled positions, groups concatenated; shape (n, features)."""
    rows = layer.targets(y, positions)
    return np.ascontiguousarray(rows.transpose(1, 0, 2)).reshape(rows.shape[1], -1)
