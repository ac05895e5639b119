"""Appends nodes to a graph in the operator set that the model uses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, defs, helper, numpy_helper

from onnxprune.model.opset import opset_of
from onnxprune.model.unique_names import Names

OLDEST_OPSET = 7
"""First opset version of the standard domain in which nodes are written: operators broadcast as they do today."""
AXES_ARE_INPUTS = 13
_BOUNDS_ARE_INPUTS = 10
_PADS_ARE_INPUTS = 11


class Writer:
    """New nodes and constants for a model, with names that it does not use yet.

    Attributes:
        opset: Opset version of the standard domain that the model imports.
        nodes: The new nodes, in topological order.
        constants: Tensors that they read.
    """

    def __init__(self, proto: ModelProto) -> None:
        self.opset = opset_of(proto)
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._names = Names(proto)

    def emit(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Appends a node with one output; returns the output's name.

        Attributes that are None are left out; `domain` is that of the operator.

        Raises:
            LookupError: The operator set has no such operator.
        """
        return self.define(self._names.fresh(f"gradient/{op_type}"), op_type, *inputs, **attributes)

    def define(self, output: str, op_type: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """`emit` with a given name for the output, which it returns."""
        if not domain and not defs.has(op_type, self.opset):
            raise LookupError(f"opset {self.opset} has no {op_type}")
        given = {name: value for name, value in attributes.items() if value is not None}
        # Before 1.22 onnxruntime gives several nodes that it fuses one name if they have none.
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=output, domain=domain or None, **given))
        return output

    @contextlib.contextmanager
    def apart(self) -> Iterator[list[NodeProto]]:
        """Appends the nodes of the block to a list of their own, for a branch of the graph."""
        outside, self.nodes = self.nodes, []
        try:
            yield self.nodes
        finally:
            self.nodes = outside

    def choose(self, condition: str, branches: Mapping[str, GraphProto], count: int) -> list[str]:
        """Appends an If with as many outputs; returns their names."""
        outputs = [self._names.fresh("gradient/If") for _ in range(count)]
        self.nodes.append(helper.make_node("If", [condition], outputs, name=outputs[0], **branches))
        return outputs

    def repeat(self, count: str, initial: Sequence[str], body: GraphProto) -> list[str]:
        """Appends a Loop without a condition; returns the names of its outputs.

        Args:
            count: Name of the number of iterations.
            initial: Names of the states before the first one.
            body: The body. Its first input is the number of the iteration, the others are the states; its outputs are
                the states, then what is stacked.
        """
        kept, go_on = (self._names.fresh("gradient/condition") for _ in range(2))
        body.input.insert(1, helper.make_tensor_value_info(kept, TensorProto.BOOL, []))
        body.output.insert(0, helper.make_tensor_value_info(go_on, TensorProto.BOOL, []))
        body.node.append(helper.make_node("Identity", [kept], [go_on], name=go_on))
        outputs = [self._names.fresh("gradient/Loop") for _ in body.output[1:]]
        self.nodes.append(helper.make_node("Loop", [count, "", *initial], outputs, name=outputs[0], body=body))
        return outputs

    def constant(self, array: NDArray[Any]) -> str:
        """Adds a constant; returns its name."""
        name = self._names.fresh("gradient/constant")
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def name(self, base: str) -> str:
        """A name that nothing in the model has."""
        return self._names.fresh(base)

    def ints(self, values: Sequence[int]) -> str:
        """A vector of whole numbers as a constant."""
        return self.constant(np.array(values, np.int64))

    def number(self, value: float, elem_type: int) -> str:
        """A scalar of a `TensorProto.DataType` as a constant."""
        return self.constant(np.array(value, helper.tensor_dtype_to_np_dtype(elem_type)))

    def reduce_sum(self, x: str, axes: Sequence[int], *, keepdims: bool) -> str:
        """Sums over some axes; the value itself where there are none."""
        if not axes:
            return x
        if self.opset < AXES_ARE_INPUTS:
            return self.emit("ReduceSum", x, axes=list(axes), keepdims=int(keepdims))
        return self.emit("ReduceSum", x, self.ints(axes), keepdims=int(keepdims))

    def unsqueeze(self, x: str, axes: Sequence[int]) -> str:
        """Inserts axes of length 1, at these places of the output; the value itself where there are none."""
        if not axes:
            return x
        if self.opset < AXES_ARE_INPUTS:
            return self.emit("Unsqueeze", x, axes=list(axes))
        return self.emit("Unsqueeze", x, self.ints(axes))

    def slice(
        self, x: str, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]
    ) -> str:
        """A part of a value with bounds that are known."""
        if self.opset >= _BOUNDS_ARE_INPUTS:
            return self.emit("Slice", x, *map(self.ints, (starts, ends, axes, steps)))
        if any(step != 1 for step in steps):
            for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
                x = self.emit("Gather", x, self.ints(range(start, end, step)), axis=axis)
            return x
        return self.emit("Slice", x, starts=list(starts), ends=list(ends), axes=list(axes))

    def slice_at(self, x: str, starts: str, ends: str, axes: Sequence[int]) -> str:
        """A part of a value with bounds that only the run tells, both given as vectors of whole numbers.

        Raises:
            LookupError: The operator set has no such operator.
        """
        if self.opset < _BOUNDS_ARE_INPUTS:
            raise LookupError(f"opset {self.opset} cannot slice at bounds that only the run tells")
        return self.emit("Slice", x, starts, ends, self.ints(axes))

    def pad(self, x: str, pads: Sequence[int], fill: np.floating | None = None) -> str:
        """Adds zeros, or another number: `pads` has how many before every axis, then how many after every axis."""
        if not any(pads):
            return x
        if self.opset < _PADS_ARE_INPUTS:
            return self.emit("Pad", x, pads=list(pads), value=None if fill is None else float(fill))
        return self.emit("Pad", x, self.ints(pads), *([] if fill is None else [self.constant(np.asarray(fill))]))

    def pad_at(self, x: str, pads: Sequence[str]) -> str:
        """Adds zeros, as many as only the run tells: a number of shape (1,) before every axis, then after every axis.

        Raises:
            LookupError: The operator set has no such operator.
        """
        if self.opset < _PADS_ARE_INPUTS:
            raise LookupError(f"opset {self.opset} cannot pad by numbers that only the run tells")
        return self.emit("Pad", x, self.emit("Concat", *pads, axis=0))

    def reshape(self, x: str, lengths: Sequence[int]) -> str:
        """The same elements in another shape, in which 0 and -1 have the meaning that Reshape gives them."""
        return self.emit("Reshape", x, self.ints(lengths))

    def total(self, terms: Sequence[str]) -> str:
        """The sum of values of one shape."""
        return terms[0] if len(terms) == 1 else self.emit("Add" if len(terms) == 2 else "Sum", *terms)
