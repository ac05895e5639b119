"""Which features of the original's layers a pruned model still has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxprune.coupling.coupling import Coupling
from onnxprune.edit.resize import KeptLengths
from onnxprune.layers.batch_norm import normalizations
from onnxprune.layers.find import linear_layers
from onnxprune.layers.linear import LinearLayer
from onnxprune.layers.recurrent import cells


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
