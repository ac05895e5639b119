"""Gives nodes zeros in the place of what their axes lost, and cuts their outputs to what is left."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.refills import ends
from onnxprune.edit.resize import KeptLengths
from onnxprune.edit.slicing import add_constant, node_index
from onnxprune.graph.graph import Graph, Node, Value
from onnxprune.model.unique_names import Names

Amounts = dict[int, int]
"""Position of an axis -> how many indices it lost."""


def refill(coupling: Coupling, lengths: KeptLengths, names: Names) -> None:
    """Pads the inputs and cuts the outputs of the nodes in `Ties.refills` whose axes lost indices, in place.

    Zeros follow what is left: none of these nodes depends on the order. One value is padded once for all that read it;
    those in `Coupling.padded_constants` have their zeros. What one of these nodes makes for another is not cut.
    """
    classes = coupling.classes
    writer = _Writer(coupling.graph, names)

    def lost(value: Value, of: frozenset[int]) -> Amounts:
        axes = [axis for axis in value.axes() if int(classes.of[axis.id]) in of]
        return {axis.position: len(lengths.removed(axis)) for axis in axes}

    for end in ends(coupling.graph, classes, [one for one in coupling.ties.refills if lengths.changed(one.axis)]):
        node, i, value = end.node, end.index, end.value
        if value in coupling.padded_constants:
            continue
        pads, cuts = lost(value, end.pads), lost(value, end.cuts)
        if end.is_output:
            writer.cut_output(node, i, value, cuts)
        else:
            source = writer.whole(value) if end.whole else node.proto.input[i]
            node.proto.input[i] = writer.padded(node, writer.cut(node, source, value, cuts), value, pads)


class _Writer:
    """Writes nodes that pad and cut."""

    def __init__(self, graph: Graph, names: Names) -> None:
        self._graph, self._names = graph, names
        self._opset = graph.opsets.get("", 1)
        self._made: dict[tuple[int, str, str], str] = {}
        self._whole: dict[Value, str] = {}

    def whole(self, value: Value) -> str:
        """The name of an output before it is cut."""
        if value not in self._whole:
            self._whole[value] = self._names.fresh(f"{value.name}_refilled")
        return self._whole[value]

    def padded(self, node: Node, source: str, value: Value, amounts: Amounts) -> str:
        """The name of an input with zeros at the end of its axes; a node that makes it stands before its reader."""
        rank = value.rank or 0
        ends = [amounts.get(position, 0) for position in range(rank)]
        return self._changed(node, "Pad", source, value, [("pads", [0] * rank + ends)] if amounts else [])

    def cut(self, node: Node, source: str, value: Value, amounts: Amounts) -> str:
        """The name of an input that is cut at the end of its axes, likewise."""
        return self._changed(node, "Slice", source, value, _ends(amounts) if amounts else [])

    def _changed(self, node: Node, kind: str, source: str, value: Value, operands: list[tuple[str, list[int]]]) -> str:
        if not operands:
            return source
        key = id(node.scope), source, str(operands)
        if key not in self._made:
            name = self._names.fresh(f"{value.name}_refilled")
            node.scope.proto.node.insert(node_index(node), self._node(node, kind, [source], [name], operands))
            self._made[key] = name
        return self._made[key]

    def cut_output(self, node: Node, i: int, value: Value, amounts: Amounts) -> None:
        """Cuts an output at the end of its axes; its name is then that of what is left. No amounts: of nothing."""
        name, whole = node.proto.output[i], self.whole(value)
        node.proto.output[i] = whole
        if amounts:
            made = self._node(node, "Slice", [whole], [name], _ends(amounts))
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


def _ends(amounts: Amounts) -> list[tuple[str, list[int]]]:
    """Operands of a Slice that cuts axes at their end."""
    return [("starts", [0] * len(amounts)), ("ends", [-lost for lost in amounts.values()]), ("axes", list(amounts))]
