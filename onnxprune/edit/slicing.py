"""Edits of constants (slices or orders); a constant is duplicated if its readers need different edits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from onnx import TensorProto

from onnxprune.coupling.coupling import Coupling
from onnxprune.edit.resize import KeptLengths
from onnxprune.graph.graph import Graph, Node, Scope, Value
from onnxprune.model import tensors
from onnxprune.model.model import Model
from onnxprune.model.unique_names import Names
from onnxprune.model.values import Values

Removal = dict[int, tuple[int, ...]]
"""Axis -> removed indices of one constant."""
Change = dict[int, tuple[int, ...]]
"""Axis -> indices of one constant: a `Removal`, or an order."""


@dataclass(frozen=True)
class ConstantEdit:
    """An edit of one stored tensor.

    Attributes:
        name: Name after the edit, in the scope of the tensor.
        key: The same, qualified.
        original: Qualified name of the original tensor; differs from `key` if this edit makes a copy, because readers
            of the tensor need different edits.
        change: Removed indices or new order, by axis.
        readers: The values of the graph that read the tensor.
        padded: Axes that keep their length in the file: zeros follow what is left.
    """

    name: str
    key: str
    original: str
    change: Change
    readers: list[Value]
    padded: frozenset[int] = frozenset()


def constant_edits(coupling: Coupling, lengths: KeptLengths) -> list[ConstantEdit]:
    """Returns the edits of all constants that lose indices or must be duplicated."""

    def removal(value: Value) -> Removal:
        return (
            {axis.position: tuple(lengths.removed(axis).tolist()) for axis in value.axes() if lengths.changed(axis)}
            if lengths.touches(value)
            else {}
        )

    return edits_by_reader(coupling.graph, removal, coupling.padded_constants)


def edits_by_reader(
    graph: Graph, change_of: Callable[[Value], Change], padded: Mapping[Value, frozenset[int]] = {}
) -> list[ConstantEdit]:
    """Returns the edits of all constants that change.

    If the readers of a constant need different changes, the first change edits it and the others edit copies.

    Args:
        graph: The graph.
        change_of: Returns the change that a value needs; empty for none.
        padded: Values whose axes keep their length in the file, see `ConstantEdit`.
    """
    wanted: dict[str, list[tuple[Change, frozenset[int], list[Value]]]] = {}
    for value in graph.constants():
        mine = change_of(value)
        zeros = padded.get(value, frozenset()) & mine.keys()
        wants = wanted.setdefault(value.key, [])
        for change, theirs, readers in wants:
            if (change, theirs) == (mine, zeros):
                readers.append(value)
                break
        else:
            wants.append((mine, zeros, [value]))
    names = Names(graph.proto)
    found = []
    for key, wants in wanted.items():
        change, zeros, readers = wants[0]
        if change:
            found.append(ConstantEdit(readers[0].name, key, key, change, readers, zeros))
        for change, zeros, readers in wants[1:]:
            for reader in readers:  # one copy per reader, so that later edits of one do not affect the others
                name, path = names.fresh(reader.name), reader.scope.path
                found.append(ConstantEdit(name, f"{path}|{name}" if path else name, key, change, [reader], zeros))
    return found


EditFunction = Callable[[ConstantEdit, Values], Values]


def apply_edits(model: Model, graph: Graph, edits: Sequence[ConstantEdit], function: EditFunction) -> None:
    """Edits constants in place; copies are added to the graph and connected to their readers.

    Args:
        model: The model.
        graph: Its graph.
        edits: The edits.
        function: Returns the new contents of a constant, given the edit and the old contents.
    """
    for edit in sorted(edits, key=lambda e: e.key == e.original):  # tensors with copies are edited last
        first = edit.readers[0]
        assert first.tensor is not None
        values = function(edit, model.values(first.tensor))
        if edit.key == edit.original:
            model.set_values(first.tensor, values)
            continue
        copy = TensorProto(name=edit.name, data_type=first.tensor.data_type)
        model.set_values(copy, values, like=first.tensor)
        for reader in edit.readers:
            for node, i in reader.consumers:
                node.proto.input[i] = copy.name
        add_constant(graph, first.scope, first.consumers[0][0], copy)


def add_constant(graph: Graph, scope: Scope, reader: Node, tensor: TensorProto) -> str:
    """Adds a constant to a scope and returns its name; see `model.tensors.add_constant`."""
    if scope.parent is not None or graph.proto.ir_version >= 4:
        scope.proto.initializer.append(tensor)
    else:  # perhaps a Constant node, which stands before its reader
        tensors.add_constant(graph.proto, tensor, node_index(reader) if reader.scope is scope else 0)
    return tensor.name


def node_index(node: Node) -> int:
    """Returns the position of a node in its scope, 0 if it is not there."""
    for i, proto in enumerate(node.scope.proto.node):
        if proto.output and node.proto.output and proto.output[0] == node.proto.output[0]:
            return i
    return 0
