"""Trials: output error of tentative weight changes, running only the part of the model after the changed layers."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph.graph import Graph
from onnxprune.layers.find import linear_layers
from onnxprune.layers.linear import LinearLayer
from onnxprune.layers.weights import bias_of, set_bias, set_weight, takes_bias
from onnxprune.model.model import Model
from onnxprune.runtime.partition import CannotCut
from onnxprune.runtime.session import session
from onnxprune.runtime.staged_run import StagedRun
from onnxprune.statistics.moments import Batches
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


@dataclass(frozen=True)
class Trial:
    """Versions of some layers, one after another.

    Attributes:
        position: Number of the position that is not downstream of any of the layers.
        versions: The changes of each.
    """

    position: int
    versions: list[list[WeightChange]]


class Trials:
    """Trials at a sequence of positions in the model, in topological order.

        with Trials(model, means, batches, ["x", "y"]) as trials:
            trials.advance(0)  # runs the model up to "x" once
            error = trials.error([WeightChange("layer that reads x", 0, weight)])
            trials.advance(1)
            ...

    The part of the model before a position is run only once, not for every trial; in another process once more.

    Attributes:
        possible: Whether there are batches, and thus outputs to compare.
    """

    def __init__(
        self,
        model: Model,
        means: Mapping[str, NDArray[np.float64]],
        batches: Batches,
        positions: Sequence[str],
        *,
        memory: int = 2**30,
    ) -> None:
        """Runs the unchanged model for reference.

        Args:
            model: The model; not modified.
            means: Means of the inputs of layers, by name; shape (groups, columns).
            batches: Feeds.
            positions: The inputs of the first layers to change, in topological order.
            memory: Maximum size in bytes of the stored activations in memory.
        """
        self._means, self._batches, self._positions, self._memory = means, batches, positions, memory
        self._original = model
        self._model, self._components = with_comparable_outputs(model)
        self._values = OutputValues(self._components, limit=MAX_ELEMENTS)
        self._reference = [self._values.reference(outputs) for outputs in session(self._model).each(batches)]
        self.possible = bool(self._reference)
        self._staged: StagedRun | None = None
        self._at = len(positions)

    def __reduce__(self) -> tuple[Any, ...]:
        batches = [dict(feeds) for feeds in self._batches]
        return _received, (self._original, self._means, batches, list(self._positions), self._memory)

    def __enter__(self) -> Trials:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._staged is not None:
            self._staged.close()

    def __call__(self, trial: Trial) -> list[float]:
        """The error of each version of a trial."""
        self.advance(trial.position)
        return [self.error(changes) for changes in trial.versions]

    def advance(self, position: int) -> None:
        """Goes to a position; back again only from the start."""
        if not self.possible:
            return
        if position < self._at:
            self._begin()
        while self._staged is not None and self._at < position:
            self._staged.step()
            self._at += 1

    def _begin(self) -> None:
        """Goes to the start; a model that cannot be cut is run as a whole for each trial."""
        self._close()
        self._staged, self._at = None, -1
        names = [o.name for o in self._model.proto.graph.output]
        stages = [*([p] for p in self._positions), names]
        with contextlib.suppress(CannotCut):
            self._staged = StagedRun(self._model, self._batches, stages, memory=self._memory)

    def error(self, changes: Sequence[WeightChange]) -> float:
        """Returns the relative squared error of the outputs before a final softmax (see `comparable_outputs`).

        The biases of the changed layers are adapted so that the means of their outputs do not change.

        Args:
            changes: Changes of layers that are not upstream of the current position.
        """
        changed = self._model.copy()
        layers = {layer.name: layer for layer in linear_layers(Graph(changed.proto))}
        by_layer: dict[str, list[WeightChange]] = {}
        for change in changes:
            by_layer.setdefault(change.layer, []).append(change)
        # all before any of them changes: layers may share a weight
        whole = {name: _matrix(changed, layers[name]) for name in by_layer}
        for name, mine in by_layer.items():
            self._change(changed, layers[name], whole[name], mine)
        results = self._staged.ahead(changed) if self._staged is not None else session(changed).each(self._batches)
        errors = Errors(1)
        for reference, outputs in zip(self._reference, results, strict=True):
            errors.add_values(reference, [self._values.of(outputs)])
        share = errors.shares()[0]
        return share if share < MAX_ERROR else MAX_ERROR  # also of NaN

    def _change(
        self, changed: Model, layer: LinearLayer, matrix: NDArray[np.float64], changes: Sequence[WeightChange]
    ) -> None:
        """Makes the changes of one layer, and adapts its bias."""
        shift = np.zeros(matrix.shape[:2])
        for change in changes:
            lost = matrix[change.block] - change.weight
            shift[change.block] += lost @ self._means[layer.name][change.block]
            matrix[change.block] = change.weight
        set_weight(changed, layer, matrix)
        if takes_bias(layer):
            set_bias(changed, layer, bias_of(changed, layer) + shift)


def _matrix(model: Model, layer: LinearLayer) -> NDArray[np.float64]:
    assert layer.weight.tensor is not None
    found: NDArray[np.float64] = layer.matrix(model.array(layer.weight.tensor)).astype(np.float64)
    return found


def _received(
    model: Model, means: Mapping[str, NDArray[np.float64]], batches: Batches, positions: Sequence[str], memory: int
) -> Trials:
    return Trials(model, means, batches, positions, memory=memory)
