"""Gradients of recurrent layers: backpropagation through time, unrolled step by step.

What happens inside of a cell is no output, so it is computed again (Hochreiter and Schmidhuber, "Long short-term
memory", 1997; Cho et al., 2014; the equations are those of the ONNX operators).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.ops.gradients import slopes
from onnxprune.ops.gradients.node_gradient import NodeGradient
from onnxprune.ops.registry import gradient

MOST_STEPS = 512
"""Steps that are unrolled at most."""
X, W, R, B, LENGTHS, HIDDEN, CELL, PEEPHOLES = range(8)
"""Numbers of the inputs."""


class _Layer:
    """One direction of a recurrent layer while its gradient is written."""

    def __init__(self, g: NodeGradient, gates: int, direction: int, reverse: bool) -> None:
        self.g, self.gates, self.direction = g, gates, direction
        self.steps, self.batch, _ = g.lengths(g.node.input(X))
        self.hidden = g.lengths(g.node.input(R))[2]
        self.times = list(range(self.steps))[:: -1 if reverse else 1]
        self.w, self.r = self.own(g.x(W)), self.own(g.x(R))
        self.r_turned = self.turn(self.r)
        self.biases = [] if not g.node.has(B) else [self.part(self.own(g.x(B)), i, gates, 0) for i in range(2)]
        read = g.emit("MatMul", g.x(X), self.turn(self.w))
        self.read = g.emit("Add", read, self.biases[0]) if self.biases else read

    def at(self, name: str, index: int, axis: int = 0) -> str:
        """One slice of a value, without the axis."""
        return self.g.emit("Gather", name, self.g.write.constant(np.array(index, np.int64)), axis=axis)

    def own(self, name: str) -> str:
        """What belongs to the direction, along axis 0."""
        return self.at(name, self.direction)

    def turn(self, name: str) -> str:
        """A matrix with its axes swapped."""
        return self.g.emit("Transpose", name, perm=[1, 0])

    def part(self, name: str, number: int, blocks: int, axis: int) -> str:
        """One of some blocks of gates along an axis."""
        size = blocks * self.hidden
        return self.g.write.slice(name, [number * size], [(number + 1) * size], [axis], [1])

    def start(self, index: int) -> str:
        """The state at the beginning."""
        if self.g.node.has(index):
            return self.own(self.g.x(index))
        return self.zeros()

    def zeros(self) -> str:
        """A state of zeros."""
        kind = self.g.dtype(self.g.node.input(X))
        return self.g.write.constant(np.zeros((self.batch, self.hidden), kind))

    def end(self, output: int) -> str | None:
        """The gradient of the state at the end; None where nothing depends on it."""
        found = self.g.d_or_none(output) if output < len(self.g.node.outputs) else None
        return None if found is None else self.own(found)

    def total(self, *terms: str | None) -> str | None:
        """The sum of those that there are."""
        found = [one for one in terms if one is not None]
        return self.g.write.total(found) if found else None

    def given(self, time: int) -> str | None:
        """The gradient of the state that the layer gives out at a time."""
        d = self.g.d_or_none(0)
        return None if d is None else self.at(self.at(d, time), self.direction)

    def slope(self, d: str, y: str, kind: str) -> str:
        """The gradient before a sigmoid or a tanh, from that after it and its value."""
        derivative = slopes.sigmoid if kind == "Sigmoid" else slopes.tanh
        return self.g.times(d, derivative(self.g, y))

    def peephole(self, gate: int) -> str | None:
        """What the cell is multiplied with on its way to a gate: i, o or f; None where it takes no such way."""
        return self.part(self.own(self.g.x(PEEPHOLES)), gate, 1, 0) if self.g.node.has(PEEPHOLES) else None

    def seeing(self, before: str, cell: str, peephole: str | None) -> str:
        """What a gate gets, with what it sees of the cell."""
        return before if peephole is None else self.g.emit("Add", before, self.g.emit("Mul", cell, peephole))

    def seen_by(self, d: str, peephole: str | None) -> str | None:
        """The gradient of the cell from that of a gate that sees it."""
        return None if peephole is None else self.g.emit("Mul", d, peephole)

    def over_time(self, by_time: dict[int, str]) -> str:
        """Values of all times, one after the other along a new axis 0."""
        return self.g.emit("Concat", *(self.g.write.unsqueeze(by_time[t], [0]) for t in range(self.steps)), axis=0)

    def weight(self, d: str, read: str, width: int) -> str:
        """The gradient of a matrix, from that of its products and what it read, both over time."""
        rows = self.g.write.reshape(d, [self.steps * self.batch, -1])
        return self.g.emit("MatMul", self.turn(rows), self.g.write.reshape(read, [self.steps * self.batch, width]))

    def blocks(self, *parts: str) -> str:
        """Blocks of gates, one after the other along axis 0."""
        return parts[0] if len(parts) == 1 else self.g.emit("Concat", *parts, axis=0)

    def bias(self, d: str) -> str:
        """The gradient of a bias."""
        return self.g.write.reduce_sum(d, [0, 1], keepdims=False)


@dataclass(frozen=True)
class _Found:
    """Gradients of one direction: by the number of the input."""

    by_input: dict[int, str]
    x: str


@gradient("LSTM", parameters=(1, 2, 3, 7))
def lstm(g: NodeGradient) -> None:
    """Backwards through the steps: gates i, o, f and the new cell c."""
    _give(g, ["Sigmoid", "Tanh", "Tanh"], 4, _lstm)


@gradient("GRU", parameters=(1, 2, 3))
def gru(g: NodeGradient) -> None:
    """Backwards through the steps: gates z, r and the new state h."""
    _give(g, ["Sigmoid", "Tanh"], 3, _gru if g.attr("linear_before_reset", 0) else _gru_of_reset_state)


@gradient("RNN", parameters=(1, 2, 3))
def rnn(g: NodeGradient) -> None:
    """Backwards through the steps: the new state h alone."""
    _give(g, ["Tanh"], 1, _rnn)


def _give(g: NodeGradient, activations: list[str], gates: int, of: Callable[[_Layer], _Found]) -> None:
    """Gives the gradients of all directions, one after the other along axis 0."""
    for attribute in ("clip", "layout", "input_forget"):
        if g.attr(attribute):
            raise LookupError(f"{g.node.label} has an attribute {attribute}")
    direction = g.attr("direction", "forward")
    turns = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    usual = activations * len(turns)
    if [name.lower() for name in g.attr("activations", usual)] != [name.lower() for name in usual]:
        raise LookupError(f"{g.node.label} has other activations than {', '.join(activations)}")
    if g.node.has(LENGTHS):
        raise LookupError(f"{g.node.label} has lengths of sequences")
    if g.lengths(g.node.input(X))[0] > MOST_STEPS:
        raise LookupError(f"{g.node.label} has more than {MOST_STEPS} steps")
    found: list[_Found] = [of(_Layer(g, gates, i, reverse)) for i, reverse in enumerate(turns)]
    g.give(X, g.write.total([one.x for one in found]))
    for i in found[0].by_input:
        parts = [g.write.unsqueeze(one.by_input[i], [0]) for one in found]
        g.give(i, parts[0] if len(parts) == 1 else g.emit("Concat", *parts, axis=0))


def _lstm(layer: _Layer) -> _Found:
    g, seen, states = layer.g, [], []
    h, c = layer.start(HIDDEN), layer.start(CELL)
    p_i, p_o, p_f = (layer.peephole(gate) for gate in range(3))
    for t in layer.times:
        before = g.emit("Add", layer.at(layer.read, t), g.emit("MatMul", h, layer.r_turned))
        if layer.biases:
            before = g.emit("Add", before, layer.biases[1])
        to_i, to_o, to_f, to_z = (layer.part(before, n, 1, 1) for n in range(4))
        i, f = (g.emit("Sigmoid", layer.seeing(to, c, p)) for to, p in ((to_i, p_i), (to_f, p_f)))
        z = g.emit("Tanh", to_z)
        states.append((h, c))
        c = g.emit("Add", g.emit("Mul", f, c), g.emit("Mul", i, z))
        o = g.emit("Sigmoid", layer.seeing(to_o, c, p_o))
        seen.append((i, o, f, z, g.emit("Tanh", c), c))
        h = g.emit("Mul", o, seen[-1][4])
    dh, dc = layer.end(1), layer.end(2)
    d: dict[int, str] = {}
    looked: list[list[str]] = []
    for t, (_, c_before), (i, o, f, z, squashed, c) in zip(
        reversed(layer.times), reversed(states), reversed(seen), strict=True
    ):
        dh = layer.total(dh, layer.given(t)) or layer.zeros()
        d_o = layer.slope(g.emit("Mul", dh, squashed), o, "Sigmoid")
        dc = layer.total(layer.slope(g.emit("Mul", dh, o), squashed, "Tanh"), dc, layer.seen_by(d_o, p_o))
        assert dc is not None
        d_i = layer.slope(g.emit("Mul", dc, z), i, "Sigmoid")
        d_f = layer.slope(g.emit("Mul", dc, c_before), f, "Sigmoid")
        d[t] = g.emit("Concat", d_i, d_o, d_f, layer.slope(g.emit("Mul", dc, i), z, "Tanh"), axis=1)
        looked.append([g.emit("Mul", *pair) for pair in ((d_i, c_before), (d_o, c), (d_f, c_before))] if p_i else [])
        dc = layer.total(g.emit("Mul", dc, f), layer.seen_by(d_i, p_i), layer.seen_by(d_f, p_f))
        dh = g.emit("MatMul", d[t], layer.r)
    assert dh is not None and dc is not None
    found = _of_layer(layer, d, [(d, [h for h, _ in states])], {HIDDEN: dh, CELL: dc})
    if p_i:
        sums = [g.write.reduce_sum(g.write.total(terms), [0], keepdims=False) for terms in zip(*looked, strict=True)]
        found.by_input[PEEPHOLES] = layer.blocks(*sums)
    return found


def _of_layer(
    layer: _Layer, read: dict[int, str], kept: Sequence[tuple[dict[int, str], Sequence[str]]], starts: dict[int, str]
) -> _Found:
    """The gradients of all inputs.

    Args:
        layer: The layer.
        read: Gradients of the products with the input, by time.
        kept: Gradients of the products with states, by time, and these states in the order in which they were made: of
            one block of gates after the other.
        starts: Gradients of the first states, by the number of the input.
    """
    g = layer.g
    dx, dh = layer.over_time(read), [layer.over_time(d) for d, _ in kept]
    before = [layer.over_time(dict(zip(layer.times, states, strict=True))) for _, states in kept]
    of_states = [layer.weight(d, states, layer.hidden) for d, states in zip(dh, before, strict=True)]
    found = {W: layer.weight(dx, g.x(X), g.lengths(g.node.input(X))[2]), R: layer.blocks(*of_states)}
    if layer.biases:
        found[B] = layer.blocks(layer.bias(dx), *map(layer.bias, dh))
    found |= {i: name for i, name in starts.items() if g.node.has(i)}
    return _Found(found, g.emit("MatMul", dx, layer.w))


def _mixed(g: NodeGradient, h: str, z: str, n: str) -> str:
    """The next state of a GRU: z of the last one, the rest of the new one."""
    return g.emit("Add", n, g.emit("Mul", z, g.emit("Sub", h, n)))


def _before_mixing(layer: _Layer, dh: str, h: str, z: str, n: str) -> tuple[str, str]:
    """The gradients before the gate z and before the new state n, from that of what `_mixed` makes of them."""
    g = layer.g
    dz = layer.slope(g.emit("Mul", dh, g.emit("Sub", h, n)), z, "Sigmoid")
    return dz, layer.slope(g.emit("Mul", dh, g.emit("Sub", g.number(1), z)), n, "Tanh")


def _gru(layer: _Layer) -> _Found:
    """With the reset gate after the product with the state."""
    g, seen, states = layer.g, [], []
    h = layer.start(HIDDEN)
    for t in layer.times:
        kept, read = g.emit("MatMul", h, layer.r_turned), layer.at(layer.read, t)
        if layer.biases:
            kept = g.emit("Add", kept, layer.biases[1])
        both = g.emit("Add", read, kept)
        z, r = (g.emit("Sigmoid", layer.part(both, n, 1, 1)) for n in range(2))
        q = layer.part(kept, 2, 1, 1)
        n = g.emit("Tanh", g.emit("Add", layer.part(read, 2, 1, 1), g.emit("Mul", r, q)))
        states.append(h)
        seen.append((z, r, q, n))
        h = _mixed(g, h, z, n)
    dh = layer.end(1)
    d_read: dict[int, str] = {}
    d_kept: dict[int, str] = {}
    for t, h, (z, r, q, n) in zip(reversed(layer.times), reversed(states), reversed(seen), strict=True):
        dh = layer.total(dh, layer.given(t)) or layer.zeros()
        dz, dn = _before_mixing(layer, dh, h, z, n)
        dr = layer.slope(g.emit("Mul", dn, q), r, "Sigmoid")
        d_read[t] = g.emit("Concat", dz, dr, dn, axis=1)
        d_kept[t] = g.emit("Concat", dz, dr, g.emit("Mul", dn, r), axis=1)
        dh = g.emit("Add", g.emit("Mul", dh, z), g.emit("MatMul", d_kept[t], layer.r))
    assert dh is not None
    return _of_layer(layer, d_read, [(d_kept, states)], {HIDDEN: dh})


def _gru_of_reset_state(layer: _Layer) -> _Found:
    """With the reset gate before the product with the state, as the operator has it by default."""
    g, seen, states = layer.g, [], []
    h, hidden = layer.start(HIDDEN), layer.hidden
    r_gates = g.write.slice(layer.r, [0], [2 * hidden], [0], [1])
    r_new = layer.part(layer.r, 2, 1, 0)
    turned_gates, turned_new = layer.turn(r_gates), layer.turn(r_new)
    for t in layer.times:
        read = layer.at(layer.read, t)
        if layer.biases:  # none of them is reset
            read = g.emit("Add", read, layer.biases[1])
        both = g.emit("Add", layer.part(read, 0, 2, 1), g.emit("MatMul", h, turned_gates))
        z, r = (g.emit("Sigmoid", layer.part(both, n, 1, 1)) for n in range(2))
        kept = g.emit("Mul", r, h)
        n = g.emit("Tanh", g.emit("Add", layer.part(read, 2, 1, 1), g.emit("MatMul", kept, turned_new)))
        states.append(h)
        seen.append((z, r, kept, n))
        h = _mixed(g, h, z, n)
    dh = layer.end(1)
    d_gates: dict[int, str] = {}
    d_new: dict[int, str] = {}
    for t, h, (z, r, _, n) in zip(reversed(layer.times), reversed(states), reversed(seen), strict=True):
        dh = layer.total(dh, layer.given(t)) or layer.zeros()
        dz, d_new[t] = _before_mixing(layer, dh, h, z, n)
        d_kept = g.emit("MatMul", d_new[t], r_new)
        d_gates[t] = g.emit("Concat", dz, layer.slope(g.emit("Mul", d_kept, h), r, "Sigmoid"), axis=1)
        dh = layer.total(g.emit("Mul", dh, z), g.emit("Mul", d_kept, r), g.emit("MatMul", d_gates[t], r_gates))
    assert dh is not None
    d_read = {t: g.emit("Concat", d_gates[t], d_new[t], axis=1) for t in layer.times}
    return _of_layer(layer, d_read, [(d_gates, states), (d_new, [kept for _, _, kept, _ in seen])], {HIDDEN: dh})


def _rnn(layer: _Layer) -> _Found:
    g, made = layer.g, []
    h = layer.start(HIDDEN)
    states = []
    for t in layer.times:
        before = g.emit("Add", layer.at(layer.read, t), g.emit("MatMul", h, layer.r_turned))
        if layer.biases:
            before = g.emit("Add", before, layer.biases[1])
        states.append(h)
        h = g.emit("Tanh", before)
        made.append(h)
    dh = layer.end(1)
    d: dict[int, str] = {}
    for t, h in zip(reversed(layer.times), reversed(made), strict=True):
        dh = layer.total(dh, layer.given(t)) or layer.zeros()
        d[t] = layer.slope(dh, h, "Tanh")
        dh = g.emit("MatMul", d[t], layer.r)
    assert dh is not None
    return _of_layer(layer, d, [(d, states)], {HIDDEN: dh})
