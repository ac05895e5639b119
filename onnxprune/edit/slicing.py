"""Which constants a removal slices and how; constants whose readers need different slices are duplicated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnxprune.coupling.coupling import Coupling
from onnxprune.edit.resize import KeptLengths
from onnxprune.graph.graph import Graph, Node, Scope, Value
from onnxprune.model.model import Model
from onnxprune.model.unique_names import Names

Removal = dict[int, tuple[int, ...]]
"""Axis -> indices that go, of one constant."""


Change = dict[int, tuple[int, ...]]
"""Axis -> what becomes of its indices: a `Removal`, or an order."""


@dataclass(frozen=True)
class ConstantEdit:
    """What one stored tensor becomes.

    Attributes:
        name: Name after the change, in the scope of its readers' tensor.
        key: The same, qualified.
        original: Qualified name of the tensor that it is cut from; differs from `key` where readers of one tensor
            need different slices and this one gets a copy.
        change: What becomes of its indices.
        readers: The values that read it.
    """

    name: str
    key: str
    original: str
    change: Change
    readers: list[Value]


def constant_edits(coupling: Coupling, lengths: KeptLengths) -> list[ConstantEdit]:
    """What each constant that loses something, or must be parted, becomes."""

    def lost(value: Value) -> Removal:
        return (
            {axis.position: tuple(lengths.removed(axis).tolist()) for axis in value.axes() if lengths.changed(axis)}
            if lengths.touches(value)
            else {}
        )

    return parted(coupling.graph, lost)


def parted(graph: Graph, change_of: Callable[[Value], Change]) -> list[ConstantEdit]:
    """What each constant becomes that changes; where its readers need different changes, those get copies."""
    wanted: dict[str, list[tuple[Change, list[Value]]]] = {}
    for value in graph.constants():
        mine = change_of(value)
        wants = wanted.setdefault(value.key, [])
        for change, readers in wants:
            if change == mine:
                readers.append(value)
                break
        else:
            wants.append((mine, [value]))
    names = Names(graph.proto)
    found = []
    for key, wants in wanted.items():
        change, readers = wants[0]
        if change:
            found.append(ConstantEdit(readers[0].name, key, key, change, readers))
        for change, readers in wants[1:]:
            for reader in readers:  # a copy each: whoever edits one later does not touch another
                name, path = names.fresh(reader.name), reader.scope.path
                found.append(ConstantEdit(name, f"{path}|{name}" if path else name, key, change, [reader]))
    return found


Cut = Callable[[Value, NDArray[Any], Change], NDArray[Any]]


def cut(model: Model, graph: Graph, wanted: Sequence[ConstantEdit], change: Cut) -> None:
    """Changes constants in place; where readers part, the copies are added and the readers pointed at them.

    Args:
        model: Where the constants are.
        graph: Its graph.
        wanted: What happens to which constant.
        change: Gives the new contents of a constant from the old ones.
    """
    whole: dict[str, NDArray[Any]] = {}  # of tensors that are parted: their own place is changed last
    for slicing in sorted(wanted, key=lambda s: s.key == s.original):
        first = slicing.readers[0]
        assert first.tensor is not None
        if slicing.key == slicing.original:
            array = whole.pop(slicing.original, None)
            array = model.array(first.tensor) if array is None else array
            model.set_array(first.tensor, change(first, array, slicing.change))
            continue
        array = whole.setdefault(slicing.original, model.array(first.tensor))
        copy = TensorProto(name=slicing.name, data_type=first.tensor.data_type)
        model.set_array(copy, change(first, array, slicing.change))
        for reader in slicing.readers:
            for node, i in reader.consumers:
                node.proto.input[i] = copy.name
        add_constant(graph, first.scope, first.consumers[0][0], copy)


def add_constant(graph: Graph, scope: Scope, reader: Node, tensor: TensorProto) -> str:
    """Adds a constant to a scope.

    Before IR version 4 initializers are inputs, so there it is a Constant node, which before opset 9 holds floating
    point numbers only: other types are an initializer that is listed as an input, as all others are.
    """
    if graph.proto.ir_version >= 4 or scope.parent is not None:
        scope.proto.initializer.append(tensor)
    elif graph.opsets.get("", 1) < 9 and tensor.data_type not in _FIRST_CONSTANTS:
        scope.proto.initializer.append(tensor)
        scope.proto.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    else:
        made = helper.make_node("Constant", [], [tensor.name], name=tensor.name, value=tensor)
        scope.proto.node.insert(_index_of(reader) if reader.scope is scope else 0, made)
    return tensor.name


_FIRST_CONSTANTS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})


def _index_of(node: Node) -> int:
    for i, proto in enumerate(node.scope.proto.node):
        if proto.output and node.proto.output and proto.output[0] == node.proto.output[0]:
            return i
    return 0
