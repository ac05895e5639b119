"""What calibration data add to the flow: damage curves, repair, and the drift on samples held back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from onnxprune.coupling.coupling import Coupling
from onnxprune.edit.resize import KeptLengths
from onnxprune.errors import InputError
from onnxprune.layers.batch_norm import normalizations
from onnxprune.layers.find import linear_layers
from onnxprune.layers.linear import LinearLayer
from onnxprune.layers.recurrent import cells
from onnxprune.model.model import Model
from onnxprune.options import Options
from onnxprune.pipeline.data import CalibrationSplit, SyntheticFeeds, logger
from onnxprune.repair import data_free, joint, layerwise
from onnxprune.repair.batch_norm import reestimate
from onnxprune.repair.layerwise import Fitter, Refit
from onnxprune.runtime.io_slices import IoSlices
from onnxprune.runtime.partition import CannotCut
from onnxprune.verification.output_error import relative_errors


def kept_features(coupling: Coupling, gone: NDArray[np.bool_]) -> dict[str, NDArray[np.int64]]:
    """Indices that remain of each layer by name: output features, units of a recurrent layer, normalized channels."""
    lengths = KeptLengths(coupling, gone)
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
    """Whether the output is known to have the features that the layer makes: a model may declare what is not so."""
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
    """Refits the pruned model in place; what the report says of each layer.

    Running statistics follow in the end. What does not bring the outputs nearer to the original's, on the data that it
    was made from, is taken back: each layer may be nearer to what it made, and still the errors add up.

    Args:
        original: The model before pruning.
        pruned: The model after it.
        kept: Which output features of the original's layers stay, by the layer's name.
        data: Calibration data.
        options: How to repair.
        io_slices: What inputs and outputs of the pruned model lost.
        synthetic_feeds: Makes inputs, where there are no data.
        fitter: What fits a product layer; by default least squares.
        plain: What to fall back to; by default the pruned model as it is.
    """
    plain = pruned.copy() if plain is None else plain
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
            done = layerwise.repair(
                original,
                pruned,
                kept,
                data.fit,
                data.batches,
                seed=options.seed,
                memory=options.resources.memory,
                io_slices=io_slices,
                fitter=fitter,
            )
        if data is not None and options.repair.method == "calibrated":
            versions, names = [plain, pruned.copy()], ["pruned", "refitted"]
            if fitter is None:
                done += joint.repair(
                    original,
                    pruned,
                    kept,
                    data.fit,
                    seed=options.seed,
                    memory=options.resources.memory,
                    io_slices=io_slices,
                )
                versions.append(pruned.copy())
                names.append("refitted together")
            if reestimate(original, pruned, kept, data.fit, io_slices):
                versions.append(pruned.copy())
                names.append("with new running statistics")
            errors = relative_errors(original, versions, data.fit.batches(), io_slices)
            best = int(np.argmin(errors))  # of equals the first: what changes nothing is left out
            pruned.proto.CopyFrom(versions[best].proto)
            logger.info(
                "squared error of the outputs: %s; %s is taken",
                ", ".join(f"{error:.3g} {how}" for how, error in zip(names, errors, strict=True)),
                names[best],
            )
            if best == 0:
                done = [replace(r, penalty=None, after=r.before) for r in done]
    except CannotCut as e:
        raise InputError(f"the model cannot be run in pieces: {e}", "repair needs that: use --repair none") from e
    return done
