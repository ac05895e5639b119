"""Gives nodes zeros in the place of what their axes lost, and cuts their outputs to what is left."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxprune.coupling.coupling import Coupling
from onnxprune.edit.resize import KeptLengths
from onnxprune.edit.slicing import add_constant, node_index
from onnxprune.graph.graph import Graph, Node, Value
from onnxprune.model.unique_names import Names

Amounts = dict[int, int]
"""Position of an axis -> how many indices it lost."""


def refill(coupling: Coupling, lengths: KeptLengths, names: Names) -> None:
    """Pads the inputs and cuts the outputs of the nodes in `Ties.refills` whose axes lost indices, in place.

    Zeros follow what is left: none of these nodes depends on the order. One value is padded once for all that read it.
    """
    classes: dict[Node, set[int]] = {}
    for one in coupling.ties.refills:
        if lengths.changed(one.axis):
            classes.setdefault(one.node, set()).add(int(coupling.classes.of[one.axis.id]))
    writer = _Writer(coupling.graph, names)

    def lost(value: Value, of: set[int]) -> Amounts:
        axes = [axis for axis in value.axes() if int(coupling.classes.of[axis.id]) in of]
        return {axis.position: len(lengths.removed(axis)) for axis in axes}

    for node, of in classes.items():
        for i, value in enumerate(node.inputs):
            amounts = lost(value, of) if value is not None else {}
            if value is not None and amounts:
                node.proto.input[i] = writer.padded(node, i, value, amounts)
        for i, value in enumerate(node.outputs):
            amounts = lost(value, of) if value is not None else {}
            if value is not None and amounts:
                writer.cut(node, i, amounts)


class _Writer:
    """Writes nodes that pad and cut."""

    def __init__(self, graph: Graph, names: Names) -> None:
        self._graph, self._names = graph, names
        self._opset = graph.opsets.get("", 1)
        self._padded: dict[tuple[int, str, str], str] = {}

    def padded(self, node: Node, i: int, value: Value, amounts: Amounts) -> str:
        """The name of an input with zeros at the end of its axes; a node that makes it stands before its reader."""
        source, rank = node.proto.input[i], value.rank or 0
        ends = [amounts.get(position, 0) for position in range(rank)]
        key = id(node.scope), source, str(ends)
        if key not in self._padded:
            name = self._names.fresh(f"{source}_refilled")
            made = self._node(node, "Pad", [source], [name], [("pads", [0] * rank + ends)])
            node.scope.proto.node.insert(node_index(node), made)
            self._padded[key] = name
        return self._padded[key]

    def cut(self, node: Node, i: int, amounts: Amounts) -> None:
        """Cuts an output at the end of its axes; what it is called is what is left."""
        name = node.proto.output[i]
        node.proto.output[i] = whole = self._names.fresh(f"{name}_refilled")
        operands = [
            ("starts", [0] * len(amounts)),
            ("ends", [-lost for lost in amounts.values()]),
            ("axes", list(amounts)),
        ]
        made = self._node(node, "Slice", [whole], [name], operands)
        node.scope.proto.node.insert(node_index(node) + 1, made)

    def _node(
        self, node: Node, kind: str, inputs: list[str], outputs: list[str], operands: list[tuple[str, list[int]]]
    ) -> onnx.NodeProto:
        """A node whose operands are attributes in old versions of the standard, later inputs."""
        attributes: dict[str, Any] = {}
        for name, entries in operands:
            if self._opset < (11 if kind == "Pad" else 10):
                attributes[name] = entries
            else:
                tensor = onnx.numpy_helper.from_array(
                    np.array(entries, np.int64), self._names.fresh(f"{outputs[0]}_{name}")
                )
                inputs = [*inputs, add_constant(self._graph, node.scope, node, tensor)]
        return helper.make_node(
            kind, inputs, outputs, name=self._names.fresh(f"{outputs[0]}_{kind.lower()}"), **attributes
        )
