"""Layer-wise reconstruction: refits every linear layer to the original's output, given the pruned model's input.

Both models run side by side, each node once (`side_by_side`). All layers upstream of a layer are repaired when it is
fitted; it is written back before the pruned model runs on. Where a layer's output is added to a shortcut, its target is
the original's sum less the pruned shortcut, so that errors do not add up along the depth.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np

from onnxprune.common.checkpoint import step_of_run
from onnxprune.common.progress import step
from onnxprune.layers import recurrent as layers_recurrent
from onnxprune.layers.find import linear_layers, matched
from onnxprune.layers.linear import LinearLayer
from onnxprune.layers.recurrent import Cell
from onnxprune.layers.weights import bias_of, set_bias, set_weight, takes_bias
from onnxprune.model.model import Model
from onnxprune.repair import recurrent
from onnxprune.repair.kept_indices import KeptIndices
from onnxprune.repair.layer_chains import chains
from onnxprune.repair.layer_samples import LayerSamples, ResidualAdd, layer_samples, residual_add
from onnxprune.repair.least_squares import PENALTIES, ROUNDS, Fit, fit
from onnxprune.repair.side_by_side import Refitted, inferred_graphs, side_by_side
from onnxprune.runtime.io_slices import WHOLE, IoSlices
from onnxprune.runtime.staged_run import BatchValues
from onnxprune.statistics.covariance import Floats
from onnxprune.statistics.moments import REPAIR_ROWS, Batches, Rows, rows_for

logger = logging.getLogger(__name__)


ROUGH_ROWS, ROUGH_ROUNDS = 0.3, 1
"""Share of the rows for each column, and rounds of a fit, of layers that are fitted again together."""


class Fitter(Protocol):
    """Gives layers other weights and biases."""

    def product(
        self, layer: LinearLayer, rows: LayerSamples, held: LayerSamples, weight: Floats, bias: Floats, free: bool
    ) -> Fit:
        """Fits a product layer.

        Args:
            layer: The layer.
            rows: Samples to fit.
            held: Held-out samples.
            weight: Its weight; shape (groups, outputs, columns).
            bias: Its bias; shape (groups, outputs).
            free: Whether the bias may change.
        """

    def matrix(self, key: str, rows: LayerSamples, held: LayerSamples, weight: Floats, bias: Floats, free: bool) -> Fit:
        """The same for one matrix of the constant `key`, which a recurrent layer reads."""


@dataclass(frozen=True)
class Ridge:
    """A `Fitter` by ridge least squares.

    Attributes:
        penalties: Ridges to try.
        share: A layer stays as it was where a refit leaves more than this share of its held-out error.
        rounds: How often a fit is repeated at most where an activation hides a part of the error.
    """

    penalties: Sequence[float] = PENALTIES
    share: float = 1.0
    rounds: int = ROUNDS

    def product(
        self, layer: LinearLayer, rows: LayerSamples, held: LayerSamples, weight: Floats, bias: Floats, free: bool
    ) -> Fit:
        """See `Fitter`."""
        return self.matrix(layer.name, rows, held, weight, bias, free)

    def matrix(self, key: str, rows: LayerSamples, held: LayerSamples, weight: Floats, bias: Floats, free: bool) -> Fit:
        """See `Fitter`."""
        if not (rows.count and held.count):
            return Fit(weight, bias, None, 0.0, 0.0)
        found = fit(rows, held, weight, bias, intercept=free, penalties=self.penalties, rounds=self.rounds)
        if found.after >= self.share * found.before:
            return Fit(weight, bias, None, found.before, found.before)
        return found


@dataclass(frozen=True)
class Refit:
    """Record of one layer's refit.

    Attributes:
        layer: Name of the layer's output.
        penalty: The ridge that was used, None where the layer was left as it was.
        before: Held-out squared error without the refit, as a share of the targets' variance, or of their mean square
            where they are constant, as one sample is.
        after: The same with it, where all of it is taken.
        share: The share of the change of the weights that was taken.
    """

    layer: str
    penalty: float | None
    before: float
    after: float
    share: float = 1.0


def repair(
    original: Model,
    pruned: Model,
    kept: KeptIndices,
    batches: Batches,
    count: int,
    *,
    seed: int = 0,
    memory: int = 2**31,
    io_slices: IoSlices = WHOLE,
    fitter: Fitter | None = None,
    rows: Rows = REPAIR_ROWS,
    rough: bool = False,
) -> list[Refit]:
    """Refits the layers of a pruned model in place.

    Args:
        original: The model before pruning.
        pruned: The model after it.
        kept: What the pruned model has of the original's values.
        batches: Calibration feeds; some are held out (`layer_samples.held_out`).
        count: How many batches there are.
        seed: Seed of the sampled positions.
        memory: Bytes of activations to hold, of both models together.
        io_slices: What inputs and outputs of the pruned model lost.
        fitter: What fits the layers; by default ridge least squares.
        rows: How many positions to sample of a layer.
        rough: Whether a joint refit follows: layers that it takes together with others need not be exact.
    """
    fitter, start = fitter or Ridge(), Ridge(rounds=ROUGH_ROUNDS)
    before, after = inferred_graphs(original, pruned)
    pairs = [(a, b) for a, b in matched(linear_layers(before), linear_layers(after)) if a.name in kept.layers]
    found = chains([b for _, b in pairs], after.returned) if rough else []
    again = {layer.name for chain in found if len(chain.layers) > 1 for layer in chain.layers}
    few = replace(rows, a_column=round(ROUGH_ROWS * rows.a_column))
    layers: list[_Layer] = [
        _Linear(a, b, residual_add(b), kept, count, memory, few if b.name in again else rows)
        for a, b in pairs
        if not b.weight_shared
    ]
    layers += [
        _Recurrent(a, b, kept, count) for a, b in layers_recurrent.matched(before, after) if a.name in kept.layers
    ]
    layers.sort(key=lambda layer: layer.b.node.index)
    done = []
    walk = side_by_side(original, pruned, layers, batches, memory=memory, io_slices=io_slices)
    for i, (layer, made, read) in enumerate(walk):
        step(layer.b.name, i, len(layers))
        done += layer.refit(original, pruned, made, read, [seed, i], start if layer.b.name in again else fitter)
        logger.debug("refitted %s", done[-1] if done else layer.b.name)
    return done


class _Layer(Refitted, Protocol):
    """A layer of both models, and how it is refitted."""

    @property
    def b(self) -> LinearLayer | Cell:
        """The layer of the pruned model."""

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
    join: ResidualAdd | None
    kept: KeptIndices
    count: int
    memory: int
    rows: Rows

    @property
    def wanted(self) -> list[str]:
        return [self.a.output.name if self.join is None else self.join.total]

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
        samples = partial(
            layer_samples, *(self.a, self.b, self.join, made, read, self.kept, self.count, seed, self.memory, self.rows)
        )
        return [_refit(pruned, self.b, samples, fitter)]


@dataclass(frozen=True)
class _Recurrent:
    a: Cell
    b: Cell
    kept: KeptIndices
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
        stored = [v.tensor for v in (self.b.weight, self.b.recurrence, self.b.bias) if v is not None]
        if not all(t is None or np.isfinite(pruned.array(t)).all() for t in stored):
            return []
        found = recurrent.refit(
            original,
            self.a,
            pruned,
            self.b,
            made[self.a.x.name],
            made[self.a.states.name],
            read[self.b.x.name],
            self.kept,
            rows_for(self.a.columns(original), self.count),
            seed,
            partial(_matrix, fitter),
        )
        return [Refit(f"{self.b.name} {part}", fit.penalty, fit.before, fit.after) for part, fit in found]


def _matrix(
    fitter: Fitter, key: str, rows: LayerSamples, held: LayerSamples, weight: Floats, bias: Floats, free: bool
) -> Fit:
    return step_of_run(f"fit of {key}", lambda: fitter.matrix(key, rows, held, weight, bias, free))


def _refit(
    model: Model, layer: LinearLayer, samples: Callable[[], tuple[LayerSamples, LayerSamples]], fitter: Fitter
) -> Refit:
    tensor = layer.weight.tensor
    assert tensor is not None
    free = takes_bias(layer)
    weight, bias = layer.matrix(model.array(tensor)).astype(np.float64), bias_of(model, layer)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        return Refit(layer.name, None, 0.0, 0.0)  # nothing that least squares could say of it
    found = step_of_run(f"fit of {layer.name}", lambda: fitter.product(layer, *samples(), weight, bias, free))
    if found.penalty is not None:
        set_weight(model, layer, found.weight)
        if free:
            set_bias(model, layer, found.bias)
    return Refit(layer.name, found.penalty, found.before, found.after)
