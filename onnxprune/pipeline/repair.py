"""Repairs a pruned model by the method that the options name."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration import Samples
from onnxprune.coupling.coupling import Coupling
from onnxprune.edit.resize import KeptLengths
from onnxprune.errors import InputError
from onnxprune.layers.batch_norm import normalizations
from onnxprune.layers.find import linear_layers
from onnxprune.layers.linear import LinearLayer
from onnxprune.layers.recurrent import cells
from onnxprune.model.model import Model
from onnxprune.options import Options
from onnxprune.pipeline.data import CalibrationSplit, SyntheticFeeds
from onnxprune.pipeline.settle import why_not_data_free
from onnxprune.repair import calibrated, data_free
from onnxprune.repair.calibrated import Settings
from onnxprune.repair.kept_indices import KeptIndices
from onnxprune.repair.layerwise import Fitter, Refit
from onnxprune.runtime.io_slices import IoSlices
from onnxprune.runtime.partition import CannotCut


def kept_indices(coupling: Coupling, removed: NDArray[np.bool_]) -> KeptIndices:
    """What the values of the main graph keep once channels are removed.

    Args:
        coupling: The analyzed graph.
        removed: Boolean per channel id, True for removed channels.
    """
    graph, lengths = coupling.graph, KeptLengths(coupling, removed)
    layers = [layer.name for layer in linear_layers(graph) if _has_features(layer)]
    layers += [cell.name for cell in cells(graph)]
    layers += [node.name for node in normalizations(graph) if len(node.x.shape or []) > 1]
    axes = {
        value.name: {
            axis.position: (axis.length, lengths.kept(axis))
            for axis in value.axes()
            if axis.length is not None and lengths.changed(axis)
        }
        for value in graph.main.names.values()
        if lengths.touches(value)
    }
    return KeptIndices(frozenset(layers), axes)


def _has_features(layer: LinearLayer) -> bool:
    """Whether the declared output shape has the layer's number of features: models may declare wrong shapes."""
    shape = layer.output.shape or []
    return -len(shape) <= layer.out_axis < len(shape) and shape[layer.out_axis] == layer.features[1]


def repair(
    original: Model,
    pruned: Model,
    kept: KeptIndices,
    data: CalibrationSplit | None,
    options: Options,
    io_slices: IoSlices,
    synthetic_feeds: SyntheticFeeds,
    *,
    fitter: Fitter | None = None,
    plain: Model | None = None,
) -> list[Refit]:
    """Refits the pruned model in place; returns a record of each layer.

    Args:
        original: The model before pruning.
        pruned: The model after it.
        kept: See `kept_indices`.
        data: Calibration data.
        options: How to repair.
        io_slices: What inputs and outputs of the pruned model lost.
        synthetic_feeds: Makes inputs, where there are no data.
        fitter: What fits a layer; by default least squares.
        plain: What to fall back to; by default the pruned model as it is.

    Raises:
        InputError: The model cannot be run in pieces.
    """
    try:
        if data is None or options.repair.method == "data-free":
            done = data_free.repair(
                original,
                pruned,
                kept,
                synthetic_feeds(),
                seed=options.seed,
                memory=options.resources.memory,
                io_slices=io_slices,
                fitter=fitter,
            )
        else:
            assert isinstance(data.fit, Samples)
            settings = Settings(options.seed, options.resources.memory, io_slices, fitter)
            able = fitter is None and why_not_data_free(original, options.checks.input_shapes or None) is None
            done = calibrated.repair(
                original, pruned, kept, data.fit, settings, fallback=plain, synthetic=synthetic_feeds if able else None
            )
    except CannotCut as e:
        raise InputError(f"the model cannot be run in pieces: {e}", "repair needs that: use --repair none") from e
    return done
