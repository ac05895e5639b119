"""The interface that operator rules are written against: `Op`, one node and the axes of its values."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxprune.graph.contents import known, length_of
from onnxprune.graph.graph import Axis, Node, Scope, Value
from onnxprune.graph.operators import operator_of
from onnxprune.ops.ties import Alternative, Choice, Experts, Labels, Mean, Part, Refill, Resize, Search, Sum, Ties


class Op:
    """One node, as its rule sees it."""

    def __init__(self, node: Node, ties: Ties) -> None:
        self.node = node
        self.ties = ties
        self._mentioned: set[int] = set()
        self._answered: set[int] = set()
        self._resized = False

    @property
    def type(self) -> str:
        """Name of the operator."""
        return self.node.op_type

    @property
    def domain(self) -> str:
        """Operator domain, "" for the standard one."""
        return self.node.domain

    @property
    def opset(self) -> int:
        """Version of the node's own domain that the model imports."""
        return self.node.opset

    @property
    def inputs(self) -> list[Value]:
        """The inputs that are given."""
        return [v for v in self.node.inputs if v is not None]

    @property
    def outputs(self) -> list[Value]:
        """The outputs that are given, without those of unknown shape that nothing reads."""
        found = (v for v in self.node.outputs if v is not None)
        return [v for v in found if v.rank is not None or v.consumers or v.is_returned]

    def has(self, index: int) -> bool:
        """Whether the optional input is given."""
        return self.node.has(index)

    def input(self, index: int) -> Value:
        """An input that must be given.

        Raises:
            LookupError: It is not; the node is then pinned.
        """
        return self.node.input(index)

    def output(self, index: int = 0) -> Value:
        """An output that must be given; raises LookupError where it is not."""
        return self.node.output(index)

    def optional_output(self, index: int) -> Value | None:
        """An output of `outputs`; None where it is not given, or where nothing reads it and its rank is unknown."""
        value = self.node.outputs[index] if index < len(self.node.outputs) else None
        return value if value in self.outputs else None

    def body(self, attribute: str) -> Scope:
        """A body that must be there; raises LookupError where it is not."""
        if attribute not in self.node.bodies:
            raise LookupError(f"{self.node.label} has no {attribute}")
        return self.node.bodies[attribute]

    @property
    def ends(self) -> list[Value]:
        """Inputs and outputs of the node's bodies."""
        values = [v for body in self.node.bodies.values() for v in [*body.inputs, *body.outputs]]
        return [v for v in values if v is not None]

    def attr(self, name: str, default: Any = None) -> Any:
        """Value of an attribute, strings decoded; `default` where it is absent."""
        return self.node.attribute(name, default)

    def numbers(self, index: int) -> list[Any] | None:
        """Entries of a small input whose contents are wholly known, flattened; None otherwise."""
        if not self.has(index):
            return None
        data = self.ties.data.get(self.input(index))
        return list(data.flat) if data is not None and known(data) else None

    def entries(self, index: int) -> list[Any] | None:
        """Entries of a small input, `Unknown` where they depend on the run; None where nothing is known."""
        data = self.ties.data.get(self.input(index)) if self.has(index) else None
        return None if data is None else list(data.flat)

    def counted(self, index: int) -> Axis | None:
        """The axis that the numbers of an input are positions along, found by a search; None where they are none.

        A rule that asks answers for them: it ties what they look up to that axis, or pins both. Otherwise the axis is
        pinned.
        """
        self._answered.add(index)
        return self.ties.counted.get(self.input(index)) if self.has(index) else None

    def tie(self, a: Axis, b: Axis, zero: bool = False) -> None:
        """Ties index i of `a` to index i of `b`: they are removed together.

        Args:
            a: An axis, usually of an input.
            b: An axis of the same length, usually of an output.
            zero: Whether slices of `b` are zero where those of `a` are.
        """
        if a.length is not None and b.length is not None and a.length != b.length:
            self.pin(a, f"length differs at {self.node.label}")
            self.pin(b, f"length differs at {self.node.label}")
            return
        self._mentioned.update((a.id, b.id))
        if 1 in (a.length, b.length) and None in (a.length, b.length):
            return  # a free axis that meets length 1 may be stretched: it learns nothing from it
        self.ties.whole.append((a.id, b.id))
        if zero:
            self.keep_zero(b, a)

    def link(self, *parts: tuple[Axis, Sequence[int] | NDArray[Any]]) -> None:
        """Ties indices by labels: equal labels, on one axis or several, are removed together; -1 ties nothing."""
        if any(axis.length is None for axis, _ in parts):
            for axis, _ in parts:
                self.pin(axis, f"length unknown at {self.node.label}")
            return
        self._mentioned.update(axis.id for axis, _ in parts)
        self.ties.links.append([(axis, np.asarray(labels, dtype=np.int64)) for axis, labels in parts])

    def pin(self, axis: Axis, reason: str, indices: Sequence[int] | None = None) -> None:
        """Pins an axis, or some of its indices, with the reason."""
        self._mentioned.add(axis.id)
        where = None if indices is None else np.asarray(indices, dtype=np.int64)
        self.ties.pins.append((axis, where, reason))

    def carry(self, x: Value, out: Value, pinned: Container[int], reason: str, *, zero: bool = True) -> None:
        """Ties each axis of `x` to the one of `out` at its position, or pins both where `pinned` holds the position."""
        for axis in x.axes():
            target = out.axis(axis.position)
            if axis.position in pinned:
                self.pin(axis, reason)
                self.pin(target, reason)
            else:
                self.tie(axis, target, zero=zero)

    def pin_all(self, reason: str) -> None:
        """Pins every axis of the node."""
        for value in self.inputs + self.outputs + self.ends:
            for axis in value.axes():
                self.pin(axis, reason)
        self._answered.clear()
        self.pin_counted()

    def pin_counted(self) -> None:
        """Pins the axes that numbers count along which the rule neither followed nor copies."""
        for i, value in enumerate(self.node.inputs):
            axis = self.ties.counted.get(value) if value is not None else None
            if axis is not None and i not in self._answered and not self._passes(axis):
                self.pin(axis, f"{self.node.label} reads positions along it")

    def _passes(self, axis: Axis) -> bool:
        """Whether all that the node makes are copies of numbers that count along an axis, or lengths."""
        made = [v for v in self.node.outputs if v is not None]
        return operator_of(self.node).reads_lengths or all(self.ties.counted.get(v) == axis for v in made)

    def mix(self, axis: Axis, reason: str | None = None) -> None:
        """Removal along this axis changes what is left: the operator normalises or averages over it."""
        self._mentioned.add(axis.id)
        self.ties.mixes.append((axis, None, reason or f"{self.node.label} mixes the axis"))

    def ordered(self, axis: Axis) -> None:
        """The result depends on the order along this axis: indices may be removed, but not reordered."""
        self.ties.ordered.append(axis)

    def sum_over(self, axis: Axis, *zero: Axis, reduces: bool = False) -> None:
        """The operator sums over `axis`: exact where one of `zero` (default: the axis) is zero once masked.

        If it only `reduces`, in any order, also where the input is computed of zeros element by element; see `Sum`.
        """
        self._mentioned.add(axis.id)
        reason = f"{self.node.label} sums over the axis"
        self.ties.sums.append(Sum(self.node, axis, tuple(a.id for a in zero or (axis,)), reduces, reason))

    def mean_over(self, axis: Axis, power: float = 1.0, epsilon: float | None = None, *, reduces: bool = False) -> None:
        """The operator averages over `axis`: as exact as a sum, once its first output is multiplied; see `Mean`."""
        self.sum_over(axis, reduces=reduces)
        self.ties.means.append(Mean(self.node, axis, power, epsilon))

    def refill(self, axis: Axis, *zero: Axis) -> None:
        """The operator computes something over `axis` that zeros in the place of what is lost keep exact; see `Refill`.

        It must not depend on the order along the axis. Exact where all of `zero` (default: the axis) are zero once
        masked, or computed element by element of what is. What is computed of constants alone can lose indices behind
        the operator instead, which moves nothing; and where ids are renumbered, what goes was not zero.
        """
        self._mentioned.add(axis.id)
        reason = f"{self.node.label} mixes the axis"
        graph = self.ties.graph
        if axis.length is None or self.node in graph.constant_nodes or self.ties.renumbered:
            self.mix(axis, reason)
        else:
            self.ties.refills.append(Refill(self.node, axis, tuple(a.id for a in zero or (axis,)), reason))

    def divide_by(self, axis: Axis) -> None:
        """The operator divides by the values along `axis`: undefined where those are zero once masked."""
        self.ties.divisors.append(axis)

    def choose(self, *alternatives: Alternative) -> None:
        """Offers alternative ties, of which the analysis takes one."""
        choice = Choice(self.node, list(alternatives))
        for alternative in alternatives:
            self._mentioned.update(axis.id for link in alternative.links for axis, _ in link)
            self._mentioned.update(axis.id for axis in alternative.pins)
        self.ties.choices.append(choice)
        self.ties.zeros.append(choice)

    def batch_axis(self, *axes: Axis) -> None:
        """A product between activations runs over these axes as separate batches (attention heads)."""
        self.ties.batch_axes.extend(a.id for a in axes)

    def leave(self, value: Value) -> None:
        """Marks a value as handled without tying it: only its shape is read."""
        self._mentioned.update(axis.id for axis in value.axes())

    def pin_unmentioned(self) -> None:
        """Pins every axis that the rule did not mention: nothing would resize it.

        An output's length may follow from what the node is resized by, so there it is left to that.
        """
        made = [] if self._resized else [v for v in self.outputs if v.tensor is None]
        for value in self.inputs + self.ends + made:
            for axis in value.axes():
                if axis.id not in self._mentioned and axis.length != 1:
                    self.pin(axis, f"{self.node.label} does not carry it")
        self.pin_counted()

    def keep_zero(self, out: Axis, *sources: Axis, any_of: bool = False) -> None:
        """Slices of `out` are zero where those of all (or any) `sources` are; with no source, always."""
        self.ties.zeros.append((out.id, tuple(a.id for a in sources), any_of))

    def lose_zero(self, out: Axis) -> None:
        """Withdraws earlier statements: slices of `out` are not zero."""
        self.ties.zeros.append((out.id, (self.ties.axis_count,), False))

    def resize(self, change: Resize) -> None:
        """Registers how the node itself changes once the new lengths are known."""
        self._resized = True
        self.ties.resizes.append((self.node, change))
        if not all(self._follows(value) for value in self.inputs):
            for axis in [value.axis(position) for value in self.outputs for position in value.factors]:
                self.pin(axis, f"{self.node.label} takes its length from the run")

    def _follows(self, value: Value) -> bool:
        """Whether an operand is no computed shape, or one that is known as far as names of free lengths go."""
        if value.tensor is not None or value.elem_type not in (TensorProto.INT64, TensorProto.INT32) or value.rank != 1:
            return True
        entries = self.ties.data.get(value)
        return entries is not None and all(length_of(e) is not None for e in entries.flat)

    def norm_scale(self, value: Value) -> None:
        """The value scales a normalisation's channels (the `bn-scale` criterion reads it)."""
        self.ties.norm_scales.add(value)

    def quantised(self, weight: Value, scale: Value, zero_point: Value | None, axis: int) -> None:
        """The weight's real values are ``(weight - zero_point) * scale`` along `axis`."""
        self.ties.quantised[weight] = (scale, zero_point, axis)

    def search(self, axis: Axis, count: int) -> None:
        """The node finds the `count` largest or smallest values along an axis: see `Search`."""
        if axis.length is None or count >= axis.length:
            self.pin(axis, f"{self.node.label} returns positions along it")
            return
        self.mix(axis, f"{self.node.label} chooses among them")
        self.ties.searches.append(Search(axis, count))

    def part(self, axis: Axis, index: int, source: Axis | None, *, others: bool = False) -> None:
        """The output is all of one index of an axis, and zero where that of `source` is, or in any case; see `Part`."""
        self._mentioned.add(axis.id)
        self.ties.parts.append(Part(self.node, axis, index, source, others))

    def experts(self, experts: Experts) -> None:
        """The node chooses among networks, which calibration data can score."""
        self.ties.experts.append(experts)

    def packed(self, weight: Value, scale: Value, zero_point: Value | None, bits: int) -> None:
        """The weight, bytes along its last axis, holds numbers of a few bits with a scale for each block."""
        self.ties.packed[weight] = (scale, zero_point, bits)


def arange(axis: Axis, start: int = 0) -> Labels:
    """Labels start, start + 1, ... for every index of an axis of static length."""
    return np.arange(start, start + (axis.length or 0), dtype=np.int64)
