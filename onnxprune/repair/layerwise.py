"""Refits every product layer to what the original made there, from what it now receives.

Original and pruned model walk side by side, each node once. When the walk comes to a layer, everything before it is
repaired already; the layer is fitted, written back, and only then run. Where a layer's output joins a shortcut, its
target is the original's sum less the pruned shortcut, so that errors do not add up along the depth.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph.contents import constant_data
from onnxprune.graph.graph import Graph, Node, Value
from onnxprune.graph.shape_inference import infer
from onnxprune.layers import recurrent as layers_recurrent
from onnxprune.layers.find import linear_layers, matched
from onnxprune.layers.linear import LinearLayer
from onnxprune.layers.recurrent import Cell
from onnxprune.layers.weights import bias_of, set_bias, set_weight, takes_bias
from onnxprune.model.model import Model
from onnxprune.repair import recurrent
from onnxprune.repair.least_squares import PENALTIES, Fit, Floats, Rows, fit
from onnxprune.runtime.io_slices import WHOLE, IoSlices
from onnxprune.runtime.staged_run import BatchValues, StagedRun
from onnxprune.statistics.moments import Batches, rows_for

logger = logging.getLogger(__name__)

T = TypeVar("T")
Kept = Mapping[str, NDArray[np.int64]]
"""Output features of each layer that stay, by the layer's name."""

HOLD_BACK = 5
"""Every so many-th batch is held out."""


class Fitter(Protocol):
    """Gives layers other weights and biases."""

    def product(self, layer: LinearLayer, rows: Rows, held: Rows, weight: Floats, bias: Floats, free: bool) -> Fit:
        """Fits a product layer.

        Args:
            layer: The layer.
            rows: Samples to fit.
            held: Held-out samples.
            weight: Its weight; shape (groups, outputs, columns).
            bias: Its bias; shape (groups, outputs).
            free: Whether the bias may change.
        """

    def matrix(self, key: str, rows: Rows, held: Rows, weight: Floats, bias: Floats, free: bool) -> Fit:
        """The same for one matrix of the constant `key`, which a recurrent layer reads."""


@dataclass(frozen=True)
class Ridge:
    """A `Fitter` by ridge least squares.

    Attributes:
        penalties: Ridges to try.
        share: A layer stays as it was where a refit leaves more than this share of its held-back error.
    """

    penalties: Sequence[float] = PENALTIES
    share: float = 1.0

    def product(self, layer: LinearLayer, rows: Rows, held: Rows, weight: Floats, bias: Floats, free: bool) -> Fit:
        """See `Fitter`."""
        return self.matrix(layer.name, rows, held, weight, bias, free)

    def matrix(self, key: str, rows: Rows, held: Rows, weight: Floats, bias: Floats, free: bool) -> Fit:
        """See `Fitter`."""
        if not (rows.count and held.count):
            return Fit(weight, bias, None, 0.0, 0.0)
        found = fit(rows, held, weight, bias, intercept=free, penalties=self.penalties)
        if found.after >= self.share * found.before:
            return Fit(weight, bias, None, found.before, found.before)
        return found


@dataclass(frozen=True)
class Refit:
    """What became of one layer.

    Attributes:
        layer: Name of the layer's output.
        penalty: The ridge that was used, None where the layer was left as it was.
        before: Held-out error without the refit, as a share of the target's variance.
        after: The same with it, where all of it is taken.
        share: The share of the change of the weights that was taken.
    """

    layer: str
    penalty: float | None
    before: float
    after: float
    share: float = 1.0


@dataclass(frozen=True)
class Join:
    """The sum that a layer's output joins, its name, and that of the other summand."""

    sum: Value
    total: str
    other: str


def repair(
    original: Model,
    pruned: Model,
    kept: Kept,
    batches: Batches,
    count: int,
    *,
    seed: int = 0,
    memory: int = 2**31,
    io_slices: IoSlices = WHOLE,
    fitter: Fitter | None = None,
) -> list[Refit]:
    """Refits the layers of a pruned model in place.

    Args:
        original: The model before pruning.
        pruned: The model after it.
        kept: Which output features of the original's layers stay.
        batches: Calibration feeds; every fifth batch is held out (all serve for both if there are fewer than five).
        count: How many batches there are.
        seed: Seed of the places that are sampled.
        memory: Bytes of activations to hold, of both models together.
        io_slices: What inputs and outputs of the pruned model lost.
        fitter: What fits the layers; by default ridge least squares.
    """
    fitter = fitter or Ridge()
    before, after = Graph(original.proto), Graph(pruned.proto)
    for graph in (before, after):
        infer(graph)
    layers: list[_Layer] = [
        _Linear(a, b, join(b), kept[a.name], count)
        for a, b in matched(linear_layers(before), linear_layers(after))
        if a.name in kept and not b.weight_shared
    ]
    layers += [
        _Recurrent(a, b, kept[a.name], count) for a, b in layers_recurrent.matched(before, after) if a.name in kept
    ]
    layers.sort(key=lambda layer: layer.b.node.index)
    done = []
    with (
        StagedRun(original, batches, [layer.wanted for layer in layers], memory=memory // 2) as first,
        StagedRun(pruned, io_slices.batches(batches), [layer.given for layer in layers], memory=memory // 2) as second,
    ):
        for i, layer in enumerate(layers):
            done += layer.refit(original, pruned, first.step(), second.step(), [seed, i], fitter)
            logger.debug("refitted %s", done[-1] if done else layer.b.name)
    return done


class _Layer(Protocol):
    """A layer of both models, and how it is refitted."""

    @property
    def b(self) -> LinearLayer | Cell:
        """The layer of the pruned model."""

    @property
    def wanted(self) -> list[str]:
        """Values of the original that its targets are made of."""

    @property
    def given(self) -> list[str]:
        """Values of the pruned model that it is fitted on."""

    def refit(
        self,
        original: Model,
        pruned: Model,
        made: Mapping[str, BatchValues],
        read: Mapping[str, BatchValues],
        seed: Sequence[int],
        fitter: Fitter,
    ) -> list[Refit]:
        """Gives it weights for what it now receives."""


@dataclass(frozen=True)
class _Linear:
    a: LinearLayer
    b: LinearLayer
    join: Join | None
    kept: NDArray[np.int64]
    count: int

    @property
    def wanted(self) -> list[str]:
        return [self.a.output.name, *([self.join.total] if self.join else [])]

    @property
    def given(self) -> list[str]:
        return [self.b.x.name, *([self.join.other] if self.join else [])]

    def refit(
        self,
        original: Model,
        pruned: Model,
        made: Mapping[str, BatchValues],
        read: Mapping[str, BatchValues],
        seed: Sequence[int],
        fitter: Fitter,
    ) -> list[Refit]:
        rows, held = _rows(self.a, self.b, self.join, made, read, self.kept, self.count, seed)
        return [_refit(pruned, self.b, rows, held, fitter)]


@dataclass(frozen=True)
class _Recurrent:
    a: Cell
    b: Cell
    kept: NDArray[np.int64]
    count: int

    @property
    def wanted(self) -> list[str]:
        return [self.a.x.name, self.a.states.name]

    @property
    def given(self) -> list[str]:
        return [self.b.x.name]

    def refit(
        self,
        original: Model,
        pruned: Model,
        made: Mapping[str, BatchValues],
        read: Mapping[str, BatchValues],
        seed: Sequence[int],
        fitter: Fitter,
    ) -> list[Refit]:
        found = recurrent.refit(
            original,
            self.a,
            pruned,
            self.b,
            made[self.a.x.name],
            made[self.a.states.name],
            read[self.b.x.name],
            self.kept,
            HOLD_BACK,
            rows_for(self.a.columns(original), self.count),
            seed,
            fitter.matrix,
        )
        return [Refit(f"{self.b.name} {part}", fit.penalty, fit.before, fit.after) for part, fit in found]


def join(layer: LinearLayer) -> Join | None:
    """The Add behind the layer whose other summand is there before the layer."""
    if len(layer.output.consumers) != 1:
        return None
    node, i = layer.output.consumers[0]
    if node.op_type != "Add" or node.domain or node.scope is not layer.node.scope:
        return None
    other, total = node.inputs[1 - i], node.outputs[0]
    if other is None or total is None or other.tensor is not None or not _is_before(other, layer.node):
        return None
    if other.shape != layer.output.shape or total.shape != layer.output.shape:
        return None
    return Join(total, total.name, other.name)


def _is_before(value: Value, node: Node) -> bool:
    return value.producer is None or value.producer.index < node.index


def _rows(
    a: LinearLayer,
    b: LinearLayer,
    join: Join | None,
    made: Mapping[str, BatchValues],
    read: Mapping[str, BatchValues],
    kept: NDArray[np.int64],
    count: int,
    seed: Sequence[int],
) -> tuple[Rows, Rows]:
    """Samples to fit and held-out samples."""
    rng = np.random.default_rng(list(seed))
    columns = b.matrix(np.empty(b.weight.tensor.dims)).shape[-1]  # type: ignore[union-attr]
    parts: list[tuple[NDArray[np.float32], ...]] = []
    for n, x in enumerate(read[b.x.name]):
        y = made[a.output.name][n]
        places = a.draw(y.shape, rng, rows_for(columns, count))
        target = _flat(a, y if join is None else made[join.total][n], places)[:, kept]
        beside = [] if join is None else [_grouped(_flat(b, read[join.other][n], places), b.groups)]
        parts.append(_finite(b.patches(x, places), _grouped(target, b.groups), *beside))
    low, high = bounds(b.output if join is None else join.sum)
    front, back = held_out(parts)
    return _stacked(front, low, high), _stacked(back, low, high)


def held_out(parts: Sequence[T]) -> tuple[list[T], list[T]]:
    """Parts to fit and held-out parts: every fifth, the last of fewer, all for both where there is one."""
    if len(parts) == 1:
        return list(parts), list(parts)
    every = min(HOLD_BACK, len(parts))
    held = [i % every == every - 1 for i in range(len(parts))]
    return [p for p, h in zip(parts, held, strict=True) if not h], [p for p, h in zip(parts, held, strict=True) if h]


def _finite(*arrays: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """The samples that are finite in all arrays; the others say nothing."""
    good = np.logical_and.reduce([np.isfinite(a).all(axis=(0, 2)) for a in arrays])
    return arrays if good.all() else tuple(a[:, good] for a in arrays)


def _stacked(parts: Sequence[tuple[NDArray[np.float32], ...]], low: float, high: float) -> Rows:
    x, y, *offset = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
    return Rows(x, y, offset[0] if offset else 0.0, low, high)


def _grouped(features: NDArray[np.float32], groups: int) -> NDArray[np.float32]:
    """Features of shape (n, all) as (groups, n, features)."""
    return np.ascontiguousarray(features.reshape(len(features), groups, -1).transpose(1, 0, 2))


def bounds(value: Value) -> tuple[float, float]:
    """Between what the only reader of a value tells numbers apart: a rectifier, or one with a ceiling."""
    if len(value.consumers) != 1:
        return -np.inf, np.inf
    node, i = value.consumers[0]
    if node.domain or i != 0:
        return -np.inf, np.inf
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type == "Clip":
        if node.opset < 11:
            return node.attribute("min", -np.inf), node.attribute("max", np.inf)
        limits = [constant_data(v) if v is not None else None for v in [*node.inputs[1:], None, None][:2]]
        return (
            -np.inf if limits[0] is None else float(limits[0].reshape(-1)[0]),
            np.inf if limits[1] is None else float(limits[1].reshape(-1)[0]),
        )
    return -np.inf, np.inf


def _flat(layer: LinearLayer, y: NDArray[np.generic], places: object) -> NDArray[np.float32]:
    """Features at places, all groups one after the other; shape (n, features)."""
    rows = layer.targets(y, places)  # type: ignore[arg-type]
    return np.ascontiguousarray(rows.transpose(1, 0, 2)).reshape(rows.shape[1], -1)


def _refit(model: Model, layer: LinearLayer, rows: Rows, held: Rows, fitter: Fitter) -> Refit:
    tensor = layer.weight.tensor
    assert tensor is not None
    free = takes_bias(layer)
    weight, bias = layer.matrix(model.array(tensor)).astype(np.float64), bias_of(model, layer)
    found = fitter.product(layer, rows, held, weight, bias, free)
    if found.penalty is not None:
        set_weight(model, layer, found.weight)
        if free:
            set_bias(model, layer, found.bias)
    return Refit(layer.name, found.penalty, found.before, found.after)
