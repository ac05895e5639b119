"""Costs that targets limit: parameters, MACs, bytes, and those that were added.

An added cost is a factory (`extensions.cost_model`): given the analysis of a model it returns a `CostModel`. On the
original it predicts what is left; on the analysis of the result, with nothing removed, the same factory measures it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.cost.cost_model import CostModel, Removed, macs, nbytes, parameters
from onnxprune.cost.measure import Cost, counted_shapes
from onnxprune.cost.time_model import latency
from onnxprune.coupling.coupling import Coupling, analyze
from onnxprune.coupling.groups import Group
from onnxprune.errors import InputError, option
from onnxprune.extensions import points
from onnxprune.extensions.points import CostFactory, NamedCost
from onnxprune.graph.graph import Graph
from onnxprune.model.model import Model

InputShapes = Mapping[str, Sequence[int]]


def predicted(
    cost: NamedCost, coupling: Coupling, groups: Sequence[Group], before: Cost, input_shapes: InputShapes
) -> CostModel:
    """A cost as a function of what is removed from a model.

    Args:
        cost: The cost.
        coupling: The analysis of the model.
        groups: The groups that may shrink.
        before: What was counted of the model.
        input_shapes: Shapes of graph inputs.

    Raises:
        InputError: The cost cannot be counted, or the factory returns no cost.
    """
    if cost.name == "params":
        return parameters(coupling, groups)
    if cost.name == "bytes":
        return nbytes(coupling, groups, before.bytes, before.density)
    shapes = counted_shapes(Model(coupling.graph.proto), input_shapes) | dict(before.shapes)
    if cost.name == "latency":
        if before.times is None:
            raise InputError("the latency of the model was not measured")
        try:
            return latency(coupling, groups, shapes, before.times)
        except LookupError as error:
            raise InputError(
                f"latency cannot be predicted: {error}", f"give {option('input_shapes')}, or a target for params"
            ) from None
    if cost.factory is not None:
        return _registered(cost.name, cost.factory, coupling, groups, shapes)
    try:
        if before.macs:
            return macs(coupling, groups, shapes)
    except LookupError:
        pass  # said below
    raise InputError(
        "the model's MACs cannot be counted", f"give {option('input_shapes')}, or a target for params or bytes"
    )


def measured(cost: NamedCost, model: Model, counted: Cost, input_shapes: InputShapes) -> float | None:
    """A cost of a model as it is; None where it cannot be counted.

    Args:
        cost: The cost.
        model: The model.
        counted: What was counted of it.
        input_shapes: Shapes of graph inputs.
    """
    known = {"params": counted.params, "macs": counted.macs, "bytes": counted.bytes}
    if cost.factory is None:
        return known.get(cost.name)
    graph = Graph(model.copy().proto)
    shapes = counted_shapes(model, input_shapes) | dict(counted.shapes)
    return _registered(cost.name, cost.factory, analyze(graph), [], shapes).left(np.zeros(0, dtype=np.int64))


def totals(
    costs: Iterable[NamedCost], coupling: Coupling, before: Cost, input_shapes: InputShapes
) -> dict[str, float | None]:
    """Some costs, by name, before anything is removed; None for what cannot be counted."""
    time = None if before.times is None else before.times.milliseconds
    counted = {"params": before.params, "macs": before.macs, "bytes": before.bytes, "latency": time}
    nothing = np.zeros(0, dtype=np.int64)
    return {
        cost.name: counted[cost.name]
        if cost.factory is None
        else predicted(cost, coupling, [], before, input_shapes).left(nothing)
        for cost in costs
    }


def _registered(
    name: str, factory: CostFactory, coupling: Coupling, groups: Sequence[Group], shapes: Mapping[str, Sequence[int]]
) -> CostModel:
    made = points.call("cost", name, factory, coupling, groups, shapes)
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
