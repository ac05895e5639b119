"""The interface that gradient rules are written against: `NodeGradient`, one node and the gradients of its outputs.

    @gradient("Tanh")
    def tanh(g):
        g.give(0, g.emit("Mul", g.d(), g.emit("Sub", g.one(), g.emit("Mul", g.y(), g.y()))))

A rule adds nodes that compute the gradients of the inputs (vector-Jacobian products: `d` times the derivative, summed
over the elements of the output) and hands each to `give`. It raises LookupError with a reason for what it does not
cover; nothing that it added counts then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from onnxprune.graph.contents import Data, known
from onnxprune.graph.graph import Axis, Node, Value
from onnxprune.ops.gradients.writer import AXES_ARE_INPUTS, Writer

_EXPANDS = 8
"""Opset version from which on a value can be stretched to a shape."""


class NodeGradient:
    """One node, as its gradient rule sees it.

    Attributes:
        node: The node.
        write: Adds nodes to the graph.
        given: What the rule found so far: the name of the gradient by the number of the input.
    """

    def __init__(
        self,
        node: Node,
        write: Writer,
        outputs: Sequence[str | None],
        wanted: Sequence[bool],
        data: Mapping[Value, Data],
    ) -> None:
        """Begins with nothing given.

        Args:
            node: The node; shapes and element types of its values are inferred.
            write: Adds nodes to the graph.
            outputs: Names of the gradients of its outputs; None for an output that nothing depends on.
            wanted: Whether the gradient of each input is needed.
            data: What small values hold.
        """
        self.node, self.write = node, write
        self._outputs, self._wanted, self._data = outputs, wanted, data
        self.given: dict[int, str] = {}
        self._asked: set[int] = set()

    @property
    def ignored(self) -> list[int]:
        """Numbers of further outputs that have a gradient which the rule did not ask for."""
        return [i for i, name in enumerate(self._outputs) if i and name is not None and i not in self._asked]

    def before(self, d: str) -> NodeGradient:
        """The same node without what it does to its output last, given the gradient before that."""
        found = NodeGradient(self.node, self.write, [d], self._wanted, self._data)
        found.given = self.given
        return found

    def d(self, index: int = 0) -> str:
        """Name of the gradient of an output; raises LookupError where only other outputs have one."""
        self._asked.add(index)
        found = self._outputs[index] if index < len(self._outputs) else None
        if found is None:
            raise LookupError(f"another output than number {index} of {self.node.label} is used")
        return found

    def d_or_none(self, index: int) -> str | None:
        """Name of the gradient of an output; None where nothing depends on the output."""
        self._asked.add(index)
        return self._outputs[index]

    def wants(self, index: int) -> bool:
        """Whether the gradient of an input is needed."""
        return index < len(self._wanted) and self._wanted[index]

    def give(self, index: int, name: str) -> None:
        """Says which value is the gradient of an input; ignored where it is not needed."""
        if self.wants(index):
            self.given[index] = name

    def x(self, index: int = 0) -> str:
        """Name of an input that must be given."""
        return self.node.input(index).name

    def y(self, index: int = 0) -> str:
        """Name of an output that must be given."""
        return self.node.output(index).name

    def attr(self, name: str, default: Any = None) -> Any:
        """Value of an attribute, strings decoded; `default` where it is absent."""
        return self.node.attribute(name, default)

    def dtype(self, value: Value) -> np.dtype[Any]:
        """Element type of a value."""
        return helper.tensor_dtype_to_np_dtype(value.elem_type)

    def emit(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node with one output; returns the output's name."""
        return self.write.emit(op_type, *inputs, **attributes)

    def number(self, value: float) -> str:
        """A scalar of the element type of the first input."""
        return self.write.number(value, self.node.input(0).elem_type)

    def above_zero(self, value: str) -> str:
        """A value that is nowhere negative, with 1e-30 added: what is divided by it stays finite, and 0 stays 0."""
        return self.emit("Add", value, self.number(1e-30))

    def times(self, *factors: str) -> str:
        """The product of values, which broadcast."""
        found = factors[0]
        for factor in factors[1:]:
            found = self.emit("Mul", found, factor)
        return found

    def mask(self, condition: str) -> str:
        """1 where a condition holds, 0 elsewhere, of the element type of the first input."""
        return self.emit("Cast", condition, to=self.node.input(0).elem_type)

    def rank(self, value: Value) -> int:
        """Number of axes; raises LookupError where it is unknown."""
        return len(value.ranked_axes())

    def lengths(self, value: Value) -> list[int]:
        """Lengths of all axes; raises LookupError unless all are static."""
        found = [axis.length for axis in value.ranked_axes()]
        if None in found:
            raise LookupError(f"the shape of '{value.name}' is only known when {self.node.label} runs")
        return [int(n or 0) for n in found]

    def is_static(self, value: Value) -> bool:
        """Whether the lengths of all axes are known."""
        return value.shape is not None and all(axis.length is not None for axis in value.axes())

    def shape(self, value: Value) -> str:
        """The shape of a value: a constant where it is static, else computed in the run."""
        return self.write.ints(self.lengths(value)) if self.is_static(value) else self.emit("Shape", value.name)

    def axis(self, value: Value, axis: int) -> int:
        """An axis counted from the front."""
        return axis % max(self.rank(value), 1)

    def reshaped(self, name: str, value: Value) -> str:
        """The elements of a gradient in the shape of a value."""
        return self.emit("Reshape", name, self.shape(value))

    def numbers(self, index: int) -> list[Any] | None:
        """Entries of a small input that is known before the run, flattened; None where it is not given.

        Raises:
            LookupError: It is given, and its entries depend on the run.
        """
        if not self.node.has(index):
            return None
        entries = self.entries(self.node.input(index))
        if entries is None:
            raise LookupError(f"input {index} of {self.node.label} is only known in the run")
        return list(entries.flat)

    def entries(self, value: Value) -> Data | None:
        """What a small value holds; None where only the run tells."""
        entries = self._data.get(value)
        return entries if entries is not None and known(entries) else None

    def stretched(self, name: str, value: Value) -> str:
        """Something that broadcasts to the shape of a value, in that shape."""
        if self.write.opset >= _EXPANDS:
            return self.emit("Expand", name, self.shape(value))
        dtype = self.dtype(value)
        return self.emit("Add", name, self.write.constant(np.zeros(self.lengths(value), dtype)))

    def zeros(self, value: Value) -> str:
        """Zeros in the shape of a value."""
        return self.stretched(self.write.number(0.0, value.elem_type), value)

    def sum_to(self, name: str, start: Value, end: Value, own: int = 0) -> str:
        """Sums a gradient over the axes along which a value was stretched by broadcasting.

        Args:
            name: The gradient, of the shape of `start`.
            start: What the value was stretched to.
            end: The value.
            own: How many of the last axes the gradient has as the value does, whatever `start` has there.

        Raises:
            LookupError: Whether an axis was stretched is only known in the run.
        """
        ahead = self.rank(start) - self.rank(end)
        stretched = list(range(ahead))
        for axis in end.axes()[: self.rank(end) - own]:
            other = start.axis(axis.position + ahead)
            if axis.length == 1 and other.length != 1:
                stretched.append(other.position)
            elif axis.length is None and not self._surely_equal(axis, other):
                return self._sum_at_run_time(name, end, ahead)
        if not stretched:
            return name
        if len(stretched) == ahead:
            return self.write.reduce_sum(name, stretched, keepdims=False)
        return self.reshaped(self.write.reduce_sum(name, stretched, keepdims=True), end)

    def _surely_equal(self, axis: Axis, other: Axis) -> bool:
        """Whether two axes have the same length in every run."""
        lengths = [(one.value.shape or [])[one.position] for one in (axis, other)]
        return lengths[0] is not None and lengths[0] == lengths[1]

    def _sum_at_run_time(self, name: str, end: Value, ahead: int) -> str:
        """`sum_to` where only the run tells which axes were stretched: those whose lengths differ.

        Args:
            name: The gradient.
            end: What it is the gradient of.
            ahead: How many axes more the gradient has, in front.

        Raises:
            LookupError: The operator set sums over known axes alone.
        """
        if self.write.opset < AXES_ARE_INPUTS:
            raise LookupError(f"whether {self.node.label} stretches '{end.name}' is only known in the run")
        shape = self.shape(end)
        whole = self.emit("Concat", self.write.ints([1] * ahead), shape, axis=0) if ahead else shape
        differs = self.emit("Not", self.emit("Equal", self.emit("Shape", name), whole))
        axes = self.write.reshape(self.emit("NonZero", differs), [-1])
        return self.emit("Reshape", self.emit("ReduceSum", name, axes, keepdims=1, noop_with_empty_axes=1), shape)

    def product_along(self, name: str, value: Value, axis: int, matrix: str) -> str:
        """Multiplies a gradient along an axis with a matrix of shape (old length, new length).

        Args:
            name: The gradient, of the rank of `value`.
            value: A value of that rank.
            axis: The axis, counted from the front.
            matrix: Name of the matrix.
        """
        rank = self.rank(value)
        if axis == rank - 1:
            return self.emit("MatMul", name, matrix)
        swapped = list(range(rank))
        swapped[axis], swapped[-1] = swapped[-1], swapped[axis]
        moved = self.emit("MatMul", self.emit("Transpose", name, perm=swapped), matrix)
        return self.emit("Transpose", moved, perm=swapped)

    def scattered(self, name: str, value: Value, axis: int, indices: Sequence[int], length: int) -> str:
        """The transpose of a selection along an axis: adds up the slices of a gradient at known indices.

        Args:
            name: The gradient, with one slice an index.
            value: A value of its rank.
            axis: The axis.
            indices: Where each slice goes; at least 0.
            length: Length of the axis afterwards.
        """
        matrix: NDArray[Any] = np.zeros((len(indices), length), np.float64)
        matrix[np.arange(len(indices)), np.asarray(indices, dtype=np.int64)] = 1
        kind = self.dtype(value)
        return self.product_along(name, value, axis, self.write.constant(matrix.astype(kind)))

    def count(self, lengths: Sequence[int]) -> int:
        """Product of lengths."""
        return math.prod(lengths)
