"""What a pruned model has of the original's values, from the analysis of the original."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxprune.coupling.coupling import Coupling
from onnxprune.edit.resize import KeptLengths
from onnxprune.graph.graph import Graph
from onnxprune.layers.batch_norm import normalizations
from onnxprune.layers.find import linear_layers
from onnxprune.layers.linear import LinearLayer
from onnxprune.layers.recurrent import cells
from onnxprune.repair.kept_indices import KeptAxis, KeptIndices


def kept_indices(coupling: Coupling, removed: NDArray[np.bool_]) -> KeptIndices:
    """What the values of the main graph keep once channels are removed.

    Args:
        coupling: The analyzed graph.
        removed: Boolean per channel id, True for removed channels.
    """
    graph, lengths = coupling.graph, KeptLengths(coupling, removed)
    layers = [*refittable(graph), *(cell.name for cell in cells(graph))]
    layers += [node.name for node in normalizations(graph) if len(node.x.shape or []) > 1]
    axes = {
        value.name: {
            axis.position: KeptAxis(tuple(n if isinstance(n, int) else None for n in axis.factors), lengths.kept(axis))
            for axis in value.axes()
            if axis.factors and lengths.changed(axis)
        }
        for value in graph.main.names.values()
        if lengths.touches(value)
    }
    return KeptIndices(frozenset(layers), axes)


def refittable(graph: Graph) -> frozenset[str]:
    """Names of the linear layers whose features are known."""
    return frozenset(layer.name for layer in linear_layers(graph) if _has_features(layer))


def _has_features(layer: LinearLayer) -> bool:
    """Whether the declared output shape has the layer's number of features: models may declare wrong shapes."""
    shape = layer.output.shape or []
    return -len(shape) <= layer.out_axis < len(shape) and shape[layer.out_axis] == layer.features[1]
