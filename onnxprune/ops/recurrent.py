"""Recurrent networks: a hidden unit is tied to its gates in every weight and to the states.

Gates follow each other on one axis of the weights, ``(directions, gates * hidden, ...)``; a unit owns the same
index in each of them. Both directions of a bidirectional network lose the same units, so that the weights remain
rectangular; each could lose units of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.graph.graph import Axis, Node, Value
from onnxprune.graph.operators import Term, WeightLayout
from onnxprune.ops.linear import contract
from onnxprune.ops.op import Op, arange
from onnxprune.ops.registry import facts_of, macs, rule, weights
from onnxprune.ops.ties import NewShape

_ZERO_AT_ZERO = {"tanh", "relu", "leakyrelu", "thresholdedrelu", "scaledtanh", "elu", "softsign"}
_DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_FREE_GATES = {"LSTM": {0}, "GRU": {0}, "RNN": set[int]()}
"""Positions of activations that are gates: their value at zero does not matter."""


def recurrent_macs(node: Node) -> list[Term]:
    """Input and recurrent weights, once a step and sequence."""
    steps = node.input(0).ranked_axes()[:2]
    return [(1.0, [*steps, *node.input(i).ranked_axes()]) for i in (1, 2)]


def recurrent_weights(node: Node, i: int, shape: Sequence[int]) -> WeightLayout | None:
    """Weights of shape (directions, gates * hidden, inputs)."""
    return WeightLayout(2, 1) if i in (1, 2) and len(shape) == 3 else None


macs("LSTM GRU RNN")(recurrent_macs)
weights("LSTM GRU RNN")(recurrent_weights)
facts_of("LSTM", gates=4)
facts_of("GRU", gates=3)
facts_of("RNN", gates=1)


@rule("LSTM GRU RNN")
def recurrent(op: Op) -> None:
    """A hidden unit is tied to its gates and states, in both directions; input features contract."""
    x, w, r = op.input(0), op.input(1), op.input(2)
    batch_first = op.attr("layout", 0)
    contract(op, x.axis(2), w.axis(2))
    hidden = r.axis(2)
    gated = [w.axis(1), r.axis(1)] + [op.input(i).axis(1) for i in (3, 7) if op.has(i)]
    states = [op.input(i) for i in (5, 6) if op.has(i)]
    sequence = op.optional_output(0)
    finals = [v for v in map(op.optional_output, (1, 2)) if v is not None]
    carriers = [v.axis(-1) for v in [*states, *finals, *([] if sequence is None else [sequence])]]
    if hidden.length is None or not hidden.length:
        op.pin_all(f"{op.node.label}: hidden size unknown")
        return
    op.link(
        (hidden, arange(hidden)),
        *((axis, arange(axis) % hidden.length) for axis in gated),
        *((axis, arange(axis)) for axis in carriers),
    )
    op.sum_over(hidden)
    _keep_zero(op, gated, carriers)
    _time_and_batch(op, x, sequence, states + finals, bool(batch_first))
    for axis in [w.axis(0), r.axis(0)] + [op.input(i).axis(0) for i in (3, 7) if op.has(i)]:
        op.pin(axis, f"directions of {op.node.label}")

    def follow(new: NewShape) -> None:
        if op.attr("hidden_size") is not None:
            new.set_attribute("hidden_size", len(new.kept(hidden)))

    op.resize(follow)


def stays_zero(op: Op, kind: str) -> bool:
    """Whether the activations of a kind of layer leave a unit zero whose weights and state are zero."""
    defaults = _DEFAULTS[kind]
    names = op.attr("activations") or defaults
    lifting = [name for i, name in enumerate(names) if i % len(defaults) not in _FREE_GATES[kind]]
    return all(name.lower() in _ZERO_AT_ZERO for name in lifting)


def _keep_zero(op: Op, gated: list[Axis], carriers: list[Axis]) -> None:
    """A unit whose weights are zero remains zero if its initial state is zero and its activation maps zero to zero.

    LSTM: c = f c0 + i g(0), h = o h(c). GRU: h = (1 - z) g(0) + z h0. RNN: h = f(0), whatever h0 is.
    """
    if not stays_zero(op, op.type):
        return
    start = {"LSTM": 6, "GRU": 5}.get(op.type)
    sources = list(gated)
    if start is not None and op.has(start):
        sources.append(op.input(start).axis(-1))
    for axis in carriers:
        if axis.value in op.outputs:
            op.keep_zero(axis, *sources)


def _time_and_batch(op: Op, x: Value, sequence: Value | None, states: list[Value], batch_first: bool) -> None:
    """Batch axes tie, time and directions are pinned."""
    time, batch = (1, 0) if batch_first else (0, 1)
    op.pin(x.axis(time), f"{op.node.label} runs along it")
    batches = [v.axis(0 if batch_first else 1) for v in states] + ([op.input(4).axis(0)] if op.has(4) else [])
    for value in states:
        op.pin(value.axis(1 if batch_first else 0), f"directions of {op.node.label}")
    if sequence is not None:
        op.pin(sequence.axis(time), f"{op.node.label} runs along it")
        op.pin(sequence.axis(2 if batch_first else 1), f"directions of {op.node.label}")
        batches.append(sequence.axis(0 if batch_first else 2))
    for axis in batches:
        op.tie(x.axis(batch), axis)
