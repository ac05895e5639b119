"""Repairs a pruned model by the method that the options name."""

from __future__ import annotations

from collections.abc import Mapping

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
from onnxprune.repair.layerwise import Fitter, Refit
from onnxprune.runtime.io_slices import IoSlices
from onnxprune.runtime.partition import CannotCut


def kept_features(coupling: Coupling, removed: NDArray[np.bool_]) -> dict[str, NDArray[np.int64]]:
    """Indices that remain of each layer by name: output features, units of a recurrent layer, normalized channels."""
    lengths = KeptLengths(coupling, removed)
    kept = {
        layer.name: lengths.kept(layer.output.axis(layer.out_axis))
        for layer in linear_layers(coupling.graph)
        if _has_features(layer)
    }
    kept |= {cell.name: lengths.kept(cell.recurrence.axis(2)) for cell in cells(coupling.graph)}
    return kept | {
        node.name: lengths.kept(node.x.axis(1))
        for node in normalizations(coupling.graph)
        if len(node.x.shape or []) > 1
    }


def _has_features(layer: LinearLayer) -> bool:
    """Whether the declared output shape has the layer's number of features: models may declare wrong shapes."""
    shape = layer.output.shape or []
    return -len(shape) <= layer.out_axis < len(shape) and shape[layer.out_axis] == layer.features[1]


def repair(
    original: Model,
    pruned: Model,
    kept: Mapping[str, NDArray[np.int64]],
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
        kept: See `kept_features`.
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
