"""Permutation of channels: which units may be permuted, and the resulting order of each constant.

The units of a group have the same ties, so that permuting them, with all their indices, changes no output: contractions
and normalizations do not depend on the order. Units are not permuted where the order matters: on graph inputs and
outputs, pinned channels, axes that a rule marks as ordered, tables of indices, and if units do not own indices in the
same pattern.
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
from onnxprune.coupling.groups import Grade, Group
from onnxprune.edit.slicing import Change, ConstantEdit, apply_edits, edits_by_reader
from onnxprune.graph.graph import Axis, Graph, Value
from onnxprune.graph.operators import operator_of
from onnxprune.model.model import Model
from onnxprune.model.tensors import WEIGHT_TYPES
from onnxprune.model.values import Made, Values


@dataclass(frozen=True, eq=False)
class PermutableUnits:
    """Units of one group that may be permuted.

    Attributes:
        group: The group.
        channels: Channel of each unit; shape (units,).
        positions: Axis class -> ascending indices that each unit owns; shape (units, indices per unit).
    """

    group: Group
    channels: Index
    positions: dict[int, Index]

    @property
    def units(self) -> int:
        """Number of units."""
        return len(self.channels)


def permutable_units(coupling: Coupling) -> list[PermutableUnits]:
    """Returns the units of each group that may be permuted; groups without any are left out."""
    fixed = _fixed_channels(coupling)
    found = []
    for group in coupling.groups:
        channels = group.channels[~fixed[group.channels]]
        if group.grade < Grade.PINNED and len(channels) > 1:
            positions = _positions(coupling, channels)
            if all(_same_pattern(indices) for indices in positions.values()):
                found.append(PermutableUnits(group, channels, positions))
    return found


def identity_source(coupling: Coupling) -> Index:
    """Returns the identity permutation of all elements, see `set_order`; shape (elements,)."""
    return np.arange(coupling.classes.elements, dtype=np.int64)


def set_order(coupling: Coupling, source: Index, units: PermutableUnits, order: Index) -> None:
    """Writes an order of units into a permutation of all elements.

    Args:
        coupling: The analysis.
        source: For each element the element that takes its position, modified in place; shape (elements,).
        units: The units.
        order: For each unit the unit that takes its position; shape (units,).
    """
    for c, indices in units.positions.items():
        offset = int(coupling.classes.offset[c])
        source[offset + indices] = offset + indices[order]


def axis_order(coupling: Coupling, source: Index, axis: Axis) -> Index:
    """Returns the index that takes each position of an axis; shape (length of the axis,)."""
    span = coupling.classes.span(axis.id)
    found: Index = source[span] - span.start
    return found


def constant_orders(coupling: Coupling, source: Index) -> list[ConstantEdit]:
    """Returns the order of each constant whose order changes."""
    moved = source != np.arange(len(source))
    count = np.concatenate([[0], np.cumsum(moved)])

    def orders(value: Value) -> Change:
        spans = [(axis.position, coupling.classes.span(axis.id)) for axis in value.axes()]
        return {
            position: tuple((source[span] - span.start).tolist())
            for position, span in spans
            if count[span.stop] > count[span.start]
        }

    return edits_by_reader(coupling.graph, orders)


def reorder_constants(model: Model, graph: Graph, edits: Sequence[ConstantEdit]) -> None:
    """Reorders constants of a model in place."""
    apply_edits(model, graph, edits, _reordered)


def permute_original(
    model: Model, coupling: Coupling, origin: Index, moves: Sequence[tuple[PermutableUnits, Index]]
) -> None:
    """Applies permutations of a pruned model to the original in place; removed channels keep their positions.

    Args:
        model: The original.
        coupling: Its analysis.
        origin: Channel of the original that corresponds to each channel of the pruned model.
        moves: Units of the pruned model, and their order.
    """
    source = identity_source(coupling)
    for units, order in moves:
        channels = origin[units.channels]
        set_order(coupling, source, PermutableUnits(units.group, channels, _positions(coupling, channels)), order)
    reorder_constants(model, coupling.graph, constant_orders(coupling, source))


def _reordered(edit: ConstantEdit, values: Values) -> Values:
    def make() -> NDArray[Any]:
        array = values.array()
        for axis, order in edit.change.items():
            array = array.take(order, axis=axis)
        return array

    return Made(values.shape, values.dtype, make)


def _fixed_channels(coupling: Coupling) -> NDArray[np.bool_]:
    """Returns which channels must keep their positions; boolean per channel id."""
    fixed = np.zeros(coupling.classes.elements, dtype=bool)
    main = coupling.graph.main
    values = [v for v in [*main.inputs, *main.outputs, *filter(_is_table, coupling.graph.constants())] if v is not None]
    for axis in [*coupling.ties.ordered, *(axis for value in values for axis in value.axes())]:
        fixed[coupling.channels_of(axis)] = True
    return fixed


def _is_table(value: Value) -> bool:
    """Whether a constant is not a weight, but indices, shapes or conditions."""
    if value.elem_type == TensorProto.INT32:
        return not all(operator_of(node).reads_zero_points for node, _ in value.consumers)
    return value.elem_type not in WEIGHT_TYPES


def _positions(coupling: Coupling, channels: Index) -> dict[int, Index]:
    """Returns the indices that each channel of one group owns in each axis class."""
    classes = coupling.classes
    unit = np.full(classes.elements, -1)
    unit[channels] = np.arange(len(channels))
    elements = np.flatnonzero(unit[coupling.channel] >= 0)
    owned = elements[np.argsort(unit[coupling.channel[elements]], kind="stable")].reshape(len(channels), -1)
    sizes = np.maximum(classes.length, 0)
    of = np.searchsorted(np.cumsum(sizes), owned[0], side="right")
    return {int(c): owned[:, of == c] - classes.offset[c] for c in np.unique(of)}


def _same_pattern(indices: Index) -> bool:
    """Whether the indices of all units have the same pattern, up to an offset."""
    return bool((indices - indices[:, :1] == indices[0] - indices[0, 0]).all())
