"""Whether weights look as they were drawn.

The largest singular value of a matrix of independent numbers is close to their standard deviation times the sum of the
square roots of its sides (Bai and Yin, "Limit of the largest eigenvalue of a large dimensional sample covariance
matrix", 1988). What a training teaches a layer stands out of that (Martin and Mahoney, "Implicit self-regularization in
deep neural networks", JMLR 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph.graph import Graph
from onnxprune.graph.shape_inference import infer
from onnxprune.layers.find import linear_layers
from onnxprune.layers.weights import finite_part
from onnxprune.model.model import Model

FEWEST, MOST = 8, 512
"""Rows and columns that a matrix has at least, and of which so many are looked at."""
STANDS_OUT = 1.1
"""A singular value above this multiple of the largest one of independent numbers was learnt."""
RANDOM = 0.9
"""Weights look untrained where this share of the layers does."""


@dataclass(frozen=True)
class Untrained:
    """How many layers look as if their weights were drawn.

    Attributes:
        random: Number of those.
        layers: Number of the layers that are large enough to tell.
    """

    random: int
    layers: int

    @property
    def looks_so(self) -> bool:
        """Whether the model looks untrained."""
        return self.layers > 0 and self.random >= RANDOM * self.layers


def untrained(model: Model) -> Untrained:
    """Looks at the weights of the linear layers of a model."""
    graph = Graph(model.proto)
    infer(graph)
    found = []
    for layer in linear_layers(graph):
        if layer.weight.tensor is not None:
            matrix = layer.matrix(finite_part(model.array(layer.weight.tensor)))[0]
            if min(matrix.shape) >= FEWEST:
                found.append(_is_random(matrix[:MOST, :MOST].astype(np.float64)))
    return Untrained(sum(found), len(found))


def _is_random(matrix: NDArray[np.float64]) -> bool:
    expected = float(matrix.std()) * sum(np.sqrt(matrix.shape))
    return bool(0 < np.linalg.norm(matrix, 2) <= STANDS_OUT * expected)
