"""How plausible inputs of a model are, by the statistics of the features that its layers compute from them.

If a model has BatchNormalization nodes, the outputs of the layers before them should have the stored running
statistics. Otherwise, the mean of a feature of a trained layer is small relative to its standard deviation: with inputs
that are too small the features are constant (the biases), and with inputs that are too large later layers saturate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.graph.graph import Graph
from onnxprune.graph.shape_inference import infer
from onnxprune.layers.batch_norm import normalizations
from onnxprune.layers.find import linear_layers
from onnxprune.model.model import Model
from onnxprune.runtime.local_session import LocalSession
from onnxprune.runtime.process import Session
from onnxprune.runtime.session import Feeds, session

MAX_DEVIATION = 10.0
"""Deviation score of a feature that has none, since its values are not finite."""


class Plausibility:
    """Measures how far the feature statistics of a model are from those in training.

    Attributes:
        features: Names of the values that are measured, outputs of layers.
    """

    def __init__(self, model: Model, load: Callable[[Model], Session | LocalSession] = session) -> None:
        """Adds the features to the outputs of a copy of the model.

        Args:
            model: The model.
            load: Loads the copy: `local_session` where the model ran in the worker before.

        Raises:
            RunError: onnxruntime rejects it.
        """
        copy = model.copy()
        graph = Graph(copy.proto)
        infer(graph)
        stored = [
            (n.x, model.array(n.mean).astype(float), model.array(n.variance).astype(float))
            for n in normalizations(graph)
            if n.x.producer is not None
        ]
        self._known = {x.name: (mean, variance) for x, mean, variance in stored}
        self._axes = {x.name: 1 for x, _, _ in stored}
        if not stored:
            self._axes = {p.output.name: p.out_axis for p in linear_layers(graph)}
        self.features = list(self._axes)
        have = {o.name for o in copy.proto.graph.output}
        copy.proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in self._axes if n not in have)
        self._session = load(copy)

    def deviation(self, batches: Sequence[Feeds]) -> float:
        """Returns the median deviation score of all features; smaller is more plausible."""
        sums: dict[str, NDArray[np.float64]] = {}
        for arrays in self._session.each(batches if self._axes else (), list(self._axes)):
            for name, array in zip(self._axes, arrays, strict=True):
                rows = np.moveaxis(array, self._axes[name], 0).reshape(array.shape[self._axes[name]], -1)
                sums[name] = sums.get(name, 0.0) + _powers(rows.astype(np.float64))
        scores = [self._scores(name, *total) for name, total in sums.items()]
        return float(np.median(np.concatenate(scores))) if scores else 0.0

    def _scores(
        self, name: str, count: NDArray[np.float64], total: NDArray[np.float64], squares: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Returns the deviation score of each feature of a value, shape (features,).

        With running statistics (m, s): |mean - m| / s + |log(std / s)|; without: |mean| / std.
        """
        with np.errstate(invalid="ignore", over="ignore"):  # features that are not finite are bounded below
            mean = total / count
            std = np.sqrt(np.maximum(squares / count - mean**2, 1e-20))
            if name in self._known:
                true_mean, true_std = self._known[name][0], np.sqrt(self._known[name][1] + 1e-20)
                scores = np.abs(mean - true_mean) / true_std + np.abs(np.log(std / true_std))
            else:
                scores = np.abs(mean) / std
        bounded: NDArray[np.float64] = np.nan_to_num(scores, nan=MAX_DEVIATION, posinf=MAX_DEVIATION)
        return bounded


def _powers(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns count, sum and sum of squares of each row; shape (3, rows)."""
    with np.errstate(invalid="ignore", over="ignore"):
        sums = [np.full(len(rows), float(rows.shape[1])), rows.sum(axis=1), np.square(rows).sum(axis=1)]
    found: NDArray[np.float64] = np.stack(sums)
    return found
