"""How much the experts of a mixture that is spelled out contribute, from calibration data.

A router's values are searched for the largest, and what experts make of the tokens is added up. Which expert a summand
is of is read from the graph in one of three ways: all of it is what is left out with an index (`coupling.parts`), one
of its axes is the one that is searched, or its rows are in the order of the positions that the search found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.coupling.coupling import Coupling
from onnxprune.graph.graph import Axis, Node, Value
from onnxprune.graph.operators import operator_of
from onnxprune.model.model import Model
from onnxprune.ops.ties import Search
from onnxprune.runtime.partition import assemble, partition
from onnxprune.runtime.session import local_session
from onnxprune.statistics.moments import Batches

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Summand:
    """A value that is added to what other experts make.

    Attributes:
        value: The value; its last axis holds features.
        width: How many features there are; None for the length of the last axis.
        expert: The expert that all of it is of, or the number of its axis of experts, or the value that holds the
            expert of each row.
    """

    value: Value
    width: int | None
    expert: int | Axis | Value

    @property
    def values(self) -> list[Value]:
        """The values that must be read."""
        return [self.value, *([self.expert] if isinstance(self.expert, Value) else [])]

    def add(self, arrays: Mapping[str, NDArray[Any]], total: Floats) -> None:
        """Adds the norms of the rows that each expert has to `total`, in place."""
        array, expert = np.asarray(arrays[self.value.name], dtype=np.float64), self.expert
        if isinstance(expert, Axis):
            total += np.linalg.norm(np.moveaxis(array, expert.position, 0), axis=-1).reshape(len(total), -1).sum(axis=1)
            return
        norms = np.linalg.norm(array.reshape(-1, self.width or array.shape[-1]), axis=-1)
        at = np.full(len(norms), expert) if isinstance(expert, int) else np.ravel(arrays[expert.name]).astype(np.int64)
        np.add.at(total, at, norms)


def summands(coupling: Coupling, search: Search) -> list[Summand]:
    """What the experts that a search chooses among add; empty where the graph does not tell."""
    of = coupling.classes.of
    found = [
        Summand(node.input(operator_of(node).writes or 1 - passed), node.output().axis(-1).length, branch.part.index)
        for branch in coupling.branches
        if of[branch.part.axis.id] == of[search.axis.id]
        for node, passed in branch.ends
    ]
    sums = [one.axis for one in coupling.ties.sums if (one.axis.value.rank or 0) > 2 and _is_reduced(one.axis)]
    found += [Summand(axis.value, None, axis) for axis in sums if of[axis.id] == of[search.axis.id]]
    return found or _looked_up(coupling, search, sums)


def _is_reduced(axis: Axis) -> bool:
    """Whether what reads a value along an axis adds it up, and multiplies it with nothing."""
    return any(operator_of(node).macs is None for node, i in axis.value.consumers if i == 0)


def _looked_up(coupling: Coupling, search: Search, sums: Sequence[Axis]) -> list[Summand]:
    """What is computed with weights that the found positions look up, and added up over as many as are found."""
    rows = {axis.value for axis in sums if axis.length == search.count and axis.position == (axis.value.rank or 0) - 2}
    table = next((node for node in coupling.graph.main.nodes if _looks_up(node, coupling, search)), None)
    pending, seen = [table] if table is not None else [], set[Node]()
    while table is not None and pending:
        for out in (v for v in pending.pop(0).outputs if v is not None):
            if out in rows:
                return [Summand(out, None, table.input(1))]
            fresh = [reader for reader, _ in out.consumers if reader not in seen]
            seen.update(fresh)
            pending += fresh
    return []


def _looks_up(node: Node, coupling: Coupling, search: Search) -> bool:
    """Whether a node looks weights up at positions that a search found."""
    if not operator_of(node).reads_parts or not node.has(1) or node.input(0).tensor is None:
        return False
    return coupling.ties.counted.get(node.input(1)) == search.axis


class _Sums:
    """Sums over the tokens of each expert that a search chooses among."""

    def __init__(self, coupling: Coupling, search: Search) -> None:
        found = [value for value, axis in coupling.ties.counted.items() if axis == search.axis]
        self._chosen = found[:1]  # the experts of each token
        self._summands = summands(coupling, search) if found else []
        self._total, self._count = np.zeros(search.axis.length or 0), np.zeros(search.axis.length or 0)

    @property
    def names(self) -> list[str]:
        """Names of the values that are read; empty where the graph does not tell what experts make."""
        values = [*self._chosen, *(value for one in self._summands for value in one.values)]
        return [value.name for value in values] if self._summands else []

    def add(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Adds the tokens of a batch."""
        for value in self._chosen if self._summands else ():
            self._count += np.bincount(np.ravel(arrays[value.name]), minlength=len(self._count))
        for one in self._summands:
            one.add(arrays, self._total)

    def mean(self) -> Floats | None:
        """The mean of each expert."""
        return self._total / np.maximum(self._count, 1) if self._summands else None


def contributions(
    model: Model, coupling: Coupling, searches: Sequence[Search], batches: Batches
) -> list[Floats | None]:
    """The mean norm of what each expert adds, over the tokens that it has; shape (experts,); None where none is told.

    As in `statistics.experts`: what is added has been multiplied with the router's factor, unless that comes later.

    Args:
        model: The analysed model.
        coupling: Its analysis.
        searches: Searches of the main graph.
        batches: Calibration feeds.

    Raises:
        CannotCut: A value cannot be the output of a session (see `partition`).
    """
    sums = [_Sums(coupling, search) for search in searches]
    names = list(dict.fromkeys(name for one in sums for name in one.names))
    first = next(iter(batches), None) if names else None
    if first is None:
        return [None] * len(searches)
    (piece,) = partition(model.proto, [names], first)
    runner = local_session(model.part(assemble(model.proto, piece, {})))
    inputs = ({name: feeds[name] for name in runner.inputs if name in feeds} for feeds in batches)
    for outputs in runner.each(inputs, piece.outputs, ahead=1):
        arrays = dict(zip(piece.outputs, outputs, strict=True))
        for one in sums:
            one.add(arrays)
    return [one.mean() for one in sums]
