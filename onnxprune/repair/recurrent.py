"""Refits the weights of recurrent layers, whose sums before the gates no value of the graph holds.

The sums are linear in what the layer reads, ``W x + R h``, so the original's weights and values say what they were:
the part of the input is refitted from what the pruned layer reads, the part of the state from the states that are
left. For a GRU that resets the state before its product the state stands for the reset one: it is that times a gate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph import Graph, Node, Value
from onnxprune.model import Model
from onnxprune.repair.least_squares import Fit, Rows
from onnxprune.repair.least_squares import Floats as Doubles

Floats = NDArray[np.float32]
Index = NDArray[np.int64]
Fitted = Callable[[str, Rows, Rows, Doubles, Doubles, bool], Fit]

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True, eq=False)
class Cell:
    """A recurrent layer of the main graph whose weights are constants that nothing else reads.

    Attributes:
        node: The layer.
        x: What it reads, ``(time, batch, features)``.
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
        return GATES[self.node.op_type]

    def columns(self, model: Model) -> int:
        """Columns of the wider of its two matrices."""
        return max(int(_stored(model, v).shape[-1]) for v in (self.weight, self.recurrence))

    def before(self, array: NDArray[np.generic], direction: int) -> Floats:
        """The state that each step but the first begins from; shape (time - 1, batch, hidden), in order of time."""
        whole = np.asarray(array[:, direction], dtype=np.float32)
        return whole[1:] if self.backward(direction) else whole[:-1]

    def backward(self, direction: int) -> bool:
        """Whether a direction runs from the last step to the first."""
        way = self.node.attribute("direction", "forward")
        return way == "reverse" or (way == "bidirectional" and direction == 1)


def cells(graph: Graph) -> list[Cell]:
    """In topological order; layers without lengths of their own for each sample that give all their states.

    Layers with the batch first are left out: onnxruntime does not run them.
    """
    readers = Counter(v.key for v in graph.constants() for _ in v.consumers)
    found = []
    for node in graph.main.nodes:
        if node.op_type not in GATES or node.domain or not node.outputs or node.outputs[0] is None:
            continue
        if node.attribute("layout", 0):
            continue
        x, weight, recurrence, bias, lengths = [*node.inputs, *[None] * 5][:5]
        stored = [v for v in (weight, recurrence, bias) if v is not None]
        if x is None or weight is None or recurrence is None or lengths is not None or any(
                v.tensor is None or readers[v.key] > 1 for v in stored):
            continue
        found.append(Cell(node, x, node.outputs[0], weight, recurrence, bias))
    return found


def matched(before: Graph, after: Graph) -> list[tuple[Cell, Cell]]:
    """The layers that two versions of a model have both."""
    others = {c.name: c for c in cells(after)}
    return [(c, others[c.name]) for c in cells(before) if c.name in others]


def refit(original: Model, a: Cell, pruned: Model, b: Cell, x: Sequence[Floats], states: Sequence[Floats],
          read: Sequence[Floats], kept: Index, hold_back: int, limit: int, seed: Sequence[int],
          fitted: Fitted) -> list[tuple[str, Fit]]:
    """Refits a layer of the pruned model in place, where that is better on samples held back.

    Args:
        original: The model before pruning.
        a: The layer there.
        pruned: The model after it.
        b: The layer there.
        x: What `a` reads, an array a batch.
        states: The states of `a`.
        read: What `b` reads.
        kept: Hidden units of `a` that `b` still has.
        hold_back: Every so many-th batch is held back; all serve for both where there are fewer.
        limit: Rows of a batch at most.
        seed: Seed of the rows that are sampled.
        fitted: Fits one matrix, see `calibrated.Fitter`.

    Returns:
        One a direction and part, with its name; `penalty` None where it was left as it was.
    """
    w, r = _stored(original, a.weight), _stored(original, a.recurrence)
    new_w, new_r = _stored(pruned, b.weight).copy(), _stored(pruned, b.recurrence).copy()
    bias = None if b.bias is None else _stored(pruned, b.bias).copy()
    rows = (np.arange(a.gates)[:, None] * r.shape[2] + kept).ravel()
    rng = np.random.default_rng(list(seed))
    done = []
    for d in range(len(w)):
        inputs = [_pair(np.asarray(old, np.float32), np.asarray(new, np.float32), rng, limit)
                  for old, new in zip(x, read, strict=True)]
        earlier = [_pair(s := a.before(y, d), s[..., kept], rng, limit) for y in states]
        for part, (pairs, old, new, key) in enumerate(((inputs, w[d], new_w[d], b.weight.key),
                                                       (earlier, r[d], new_r[d], b.recurrence.key))):
            half = None if bias is None else slice(part * len(rows), (part + 1) * len(rows))
            learned, held = _rows(pairs, old[rows].astype(np.float32), hold_back)
            found = fitted(key, learned, held, new[None].astype(np.float64), np.zeros((1, len(new))), half is not None)
            if found.penalty is not None:
                new[:] = found.weight[0]
                if bias is not None and half is not None:
                    bias[d, half] += found.bias[0].astype(bias.dtype)
            done.append((f"{'input' if part == 0 else 'state'} {d}", found))
    for value, array in ((b.weight, new_w), (b.recurrence, new_r), (b.bias, bias)):
        if value is not None and value.tensor is not None and array is not None:
            pruned.set_array(value.tensor, array)
    return done


def _stored(model: Model, value: Value) -> NDArray[Any]:
    assert value.tensor is not None
    return model.array(value.tensor)


def _pair(old: Floats, new: Floats, rng: np.random.Generator, limit: int) -> tuple[Floats, Floats]:
    """Some of the same steps of both, as rows."""
    before, after = old.reshape(-1, old.shape[-1]), new.reshape(-1, new.shape[-1])
    if len(before) > limit:
        chosen = np.sort(rng.choice(len(before), limit, replace=False))
        before, after = before[chosen], after[chosen]
    return before, after


def _rows(pairs: Sequence[tuple[Floats, Floats]], old: Floats, hold_back: int) -> tuple[Rows, Rows]:
    """Samples to fit and samples held back of the part of the sums that one matrix makes."""
    parts = [(after, before @ old.T) for before, after in pairs]
    enough = len(parts) >= hold_back
    front = [p for i, p in enumerate(parts) if not enough or i % hold_back != hold_back - 1]
    back = [p for i, p in enumerate(parts) if not enough or i % hold_back == hold_back - 1]
    learned, held = (Rows(np.concatenate([x for x, _ in some])[None], np.concatenate([y for _, y in some])[None])
                     for some in (front, back))
    return learned, held
