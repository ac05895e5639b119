"""What the outputs make of other weights: layers are changed on trial, and the model runs from there on."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

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
from onnxprune.verification.comparable_outputs import unsquashed
from onnxprune.verification.output_error import Errors

WORST = 1e9
"""What outputs count that are not finite any more."""
SEEN = 2**20
"""Elements of an output of a batch that are looked at, about."""


@dataclass(frozen=True)
class Change:
    """Another weight for a block of a product layer.

    Attributes:
        layer: Its name.
        block: The block.
        weight: Shape (outputs, columns).
    """

    layer: str
    block: int
    weight: NDArray[np.float64]


class Trials:
    """Trials at one place of a model after the other, from its begin to its end.

        with Trials(model, moments, batches, ["x", "y"]) as trials:
            trials.step()  # what comes before "x" is run once
            error = trials.error([Change("reads x", 0, weight)])
            trials.step()
            ...

    What comes before a place is not run again for each trial.

    Attributes:
        possible: Whether there are outputs to look at.
    """

    def __init__(
        self,
        model: Model,
        moments: Mapping[str, Moments],
        batches: Batches,
        places: Sequence[str],
        *,
        memory: int = 2**30,
    ) -> None:
        """Runs the model as it is; it stays so.

        Args:
            model: The model.
            moments: Moments of what the layers read, by name.
            batches: Feeds.
            places: For each step, the value that the first layers to change read; in topological order.
            memory: Bytes of activations to hold.
        """
        self._moments, self._batches = moments, batches
        self._model, self._centres = unsquashed(model)
        self._reference = list(self._compared(session(self._model).each(batches)))
        self.possible = bool(self._reference)
        self._walk: StagedRun | None = None
        names = [o.name for o in self._model.proto.graph.output]
        with contextlib.suppress(CannotCut):
            self._walk = (
                StagedRun(self._model, batches, [*([p] for p in places), names], memory=memory)
                if self.possible
                else None
            )

    def __enter__(self) -> Trials:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._walk is not None:
            self._walk.close()

    def step(self) -> None:
        """Goes on to the next place."""
        if self._walk is not None:
            self._walk.step()

    def error(self, changes: Sequence[Change]) -> float:
        """Relative squared error of the outputs, before a final softmax, with biases that keep the means.

        Args:
            changes: What changes; nothing that comes before the place.
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
        made = self._walk.ahead(changed) if self._walk is not None else session(changed).each(self._batches)
        errors = Errors(1)
        for wanted, outputs in zip(self._reference, self._compared(made), strict=True):
            errors.add(wanted, [outputs])
        return min(errors.shares()[0], WORST)

    def _compared(self, batches: Iterable[list[NDArray[Any]]]) -> Iterator[list[NDArray[Any]]]:
        """Of every output what is compared, batch by batch."""
        return ([_spread(centre(y)) for centre, y in zip(self._centres, batch, strict=True)] for batch in batches)


def _spread(array: NDArray[Any]) -> NDArray[Any]:
    """Elements at regular distances, of all features and places alike: what is long says no more than some of it."""
    step = array.size // SEEN
    if step < 2:
        return array
    while any(math.gcd(step, length) > 1 for length in array.shape):
        step += 1
    some: NDArray[Any] = array.ravel()[::step].copy()
    return some
