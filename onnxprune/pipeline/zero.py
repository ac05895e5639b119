"""The stage that sets weights to zero in a pattern, with or without calibration data."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxprune import sparsity
from onnxprune.common.executor import each, sorted_by_task
from onnxprune.common.progress import part
from onnxprune.coupling.coupling import Coupling
from onnxprune.errors import Words, option
from onnxprune.extensions.patterns import Pattern
from onnxprune.extensions.points import criteria
from onnxprune.gradients.bodies import TYPES
from onnxprune.graph.graph import Graph, Value
from onnxprune.importance.gradient_scores import scores_of_elements
from onnxprune.importance.trials import Trial, Trials, WeightChange
from onnxprune.layers.find import linear_layers
from onnxprune.layers.linear import LinearLayer
from onnxprune.layers.recurrent import cells
from onnxprune.layers.weights import finite_part
from onnxprune.model.model import Model
from onnxprune.options import Options, Scope
from onnxprune.pipeline.data import CalibrationSplit, SyntheticFeeds
from onnxprune.pipeline.observe import fresh_samples, gradient_data, moments
from onnxprune.pipeline.refit import RepairJob, refit
from onnxprune.repair.kept_indices import KeptIndices
from onnxprune.repair.layerwise import Refit
from onnxprune.repair.masked import Zeros, zeroed
from onnxprune.runtime.io_slices import IoSlices
from onnxprune.sparsity import Weight
from onnxprune.sparsity.layer_shares import shares
from onnxprune.sparsity.zeroed import ZeroMask
from onnxprune.statistics.moments import Moments, means

PROBES = (0.4, 0.6, 0.8, 0.9, 0.95)
"""Shares of zeros in one layer at which the outputs are looked at."""
SPREADING_WORK = 0.5
"""Share of the allocation of zeros to layers in the work of setting them, for the estimate of the remaining time."""
NOTHING = "what was asked for takes none of its elements"


@dataclass
class Zeroed:
    """Result of setting weights to zero.

    Attributes:
        masks: Constant -> which of its elements are zero.
        dense: Constant -> why it has no zeros of the pattern.
        repair: Record of each refitted layer; None without repair.
    """

    masks: dict[str, ZeroMask] = field(default_factory=dict)
    dense: dict[str, str] = field(default_factory=dict)
    repair: list[Refit] | None = None


def zero(
    original: Callable[[], Model],
    model: Model,
    coupling: Coupling,
    kept: KeptIndices,
    data: CalibrationSplit | None,
    options: Options,
    io_slices: IoSlices,
    synthetic_feeds: SyntheticFeeds,
    *,
    first: bool,
) -> Zeroed:
    """Sets weights of a model to zero, in place.

    Args:
        original: Loads the model that was given; called where layers are refitted to it.
        model: What is left of it once channels are removed.
        coupling: The analysis of that.
        kept: What it still has of the original's values.
        data: Calibration data.
        options: Pattern, importance and repair.
        io_slices: What inputs and outputs lost with the channels.
        synthetic_feeds: Makes inputs, where there are no data.
        first: Whether `model` is the one that was given, which statistics in a file are of.
    """
    assert options.zeros is not None
    pattern, across = options.zeros.shape, bool(options.zeros.global_ranking)
    refits, criterion = options.repair.refits_zeros, criteria.get(options.solver)
    by_moments = criterion.needs == "moments"
    done = Zeroed()
    targets = {w.value.key: w for w in sparsity.weights(coupling) if wanted(w, pattern, options.scope, done)}
    spread = options.spreads_zeros and data is not None
    fits = spread or refits or by_moments  # else no layer is looked at, and no weight read twice
    layers = {
        layer.weight.key: layer
        for layer in linear_layers(coupling.graph)
        if fits and layer.weight.key in targets and not layer.weight_shared
        if _is_finite(model, layer.weight) and not (refits and _is_skipped(model, kept, layer.name, layer.bias))
    }
    states = {
        v.key: v
        for cell in cells(coupling.graph)
        for v in (cell.weight, cell.recurrence)
        if fits and v.key in targets and _is_finite(model, v) and not criterion.comparable
        if not (refits and _is_skipped(model, kept, cell.name, cell.weight, cell.recurrence, cell.bias))
    }
    zeros = Zeros(
        options.solver,
        dict.fromkeys([*(layer.name for layer in layers.values()), *states], pattern),
        bias_only=options.repair.method == "data-free",
    )
    input_moments: Mapping[str, Moments] = {}
    scores: dict[str, NDArray[Any]] | None = None
    if criterion.comparable:
        given = gradient_data(data, options.seed, io_slices)
        scores = scores_of_elements(criterion, model, _trained(model, list(targets.values())), given)
    if spread or (by_moments and not refits):
        input_moments = moments(
            model,
            coupling,
            data,
            stats=options.calibration.stats if first else None,
            seed=options.seed,
            memory=options.resources.memory,
            io_slices=io_slices,
        )
    if spread:
        assert data is not None
        with part(0.1, SPREADING_WORK):
            spread_to = _allotted(
                model,
                list(layers.values()),
                pattern,
                input_moments,
                data,
                io_slices,
                input_shapes=options.checks.input_shapes,
                memory=options.resources.memory,
            )
        zeros = replace(zeros, layers={**zeros.layers, **spread_to})
    if not refits:
        found = _by_moments(model, layers, zeros, input_moments) if by_moments else {}
        rest = [w for key, w in targets.items() if key not in found]
        found |= sparsity.zero_smallest(model, coupling, rest, pattern, across, criterion, scores)
    else:
        input_moments = {}  # the walk gathers its own, and memory holds one of them
        fitted = {key: layer.weight for key, layer in layers.items()} | states
        stored = {key: model.array(_tensor(value)) for key, value in fitted.items()}
        found = sparsity.zero_smallest(model, coupling, list(targets.values()), pattern, across, criterion, scores)
        if scores is not None or (across and not spread and not states):  # ranked together, not layer by layer
            masks = {layers[key].name: found[key].array() for key in layers if key in found}
            chosen = {name: zeros.layers[name] for name in masks}  # the others keep all, and are refitted whole
            zeros = replace(zeros, layers=chosen, masks=masks)
        plain = model.copy()
        if not zeros.bias_only:
            for key, array in stored.items():  # the solvers choose among all elements
                model.set_array(_tensor(fitted[key]), array)
        job = RepairJob.of(
            options, original(), model, kept, data, io_slices, synthetic_feeds, fitter=zeros, unrepaired=plain
        )
        with part(SPREADING_WORK if spread else 0.0, 1.0):
            done.repair = refit(job)
        now = {v.key: v for v in Graph(model.proto).constants()}
        found |= {key: ZeroMask.of(model.array(_tensor(now[key])) == 0) for key in fitted}
    done.masks = {key: mask for key, mask in found.items() if mask.ratio}
    done.dense |= dict.fromkeys((key for key in targets if key not in done.masks), NOTHING)
    return done


def _trained(model: Model, targets: Sequence[Weight]) -> dict[str, NDArray[Any]]:
    """The weights of the main graph that may have gradients, by name."""
    return {
        w.value.name: finite_part(model.array(_tensor(w.value)))
        for w in targets
        if w.value.elem_type in TYPES and w.value.key == w.value.name
    }


def _allotted(
    model: Model,
    layers: Sequence[LinearLayer],
    pattern: Pattern,
    input_moments: Mapping[str, Moments],
    data: CalibrationSplit,
    io_slices: IoSlices,
    *,
    input_shapes: Mapping[str, Sequence[int]],
    memory: int,
) -> dict[str, Pattern]:
    """Patterns by layer, with shares allocated by the measured effect of zeros in the layer on the outputs."""
    if not layers:
        return {}
    runs = len(layers) * len(PROBES)
    batches = fresh_samples(model, data, runs=runs, input_shapes=input_shapes, io_slices=io_slices)
    positions = [layer.x.name for layer in layers]
    tasks = ((layer.name, _probes(i, layer, model, pattern, input_moments)) for i, layer in enumerate(layers))
    with Trials(model, means(input_moments), batches, positions, memory=memory) as trials:
        measured = list(sorted_by_task(each(trials, tasks, len(layers), kept="shares of zeros")))
    sizes = [int(np.prod(layer.dims)) for layer in layers]
    found = shares(sizes, PROBES, measured, pattern.share or 0.0)
    return {layer.name: pattern.with_share(share) for layer, share in zip(layers, found, strict=True)}


def _probes(
    number: int, layer: LinearLayer, model: Model, pattern: Pattern, input_moments: Mapping[str, Moments]
) -> Trial:
    """A layer with each of the shares of zeros."""
    matrix = layer.matrix(model.array(_tensor(layer.weight))).astype(np.float64)
    versions = []
    for probe in PROBES:
        made = zeroed(layer, "wanda", pattern.with_share(probe), matrix, input_moments[layer.name])
        versions.append([WeightChange(layer.name, block, weight) for block, weight in enumerate(made)])
    return Trial(number, versions)


def _by_moments(
    model: Model, layers: Mapping[str, LinearLayer], zeros: Zeros, input_moments: Mapping[str, Moments]
) -> dict[str, ZeroMask]:
    """Sets zeros chosen from input moments, in place; all other elements are unchanged bit for bit."""
    found = {}
    for key, layer in layers.items():
        if layer.name in input_moments:
            array = model.array(_tensor(layer.weight))
            made = zeroed(
                layer,
                zeros.method,
                zeros.layers[layer.name],
                layer.matrix(array).astype(np.float64),
                input_moments[layer.name],
            )
            mask = layer.unmatrix(made == 0, array.shape)
            found[key] = ZeroMask.of(mask)
            model.set_array(_tensor(layer.weight), np.where(mask, np.zeros((), array.dtype), array))
    return found


def _is_skipped(model: Model, kept: KeptIndices, name: str, *constants: Value | None) -> bool:
    """Whether a refit passes over a layer: what is left of its output is not known, or a constant is not finite."""
    given = [v for v in constants if v is not None and v.tensor is not None]
    return name not in kept.layers or not all(_is_finite(model, v) for v in given)


def _is_finite(model: Model, value: Value) -> bool:
    """Whether a weight has finite elements only; others are ranked by magnitude and not fitted."""
    return all(bool(np.isfinite(block).all()) for block in model.values(_tensor(value)).blocks())


def _tensor(value: Value) -> TensorProto:
    assert value.tensor is not None
    return value.tensor


def wanted(weight: Weight, pattern: Pattern, scope: Scope, done: Zeroed) -> bool:
    """Whether a weight is open to zeros; the reason why not is entered in `done.dense`."""
    names = {weight.value.key, *(node.proto.name for node, _ in weight.value.consumers)}

    def hit(patterns: Any) -> bool:
        return any(re.search(p, n) for p in patterns for n in names)

    if hit(scope.ignore) or (scope.only and not hit(scope.only)):
        return False
    if pattern.elementwise:
        return True
    if weight.recurrent and not scope.only:
        done.dense[weight.value.key] = Words(
            f"weights of recurrent layers have zeros where {option('only', ...)} names them"
        )
    elif weight.layout is None:
        done.dense[weight.value.key] = weight.why
    else:
        return True
    return False
