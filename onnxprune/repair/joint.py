"""Joint refit after the layer-wise one: chains of layers are fitted together to the original's output of their ends.

The layer-wise refit keeps the meaning of each feature inside a chain. Only the output of its last layer matters, and
fewer features approximate that better if they may change. This fits many more weights at once, so it needs more
samples: each one is also used augmented (see `augmentation`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnxprune.common.checkpoint import step_of_run
from onnxprune.common.progress import step
from onnxprune.layers.find import linear_layers, matched
from onnxprune.layers.linear import LinearLayer
from onnxprune.layers.weights import bias_of, set_bias, set_weight, takes_bias
from onnxprune.model.model import Model
from onnxprune.repair.augmentation import Variants
from onnxprune.repair.chain_function import ChainFunction, FeatureMaps, Floats, Function
from onnxprune.repair.gauss_newton import Refined, refine
from onnxprune.repair.kept_indices import KeptIndices
from onnxprune.repair.layer_chains import Chain, chains
from onnxprune.repair.layer_operator import LayerOperator
from onnxprune.repair.layer_samples import HOLD_OUT, ResidualAdd, bounds, residual_add
from onnxprune.repair.layerwise import Refit
from onnxprune.repair.side_by_side import inferred_graphs, side_by_side
from onnxprune.runtime.io_slices import WHOLE, IoSlices
from onnxprune.runtime.partition import assemble, partition
from onnxprune.runtime.session import local_session
from onnxprune.runtime.staged_run import BatchValues
from onnxprune.statistics.moments import Batches

LARGEST, BYTES_A_NUMBER = 2**24, 48
"""Numbers in the largest map of a chain, of all samples together; fewer if each, with all that is computed of it, has
less of the memory."""
POSITIONS = 100_000
"""Positions at the output of a chain that are enough."""
FEWEST = 6
"""Samples that are taken whatever their size."""


@dataclass(frozen=True)
class _Part:
    """A chain, its targets, and what the pruned model has of them."""

    chain: Chain
    original: LinearLayer
    join: ResidualAdd | None
    kept: KeptIndices

    @property
    def wanted(self) -> list[str]:
        """The original's value with the targets."""
        return [self.original.output.name if self.join is None else self.join.total]

    @property
    def given(self) -> list[str]:
        """Values of the pruned model: the chain's input, and what its output is added to."""
        return [self.chain.layers[0].x.name, *([self.join.other] if self.join else [])]

    @property
    def features(self) -> NDArray[np.int64]:
        """Output features of the original that the chain still computes."""
        (name,), axis, length = self.wanted, self.original.out_axis, self.original.features[1]
        return self.kept.along(name, axis % (self.original.output.rank or 1), length)

    def targets(self, made: Mapping[str, BatchValues]) -> Sequence[NDArray[Any]]:
        """What the original computed there, with the rows that the pruned model has, and all features."""
        (name,) = self.wanted
        return self.kept.all_rows(name, made[name], self.original.out_axis)


def repair(
    original: Model,
    pruned: Model,
    kept: KeptIndices,
    batches: Batches,
    *,
    seed: int = 0,
    memory: int = 2**31,
    io_slices: IoSlices = WHOLE,
) -> list[Refit]:
    """Refits the layers of a pruned model in place, chain by chain.

    Args:
        original: The model before pruning.
        pruned: The pruned model, its layers already refitted one by one.
        kept: What the pruned model has of the original's values.
        batches: Calibration feeds; every fifth sample is held out.
        seed: Seed of the choice of samples and of their augmentation.
        memory: Bytes of activations to hold, of both models together.
        io_slices: Indices that inputs and outputs of the pruned model keep.

    Returns:
        For each chain the ridge of its last step, None where it was not refitted, and its held-out error.
    """
    before, after = inferred_graphs(original, pruned)
    pairs = {b.name: a for a, b in matched(linear_layers(before), linear_layers(after)) if a.name in kept.layers}
    mine = [b for b in linear_layers(after) if b.name in pairs]
    parts = [
        _Part(chain, pairs[end.name], residual_add(end), kept)
        for chain in chains(mine, after.returned)
        for end in chain.layers[-1:]
    ]
    more = Variants(original, before, batches, seed)
    walk = side_by_side(original, pruned, parts, more, memory=memory, io_slices=io_slices)
    largest = min(LARGEST, memory // BYTES_A_NUMBER)
    done = []
    for i, (part, made, read) in enumerate(walk):
        step(part.chain.layers[-1].name, i, len(parts))
        given = partial(_refined, pruned, part, made, read, more.copies, [seed, i], largest)
        done.append(_refit(pruned, part.chain.layers, given))
    return done


def _refit(model: Model, layers: Sequence[LinearLayer], refined: Callable[[], Refined | None]) -> Refit:
    name = " + ".join(layer.name for layer in layers)
    found = step_of_run(f"joint fit of {name}", refined)
    if found is None:
        return Refit(name, None, 0.0, 0.0)
    if found.penalty is not None:
        for i, layer in enumerate(layers):
            set_weight(model, layer, found.weights[2 * i].astype(np.float64))
            if takes_bias(layer):
                set_bias(model, layer, found.weights[2 * i + 1].reshape(layer.groups, -1).astype(np.float64))
    return Refit(name, found.penalty, found.before, found.after)


def _refined(
    model: Model,
    part: _Part,
    made: Mapping[str, BatchValues],
    read: Mapping[str, BatchValues],
    copies: int,
    seed: Sequence[int],
    largest: int,
) -> Refined | None:
    """The weights of a chain after its refit; None where there are no samples, or weights that are not finite."""
    layers = part.chain.layers
    samples = _samples(
        part,
        [read[part.given[0]], part.targets(made), *(read[n] for n in part.given[1:])],
        copies,
        largest,
        np.random.default_rng(list(seed)),
    )
    if samples is None:
        return None
    rows, held = samples
    operators: list[LayerOperator] = []
    for layer in layers:
        space = operators[-1].out if operators else rows.x.shape[rows.x.ndim - len(layer.kernel) :]
        operators.append(LayerOperator.of(layer, space))
    functions = [_function(model, part.chain, i) for i in range(len(layers) - 1)]
    weights: list[Floats] = []
    for layer in layers:
        assert layer.weight.tensor is not None
        weights += [
            layer.matrix(model.array(layer.weight.tensor)).astype(np.float32),
            bias_of(model, layer).reshape(-1).astype(np.float32),
        ]
    if not all(np.isfinite(array).all() for array in weights):
        return None
    chain = ChainFunction(operators, functions, [takes_bias(layer) for layer in layers])
    return refine(chain, weights, rows, held, seed)


def _samples(
    part: _Part, arrays: Sequence[Sequence[NDArray[Any]]], copies: int, largest: int, rng: np.random.Generator
) -> tuple[FeatureMaps, FeatureMaps] | None:
    """Samples to fit and held-out samples, equally many of every batch; None where their shapes differ.

    Args:
        part: The chain.
        arrays: Its inputs, its targets, and what the graph adds to its output, if anything.
        copies: Number of consecutive batches that hold the same samples, augmented; held-out ones come from the first.
        largest: Numbers in the largest map of the chain, of all samples together.
        rng: Generator of the choice.
    """
    axes = [part.chain.layers[0].x_axis, *[part.chain.layers[-1].out_axis] * (len(arrays) - 1)]
    for stored, axis in zip(arrays, axes, strict=True):
        if any(array.ndim < 2 or axis % array.ndim == 0 or array.shape[1:] != stored[0].shape[1:] for array in stored):
            return None
    if any(len({array.shape[0] for array in batch}) > 1 for batch in zip(*arrays, strict=True)):
        return None  # a free axis lost rows that only a run tells
    batches = len(arrays[0]) // copies
    x, y = arrays[0][0], arrays[1][0]
    positions = math.prod(y.shape) // (y.shape[0] * y.shape[part.chain.layers[-1].out_axis])
    widest = max(max(layer.features) for layer in part.chain.layers) * max(
        math.prod(x.shape) // (x.shape[0] * x.shape[part.chain.layers[0].x_axis]), 1
    )
    wanted = max(FEWEST, min(POSITIONS // max(positions, 1), largest // widest) // copies)
    share = -(-wanted // batches)
    front, back, number = [], [], 0
    for n in np.sort(rng.permutation(batches)[:wanted]):
        size = len(arrays[0][n * copies])
        chosen = np.sort(rng.permutation(size)[:share])
        held = (number + np.arange(len(chosen))) % HOLD_OUT == HOLD_OUT - 1
        number += len(chosen)
        for copy in range(copies):
            whole = [a[n * copies + copy][chosen] for a in arrays]
            good = np.logical_and.reduce([np.isfinite(a).all(axis=tuple(range(1, a.ndim))) for a in whole])
            if (good & ~held).any():
                front.append(_maps(whole, axes, good & ~held, part.features))
            if copy == 0 and (good & held).any():
                back.append(_maps(whole, axes, good & held, part.features))
    if not front:
        return None
    end = part.chain.layers[-1].output if part.join is None else part.join.sum
    return _joined(front, *bounds(end)), _joined(back or front, *bounds(end))


def _maps(
    arrays: Sequence[NDArray[Any]], axes: Sequence[int], rows: NDArray[np.bool_], kept: NDArray[np.int64]
) -> list[Floats]:
    """Some rows of arrays, features first; of the targets the kept features."""
    x, y, *beside = (_first(a[rows], axis) for a, axis in zip(arrays, axes, strict=True))
    return [x, y[kept], *beside]


def _joined(parts: Sequence[Sequence[Floats]], low: float, high: float) -> FeatureMaps:
    x, y, *beside = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
    return FeatureMaps(x, y, beside[0] if beside else 0.0, low, high)


def _first(array: NDArray[Any], axis: int) -> Floats:
    """The array with its feature axis moved to the front."""
    return np.ascontiguousarray(np.moveaxis(array, axis, 0), dtype=np.float32)


def _function(model: Model, chain: Chain, i: int) -> Function:
    """The function between the i-th layer of a chain and the next, on maps with features first."""
    begin, end, axis = chain.layers[i].output.name, chain.layers[i + 1].x.name, chain.layers[i].out_axis
    piece = partition(model.proto, [[begin], [end]], ())[1]
    kind = chain.layers[i].output.elem_type or TensorProto.FLOAT
    given = {begin: helper.make_tensor_value_info(begin, kind, None)}
    runner = local_session(model.part(assemble(model.proto, piece, given)))

    def run(z: Floats) -> Floats:
        z = np.ascontiguousarray(np.moveaxis(z, 0, axis), dtype=helper.tensor_dtype_to_np_dtype(kind))
        made = runner.run([end], {begin: z})[0]
        return _first(made, axis)

    return run
