"""What a Loop and a Scan have in common, and how their iterations are run again."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from onnx import ValueInfoProto, helper

from onnxprune.gradients.bodies import downstream, is_float, upstream
from onnxprune.graph.graph import Graph, Node, Scope, Value
from onnxprune.ops.gradients.node_gradient import NodeGradient

BODY = "body"
"""The attribute that holds the body of a Loop or Scan."""


class State(NamedTuple):
    """What goes from iteration to iteration.

    Attributes:
        initial: What it is before the first one.
        start: What the body is given.
        end: What the body returns.
        gradient: Gradient of what it is in the end; None where nothing depends on that.
    """

    initial: Value
    start: Value
    end: Value
    gradient: str | None


class Slices(NamedTuple):
    """What an iteration reads or makes a slice of.

    Attributes:
        whole: Name of what is read slice by slice, or of the gradient of what slices are stacked to.
        value: The slice, in the body.
        axis: The axis along which there is one slice an iteration.
        turned: Whether the first iteration has the last slice.
    """

    whole: str
    value: Value
    axis: int
    turned: bool


@dataclass(frozen=True)
class Parts:
    """A Loop or a Scan.

    Attributes:
        node: The node.
        body: Its body.
        states: What goes from iteration to iteration.
        read: Slices that an iteration reads. A Scan reads some, a Loop none.
        made: Slices that it makes, of those outputs that have a gradient.
    """

    node: Node
    body: Scope
    states: Sequence[State]
    read: Sequence[Slices]
    made: Sequence[Slices]

    def varying(self, variables: Collection[str]) -> set[str]:
        """Names of what varies with variables in some iteration: as a state ends, the next iteration begins."""
        found = {*variables, *(s.start.name for s in self.states if s.initial.name in variables)}
        found |= {piece.value.name for piece in self.read if piece.whole in variables}
        while True:
            found = downstream(self.body, found)
            more = {s.start.name for s in self.states if s.end.name in found} - found
            if not more:
                return found
            found |= more

    def used(self) -> set[str]:
        """Names of what outputs that have a gradient are made of, in whatever iteration."""
        found = {s.end.name for s in self.states if s.gradient is not None} | {p.value.name for p in self.made}
        while True:
            found = upstream(self.body, found)
            more = {s.end.name for s in self.states if s.start.name in found} - found
            if not more:
                return found
            found |= more

    def check(self, value: Value) -> None:
        """Raises LookupError where a value of the body may not have the same type and shape in every iteration."""
        if not value.elem_type:
            raise LookupError(f"the type of '{value.name}' in {self.node.label} is unknown")
        if not self.read and (value.shape is None or any(axis.length is None for axis in value.axes())):
            raise LookupError(
                f"the shape of '{value.name}' may change from iteration to iteration in {self.node.label}"
            )

    def check_state(self, state: State) -> None:
        """Raises LookupError where a state whose gradient goes along may change its type or its shape."""
        self.check(state.start)
        if not is_float(state.start) or (not self.read and state.start.shape != state.end.shape):
            raise LookupError(f"the state '{state.start.name}' of {self.node.label} has no gradient of its shape")


def parts_of(g: NodeGradient, outputs: Sequence[str | None]) -> Parts:
    """The parts of a Loop or Scan, given the gradients of its outputs.

    Raises:
        LookupError: Its inputs and outputs are not those of its body, one by one.
    """
    node, body = g.node, g.node.bodies[BODY]
    scanned = int(g.attr("num_scan_inputs", 0))
    starts, ends = _sides(node)
    first, count = len(body.inputs) - len(starts), len(starts) - scanned
    d = [*outputs, *[None] * (len(ends) - len(outputs))]
    states = [State(node.input(first + i), starts[i], ends[i], d[i]) for i in range(count)]
    read = _sliced(g, "input", [node.input(first + count + i).name for i in range(scanned)], starts[count:])
    return Parts(node, body, states, read, _sliced(g, "output", d[count:], ends[count:]))


def _sides(node: Node) -> tuple[list[Value], list[Value]]:
    """What a body is given and what it returns: states, then slices."""
    body, scanned = node.bodies[BODY], int(node.attribute("num_scan_inputs", 0))
    first, ahead = (0, 0) if scanned else (2, 1)  # a Loop has a count and a condition in front
    starts, ends = body.inputs[first:], [value for value in body.outputs[ahead:] if value is not None]
    if len(body.inputs) != len(node.inputs) or len(ends) != len(body.outputs) - ahead:
        raise LookupError(f"the inputs and outputs of {node.label} are not those of its body")
    if len(ends) < len(starts) - scanned:
        raise LookupError(f"{node.label} returns fewer states than it is given")
    return starts, ends


def unchanged_states(graph: Graph) -> dict[Value, Value]:
    """What bodies of iterations are given that they return as it is, each with its initial value."""
    found: dict[Value, Value] = {}
    for node in graph.nodes:
        if BODY not in node.bodies:
            continue
        with contextlib.suppress(LookupError):
            starts, ends = _sides(node)
            first = len(node.inputs) - len(starts)
            for i, (start, end) in enumerate(zip(starts, ends, strict=False)):
                if start is end and i < len(starts) - int(node.attribute("num_scan_inputs", 0)):
                    found[start] = node.input(first + i)
    return found


def _sliced(g: NodeGradient, side: str, wholes: Sequence[str | None], values: Sequence[Value]) -> list[Slices]:
    """The slices of what there is, as the attributes of a Scan say it."""
    axes, directions = (g.attr(f"scan_{side}_{what}") or [0] * len(wholes) for what in ("axes", "directions"))
    each = zip(wholes, values, axes, directions, strict=True)
    return [Slices(whole, value, axis, bool(turned)) for whole, value, axis, turned in each if whole is not None]


class Replay:
    """The iterations, from the last to the first, inside of the body of another Loop.

    Attributes:
        count: Name of their number.
        position: Name of how many of them are done, an input of that body.
        index: Name of the number of the one that is run again.
        slices: Names of the slices of gradients that belong to it, as in `Parts.made`.
    """

    def __init__(self, g: NodeGradient, parts: Parts) -> None:
        self._write, self._parts = g.write, parts
        self._kept: dict[str, tuple[str, Value]] = {}
        self.position, self.index = (g.write.name(f"gradient/{name}") for name in ("position", "index"))
        self.slices = [g.write.name("gradient/slice") for _ in parts.made]
        if parts.read:
            axis = g.write.constant(np.array(parts.read[0].axis))
            self.count = g.emit("Gather", g.emit("Shape", parts.read[0].whole), axis, axis=0)
        else:
            self.count = g.emit("Size", self._keep(parts.body.inputs[0]))
        self._last = g.emit("Sub", self.count, g.write.constant(np.array(1)))

    def begin(self, names: Collection[str]) -> None:
        """Adds what is to be read in one iteration: what is named, and slices of gradients."""
        define, parts = self._write.define, self._parts
        define(self.index, "Sub", self._last, self.position)
        pieces = list(zip(self.slices, parts.made, strict=True))
        for name, piece in [*pieces, *((p.value.name, p) for p in parts.read if p.value.name in names)]:
            define(name, "Gather", piece.whole, self.position if piece.turned else self.index, axis=piece.axis)
        for initial, start, end, _ in parts.states:
            if start.name in names and start is end:  # the same in all iterations
                define(start.name, "Identity", initial.name)
            elif start.name in names:
                define(start.name, "Gather", self._keep(start), self.index, axis=0)
        if parts.read:
            return
        number, condition = parts.body.inputs[:2]
        if number.name in names:
            define(number.name, "Gather", self._keep(number), self.index, axis=0)
        if condition.name in names:
            held = self._write.constant(np.ones([1] * (condition.rank or 0), bool))
            define(condition.name, "Identity", held)

    def _keep(self, value: Value) -> str:
        """Name of what a value of the body is in each iteration, stacked."""
        self._parts.check(value)
        if value.name not in self._kept:
            self._kept[value.name] = self._write.name("gradient/kept"), value
        return self._kept[value.name][0]

    def finish(self) -> None:
        """Makes the node return what is kept, in place, behind its other outputs."""
        node, body, name = self._parts.node.proto, self._parts.body.proto, self._write.name
        others = len(body.output) - (0 if self._parts.read else 1)
        node.output.extend(name("gradient/ignored") for _ in range(others - len(node.output)))
        for stack, value in self._kept.values():
            inner = name("gradient/kept")
            body.node.append(helper.make_node("Identity", [value.name], [inner], name=inner))
            body.output.append(info_of(inner, value))
            node.output.append(stack)
            for attribute in node.attribute:
                if attribute.name in ("scan_output_axes", "scan_output_directions"):
                    attribute.ints.append(0)


def info_of(name: str, value: Value) -> ValueInfoProto:
    """An input or output of a body that is like a value."""
    dims = None if value.shape is None else [axis.length for axis in value.axes()]
    return helper.make_tensor_value_info(name, value.elem_type, dims)
