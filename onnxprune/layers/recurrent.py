"""Recurrent layers of a graph, their weights and states."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph.graph import Graph, Node, Value
from onnxprune.graph.operators import operator_of
from onnxprune.model.model import Model

Floats = NDArray[np.float32]


Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Cell:
    """A recurrent layer of the main graph whose weights are constants that nothing else reads.

    Attributes:
        node: The layer.
        x: Its input, ``(time, batch, features)``.
        states: Its hidden states at all times, ``(time, directions, batch, hidden)``.
        weight: ``(directions, gates * hidden, features)``.
        recurrence: ``(directions, gates * hidden, hidden)``.
        bias: ``(directions, 2 * gates * hidden)``, that of the input before that of the state; None if there is none.
    """

    node: Node
    x: Value
    states: Value
    weight: Value
    recurrence: Value
    bias: Value | None

    @property
    def name(self) -> str:
        """Name of the states, by which the same layer is found in another version of the model."""
        return self.states.name

    @property
    def gates(self) -> int:
        """How many blocks of rows the weights have."""
        return operator_of(self.node).gates

    def columns(self, model: Model) -> int:
        """Columns of the wider of its two matrices."""
        return max(int(_stored(model, v).shape[-1]) for v in (self.weight, self.recurrence))

    def before(self, array: NDArray[np.generic], direction: int) -> Floats:
        """The initial state of each step but the first; shape (time - 1, batch, hidden), in order of time."""
        whole = np.asarray(array[:, direction], dtype=np.float32)
        return whole[1:] if self.backward(direction) else whole[:-1]

    def backward(self, direction: int) -> bool:
        """Whether a direction runs from the last step to the first."""
        way = self.node.attribute("direction", "forward")
        return way == "reverse" or (way == "bidirectional" and direction == 1)


def cells(graph: Graph) -> list[Cell]:
    """Recurrent layers in topological order: those that return all states and take no lengths of single samples.

    Layers with the batch first are left out: onnxruntime does not run them.
    """
    readers = Counter(v.key for v in graph.constants() for _ in v.consumers)
    found = []
    for node in graph.main.nodes:
        if not operator_of(node).gates or node.domain or not node.outputs or node.outputs[0] is None:
            continue
        if node.attribute("layout", 0):
            continue
        x, weight, recurrence, bias, lengths = [*node.inputs, *[None] * 5][:5]
        stored = [v for v in (weight, recurrence, bias) if v is not None]
        if (
            x is None
            or weight is None
            or recurrence is None
            or lengths is not None
            or any(v.tensor is None or readers[v.key] > 1 for v in stored)
        ):
            continue
        found.append(Cell(node, x, node.outputs[0], weight, recurrence, bias))
    return found


def matched(before: Graph, after: Graph) -> list[tuple[Cell, Cell]]:
    """Pairs of the same layer in two versions of a model."""
    others = {c.name: c for c in cells(after)}
    return [(c, others[c.name]) for c in cells(before) if c.name in others]


def _stored(model: Model, value: Value) -> NDArray[Any]:
    assert value.tensor is not None
    return model.array(value.tensor)
