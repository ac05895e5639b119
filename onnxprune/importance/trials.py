"""Trials: output error of tentative weight changes, running only the part of the model after the changed layers."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph.graph import Graph
from onnxprune.layers.find import linear_layers
from onnxprune.layers.weights import add_bias
from onnxprune.model.model import Model
from onnxprune.runtime.partition import CannotCut
from onnxprune.runtime.session import session
from onnxprune.runtime.staged_run import StagedRun
from onnxprune.statistics.moments import Batches, Moments
from onnxprune.verification.comparable_outputs import with_comparable_outputs
from onnxprune.verification.output_error import Errors
from onnxprune.verification.output_values import OutputValues

MAX_ERROR = 1e9
"""Upper bound of the error, also used for outputs that are not finite."""
MAX_ELEMENTS = 2**20
"""Approximate number of elements of an output that are compared per batch."""


@dataclass(frozen=True)
class WeightChange:
    """A tentative weight of one group (block) of a linear layer.

    Attributes:
        layer: Name of the layer.
        block: Index of the block of its matrix.
        weight: The new matrix of the block; shape (outputs, columns).
    """

    layer: str
    block: int
    weight: NDArray[np.float64]


class Trials:
    """Trials at a sequence of positions in the model, in topological order.

        with Trials(model, moments, batches, ["x", "y"]) as trials:
            trials.step()  # runs the model up to "x" once
            error = trials.error([WeightChange("layer that reads x", 0, weight)])
            trials.step()
            ...

    The part of the model before a position is run only once, not for every trial.

    Attributes:
        possible: Whether there are batches, and thus outputs to compare.
    """

    def __init__(
        self,
        model: Model,
        moments: Mapping[str, Moments],
        batches: Batches,
        positions: Sequence[str],
        *,
        memory: int = 2**30,
    ) -> None:
        """Runs the unchanged model for reference.

        Args:
            model: The model; not modified.
            moments: Moments of the inputs of layers, by name.
            batches: Feeds.
            positions: For each step, the input of the first layers to change; in topological order.
            memory: Maximum size in bytes of the stored activations in memory.
        """
        self._moments, self._batches = moments, batches
        self._model, self._components = with_comparable_outputs(model)
        self._values = OutputValues(self._components, limit=MAX_ELEMENTS)
        self._reference = [self._values.reference(outputs) for outputs in session(self._model).each(batches)]
        self.possible = bool(self._reference)
        self._staged: StagedRun | None = None
        names = [o.name for o in self._model.proto.graph.output]
        with contextlib.suppress(CannotCut):
            self._staged = (
                StagedRun(self._model, batches, [*([p] for p in positions), names], memory=memory)
                if self.possible
                else None
            )

    def __enter__(self) -> Trials:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._staged is not None:
            self._staged.close()

    def step(self) -> None:
        """Advances to the next position."""
        if self._staged is not None:
            self._staged.step()

    def error(self, changes: Sequence[WeightChange]) -> float:
        """Returns the relative squared error of the outputs before a final softmax (see `comparable_outputs`).

        The biases of the changed layers are adapted so that the means of their outputs do not change.

        Args:
            changes: Changes of layers that are not upstream of the current position.
        """
        changed = self._model.copy()
        layers = {layer.name: layer for layer in linear_layers(Graph(changed.proto))}
        for change in changes:
            layer, block, weight = layers[change.layer], change.block, change.weight
            tensor = layer.weight.tensor
            assert tensor is not None
            stored = changed.array(tensor)
            matrix = layer.matrix(stored).astype(np.float64)
            seen = self._moments[layer.name]
            shift = (matrix[block] - weight) @ (seen.total[block] / max(seen.count, 1))
            matrix[block] = weight
            changed.set_array(tensor, layer.unmatrix(matrix, stored.shape).astype(stored.dtype))
            add_bias(changed, layer, block, shift)
        results = self._staged.ahead(changed) if self._staged is not None else session(changed).each(self._batches)
        errors = Errors(1)
        for reference, outputs in zip(self._reference, results, strict=True):
            errors.add_values(reference, [self._values.of(outputs)])
        return min(errors.shares()[0], MAX_ERROR)
