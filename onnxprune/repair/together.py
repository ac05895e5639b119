"""A second walk after `calibrated`: runs of layers are refitted together to what the original made at their ends.

The first walk lets each layer do what it did before with what is left of its inputs. But the features in the middle of
a run need not be the ones that they were: what counts is what comes out of its end, and there the few that stay serve
better once they are chosen anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune import shapes
from onnxprune.graph import Graph
from onnxprune.layer_weights import bias_of, set_bias, set_weight, takes_bias
from onnxprune.linear_maps import Product
from onnxprune.model import Model
from onnxprune.narrowing import WHOLE, Narrowing
from onnxprune.observe import Batches
from onnxprune.pieces import assemble, plan
from onnxprune.products import matched, products
from onnxprune.repair.calibrated import HOLD_BACK, Join, Kept, bounds, join
from onnxprune.repair.chains import Chain, chains
from onnxprune.repair.gauss_newton import Floats, Function, Maps, Run, refine
from onnxprune.repair.operators import Operator
from onnxprune.runtime import session
from onnxprune.segments import Stored, Walk

LARGEST = 2**25
"""Numbers in the maps of a run, of all samples together."""
PLACES = 150_000
"""Places at the end of a run that are enough."""
FEWEST = 16
"""Samples that are taken whatever their size."""


@dataclass(frozen=True)
class Together:
    """What became of one run: names of its layers, and its held-back error before and after, of the end's variance."""

    layers: list[str]
    before: float
    after: float


@dataclass(frozen=True)
class _Part:
    chain: Chain
    end: Product
    join: Join | None
    kept: NDArray[np.int64]

    @property
    def wanted(self) -> list[str]:
        return [self.end.output.name if self.join is None else self.join.total]

    @property
    def given(self) -> list[str]:
        return [self.chain.layers[0].x.name, *([self.join.other] if self.join else [])]


def repair(original: Model, pruned: Model, kept: Kept, batches: Batches, *, seed: int = 0, memory: int = 2**31,
           narrowing: Narrowing = WHOLE) -> list[Together]:
    """Refits the layers of a pruned model in place, run by run.

    Args:
        original: The model before pruning.
        pruned: The model after it, each layer refitted already.
        kept: Which output features of the original's layers stay.
        batches: Calibration feeds; every fifth batch is held back (all serve for both if there are fewer than five).
        seed: Seed of the samples that are taken.
        memory: Bytes of activations to hold, of both models together.
        narrowing: What inputs and outputs of the pruned model lost.
    """
    before, after = Graph(original.proto), Graph(pruned.proto)
    for graph in (before, after):
        shapes.infer(graph)
    pairs = {b.name: a for a, b in matched(products(before), products(after)) if a.name in kept}
    mine = [b for b in products(after) if b.name in pairs and not b.weight_shared and b.kind != "conv_transpose"]
    returned = {id(v) for scope in after.scopes() for v in scope.outputs}
    parts = [_Part(c, pairs[c.layers[-1].name], join(c.layers[-1]), kept[c.layers[-1].name])
             for c in chains(mine, returned)]
    done = []
    with Walk(original, batches, [p.wanted for p in parts], memory=memory // 2) as first, \
            Walk(pruned, narrowing.batches(batches), [p.given for p in parts], memory=memory // 2) as second:
        for i, part in enumerate(parts):
            done.append(_refit(pruned, part, first.step(), second.step(), [seed, i]))
    return done


def _refit(model: Model, part: _Part, made: dict[str, Stored], read: dict[str, Stored], seed: Sequence[int]) -> Together:
    layers = part.chain.layers
    arrays = [read[part.given[0]], made[part.wanted[0]], *([read[part.join.other]] if part.join else [])]
    rows, held = _samples(part, arrays, seed)
    operators, lengths = [], rows.x.shape[2:] if layers[0].kernel else ()
    for layer in layers:
        operators.append(Operator.of(layer, lengths))
        lengths = operators[-1].out
    functions = [_function(model, part.chain, i) for i in range(len(layers) - 1)]
    run = Run(operators, functions, [takes_bias(layer) for layer in layers])
    weights: list[Floats] = []
    for layer in layers:
        assert layer.weight.tensor is not None
        weights += [layer.matrix(model.array(layer.weight.tensor)).astype(np.float32),
                    bias_of(model, layer).reshape(-1).astype(np.float32)]
    found, before, after = refine(run, weights, rows, held, seed)
    if after < before:
        for i, layer in enumerate(layers):
            set_weight(model, layer, found[2 * i].astype(np.float64))
            if run.free[i]:
                set_bias(model, layer, found[2 * i + 1].reshape(layer.groups, -1).astype(np.float64))
    return Together([layer.name for layer in layers], before, after)


def _samples(part: _Part, arrays: Sequence[Stored], seed: Sequence[int]) -> tuple[Maps, Maps]:
    """Some samples to fit, and some held back; of every batch as many."""
    first, last = part.chain.layers[0], part.chain.layers[-1]
    rng = np.random.default_rng(list(seed))
    batches = len(arrays[0])
    size = arrays[0][0].shape[0] if arrays[0][0].ndim else 1
    numbers = sum(layer.features[0] + 2 * layer.features[1] for layer in part.chain.layers) // 3 * max(
        arrays[0][0].size // max(size * first.features[0], 1), 1)
    places = max(arrays[1][0].size // max(size * arrays[1][0].shape[last.out_axis], 1), 1)
    wanted = max(FEWEST, min(PLACES // places, LARGEST // max(numbers, 1)))
    share = -(-wanted // batches)
    chosen = np.arange(batches) if batches <= wanted else np.sort(rng.permutation(batches)[:wanted])
    parts = []
    for n in chosen:
        rows = np.sort(rng.permutation(len(arrays[0][n]))[:share])
        x, y, *offset = (a[n][rows] for a in arrays)
        parts.append((_first(x, first.x_axis), _first(y, last.out_axis)[part.kept],
                      *(_first(o, last.out_axis) for o in offset)))
    end = last.output if part.join is None else part.join.sum
    back = [p for i, p in enumerate(parts) if i % HOLD_BACK == HOLD_BACK - 1]
    front = [p for i, p in enumerate(parts) if i % HOLD_BACK != HOLD_BACK - 1]
    return _joined(front if back else parts, *bounds(end)), _joined(back or parts, *bounds(end))


def _joined(parts: Sequence[tuple[Floats, ...]], low: float, high: float) -> Maps:
    x, y, *offset = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
    return Maps(x, y, offset[0] if offset else 0.0, low, high)


def _first(array: NDArray[Any], axis: int) -> Floats:
    """The feature axis first."""
    return np.ascontiguousarray(np.moveaxis(array, axis, 0), dtype=np.float32)


def _function(model: Model, chain: Chain, i: int) -> Function:
    """What lies behind the i-th layer of a run, on maps with features first."""
    begin, end = chain.layers[i].output, chain.layers[i + 1].x
    from onnx import TensorProto, helper
    piece = plan(model.proto, [[begin.name], [end.name]], ())[1]
    proto = assemble(model.proto, piece, {begin.name: helper.make_tensor_value_info(begin.name, TensorProto.FLOAT, None)})
    runner = session(Model(proto, model.path, model.data_files))
    axis = chain.layers[i].out_axis

    def run(z: Floats) -> Floats:
        made = runner.run([end.name], {begin.name: np.ascontiguousarray(np.moveaxis(z, 0, axis))})[0]
        return _first(made, axis)

    return run
