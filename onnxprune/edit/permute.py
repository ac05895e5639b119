"""Channels in another order: what may move, and how constants follow.

Units of one group are tied alike, so that they may change places, all that they own with them, and no output changes:
sums and normalisations do not ask for an order. Where one matters, nothing moves: graph inputs and outputs, what is
pinned, axes that a rule calls ordered, tables of indices, and units that do not own their indices in the same pattern.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxprune.coupling.components import Index
from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import QUANTISED, Grade, Group
from onnxprune.edit.slicing import Change, ConstantEdit, cut, parted
from onnxprune.graph.graph import Axis, Graph, Value
from onnxprune.model.model import Model
from onnxprune.model.tensors import WEIGHT_TYPES


@dataclass(frozen=True, eq=False)
class PermutableUnits:
    """Units that may change places.

    Attributes:
        group: Their group.
        channels: Channel of each; shape (units,).
        places: Class of axes -> the indices of it that each unit owns, rising; shape (units, indices a unit).
    """

    group: Group
    channels: Index
    places: dict[int, Index]

    @property
    def units(self) -> int:
        """How many there are."""
        return len(self.channels)


def movable(coupling: Coupling) -> list[PermutableUnits]:
    """The units of each group that may change places."""
    fixed = _fixed(coupling)
    found = []
    for group in coupling.groups:
        channels = group.channels[~fixed[group.channels]]
        if group.grade < Grade.PINNED and len(channels) > 1:
            places = _places(coupling, channels)
            if all(_alike(indices) for indices in places.values()):
                found.append(PermutableUnits(group, channels, places))
    return found


def nowhere(coupling: Coupling) -> Index:
    """The source of every element where nothing moves, see `move`."""
    return np.arange(coupling.classes.elements, dtype=np.int64)


def move(coupling: Coupling, source: Index, units: PermutableUnits, order: Index) -> None:
    """Enters an order of units.

    Args:
        coupling: The analysis.
        source: The element that goes to each element's place, changed in place; shape (elements,).
        units: The units.
        order: For each of them the unit that goes to its place; shape (units,).
    """
    for c, indices in units.places.items():
        offset = int(coupling.classes.offset[c])
        source[offset + indices] = offset + indices[order]


def order_of(coupling: Coupling, source: Index, axis: Axis) -> Index:
    """The index that goes to each place of an axis."""
    span = coupling.classes.span(axis.id)
    found: Index = source[span] - span.start
    return found


def reorderings(coupling: Coupling, source: Index) -> list[ConstantEdit]:
    """The order of each constant that has another one than before."""
    moved = source != np.arange(len(source))
    many = np.concatenate([[0], np.cumsum(moved)])

    def orders(value: Value) -> Change:
        spans = [(axis.position, coupling.classes.span(axis.id)) for axis in value.axes()]
        return {
            position: tuple((source[span] - span.start).tolist())
            for position, span in spans
            if many[span.stop] > many[span.start]
        }

    return parted(coupling.graph, orders)


def reorder(model: Model, graph: Graph, wanted: Sequence[ConstantEdit]) -> None:
    """Puts constants of a model into another order, in place."""
    cut(model, graph, wanted, _ordered)


def lift(model: Model, coupling: Coupling, origin: Index, moves: Sequence[tuple[PermutableUnits, Index]]) -> None:
    """Moves in the original what moves in a pruned model, in place; what was removed stays at its place.

    Args:
        model: The original.
        coupling: Its analysis.
        origin: The channel of the original that each channel of the pruned model is.
        moves: Units of the pruned model, and their order.
    """
    source = nowhere(coupling)
    for units, order in moves:
        channels = origin[units.channels]
        move(coupling, source, PermutableUnits(units.group, channels, _places(coupling, channels)), order)
    reorder(model, coupling.graph, reorderings(coupling, source))


def _ordered(value: Value, array: NDArray[Any], change: Change) -> NDArray[Any]:
    for axis, order in change.items():
        array = array.take(order, axis=axis)
    return array


def _fixed(coupling: Coupling) -> NDArray[np.bool_]:
    """Which channels must stay where they are, by channel id."""
    fixed = np.zeros(coupling.classes.elements, dtype=bool)
    main = coupling.graph.main
    held = [v for v in [*main.inputs, *main.outputs, *filter(_is_table, coupling.graph.constants())] if v is not None]
    for axis in [*coupling.ties.ordered, *(axis for value in held for axis in value.axes())]:
        fixed[coupling.channels_of(axis)] = True
    return fixed


def _is_table(value: Value) -> bool:
    """Whether a constant holds other than weights: indices, shapes, conditions."""
    if value.elem_type == TensorProto.INT32:
        return not all(node.op_type.startswith(QUANTISED) for node, _ in value.consumers)
    return value.elem_type not in WEIGHT_TYPES


def _places(coupling: Coupling, channels: Index) -> dict[int, Index]:
    """What channels of one group own of each class."""
    classes = coupling.classes
    unit = np.full(classes.elements, -1)
    unit[channels] = np.arange(len(channels))
    elements = np.flatnonzero(unit[coupling.channel] >= 0)
    owned = elements[np.argsort(unit[coupling.channel[elements]], kind="stable")].reshape(len(channels), -1)
    sizes = np.maximum(classes.length, 0)
    of = np.searchsorted(np.cumsum(sizes), owned[0], side="right")
    return {int(c): owned[:, of == c] - classes.offset[c] for c in np.unique(of)}


def _alike(indices: Index) -> bool:
    """Whether every unit owns its indices in the pattern of the first."""
    return bool((indices - indices[:, :1] == indices[0] - indices[0, 0]).all())
