"""Costs by the names that targets have: parameters, MACs, bytes, and those that were registered.

A registered cost is a factory (`extensions.cost_model`): given the analysis of a model it returns a `CostModel`. On the
original it predicts what is left; on the analysis of the result, with nothing removed, the same factory measures it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune import extensions
from onnxprune.cost.cost_model import CostModel, Removed, macs, nbytes, parameters
from onnxprune.cost.measure import Cost, counted_shapes
from onnxprune.coupling.coupling import Coupling, analyze
from onnxprune.coupling.groups import Group
from onnxprune.errors import InputError
from onnxprune.graph.graph import Graph
from onnxprune.model.model import Model

InputShapes = Mapping[str, Sequence[int]]


def predicted(
    name: str, coupling: Coupling, groups: Sequence[Group], before: Cost, input_shapes: InputShapes
) -> CostModel:
    """The cost of a name as a function of what is removed from a model.

    Args:
        name: Name of the cost.
        coupling: The analysis of the model.
        groups: The groups that may shrink.
        before: What was counted of the model.
        input_shapes: Shapes of graph inputs.

    Raises:
        InputError: The cost cannot be counted, or the factory returns no cost.
    """
    if name == "params":
        return parameters(coupling, groups)
    if name == "bytes":
        return nbytes(coupling, groups, before.bytes)
    shapes = counted_shapes(Model(coupling.graph.proto), input_shapes) | dict(before.shapes)
    if name != "macs":
        return _registered(name, coupling, groups, shapes)
    try:
        if before.macs:
            return macs(coupling, groups, shapes)
    except LookupError:
        pass  # said below
    raise InputError("the model's MACs cannot be counted", "give --input-shape, or a target for params or bytes")


def measured(name: str, model: Model, counted: Cost, input_shapes: InputShapes) -> float | None:
    """The cost of a name of a model as it is; None where it cannot be counted.

    Args:
        name: Name of the cost.
        model: The model.
        counted: What was counted of it.
        input_shapes: Shapes of graph inputs.
    """
    known = {"params": counted.params, "macs": counted.macs, "bytes": counted.bytes}
    if name in known:
        return known[name]
    graph = Graph(model.copy().proto)
    shapes = counted_shapes(model, input_shapes) | dict(counted.shapes)
    return _registered(name, analyze(graph), [], shapes).left(np.zeros(0, dtype=np.int64))


def totals(
    names: Iterable[str], coupling: Coupling, before: Cost, input_shapes: InputShapes
) -> dict[str, float | None]:
    """The costs of some names before anything is removed; None for what cannot be counted."""
    counted = {"params": before.params, "macs": before.macs, "bytes": before.bytes}
    nothing = np.zeros(0, dtype=np.int64)
    return {
        name: counted[name] if name in counted else predicted(name, coupling, [], before, input_shapes).left(nothing)
        for name in names
    }


def _registered(
    name: str, coupling: Coupling, groups: Sequence[Group], shapes: Mapping[str, Sequence[int]]
) -> CostModel:
    factory = extensions.costs.get(name)
    assert factory is not None, "the package's own are counted above"
    made = extensions.call("cost", name, factory, coupling, groups, shapes)
    if not callable(getattr(made, "left", None)) or not callable(getattr(made, "saving", None)):
        raise InputError(f"cost {name!r} must return an object with left and saving, not {made!r}"[:200])
    return _Registered(name, made)


@dataclass(frozen=True)
class _Registered:
    """A registered cost, whose numbers are checked."""

    name: str
    model: CostModel

    def left(self, removed: Removed) -> float:
        """See `CostModel`."""
        return self._number("left", self.model.left(removed))

    def saving(self, removed: Removed, group: int, more: int) -> float:
        """See `CostModel`."""
        return self._number("saving", self.model.saving(removed, group, more))

    def _number(self, method: str, value: object) -> float:
        """A plain float of whatever number the cost returns."""
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise InputError(f"{method} of cost {self.name!r} must return a finite number, not {value!r}"[:200])
        return number
