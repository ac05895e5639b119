"""Positions that index tensors hold: which of their own axes they depend on, and what they are.

Slices that are written or read over several axes at once are addressed by a grid: ``x[:, 4:8, 2:6] = y`` becomes a
ScatterND whose indices, of shape (batch, 4, 4, 3), hold in column 1 the numbers 4 to 7 along axis 1, whatever the other
axes. A column that depends on one axis alone relates that axis to the one it addresses, index by index.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from onnxprune.graph.contents import Data, known
from onnxprune.graph.graph import Node, Value

MAX_INDICES = 2**24
"""Index tensors with more entries are not looked at."""


@dataclass(frozen=True)
class Positions:
    """The entries of an index tensor, or of one column of it.

    Attributes:
        axes: The axes that they may depend on.
        entries: What they are along that axis if it is the only one, one number if there is none; None where only the
            run tells, or several axes matter.
    """

    axes: frozenset[int]
    entries: NDArray[np.int64] | None = None

    def moved(self, places: Mapping[int, int]) -> Positions:
        """The same with other numbers for the axes."""
        return replace(self, axes=frozenset(places[a] for a in self.axes))


def columns(value: Value, data: Mapping[Value, Data]) -> list[Positions]:
    """The columns of an index tensor: what it holds at each index of its last axis.

    Raises:
        ValueError: The number of columns is unknown.
    """
    shape = value.shape or [None]
    count, last = shape[-1], len(shape) - 1
    if not isinstance(count, int):
        raise ValueError("depth of the positions unknown")
    array = _array(value, data)
    if array is not None:
        return [_of_array(array[..., i]) for i in range(count)]
    node = value.producer
    if node is not None and node.op_type == "Concat" and node.attribute("axis") in (-1, last) and not node.domain:
        return [column for part in node.inputs if part is not None for column in columns(part, data)]
    found = positions(value, data)
    return [found if last not in found.axes else Positions(frozenset(range(last)))] * count


def positions(value: Value, data: Mapping[Value, Data]) -> Positions:
    """What is known of the entries of an index tensor."""
    return _Walk(data)(value)


class _Walk:
    """Follows index tensors to what they are computed of, each value once: sums may read one value twice."""

    def __init__(self, data: Mapping[Value, Data]) -> None:
        self._data = data
        self._found: dict[Value, Positions] = {}

    def __call__(self, value: Value) -> Positions:
        """What is known of the entries of an index tensor."""
        if value not in self._found:
            self._found[value] = self._follow(value)
        return self._found[value]

    def _follow(self, value: Value) -> Positions:
        array = _array(value, self._data)
        if array is not None:
            return _of_array(array)
        node = value.producer
        follow = _FOLLOWED.get(node.op_type) if node is not None and not node.domain else None
        found = follow(node, self) if node is not None and follow is not None else None
        return found if found is not None else Positions(frozenset(range(value.rank or 0)))


def _array(value: Value, data: Mapping[Value, Data]) -> NDArray[np.int64] | None:
    """The contents, where they are known before the run."""
    entries = data.get(value)
    if entries is not None:
        return entries.astype(np.int64) if known(entries) else None
    t = value.tensor
    if t is None or t.data_type not in (TensorProto.INT64, TensorProto.INT32):
        return None
    if t.data_location == TensorProto.EXTERNAL or math.prod(t.dims) > MAX_INDICES:
        return None
    return onnx.numpy_helper.to_array(t).astype(np.int64)


def _of_array(array: NDArray[np.int64]) -> Positions:
    axes = [i for i in range(array.ndim) if (array != array.take([0], axis=i)).any()] if array.size else []
    if len(axes) > 1:
        return Positions(frozenset(axes))
    along = np.moveaxis(array, axes[0], 0).reshape(array.shape[axes[0]], -1)[:, 0] if axes else array.reshape(-1)[:1]
    return Positions(frozenset(axes), along if array.size else None)


def _same(node: Node, positions_of: _Walk) -> Positions | None:
    return positions_of(node.input(0))


def _regrouped(node: Node, positions_of: _Walk) -> Positions | None:
    """Axes of length 1 come or go; the others stay in their order."""
    before, after = (_long(value) for value in (node.input(0), node.output()))
    if [n for _, n in before] != [n for _, n in after] or None in dict(before).values():
        return None
    found = positions_of(node.input(0))
    places = {a: b for (a, _), (b, _) in zip(before, after, strict=True)}
    return found.moved(places) if found.axes <= set(places) else None


def _long(value: Value) -> list[tuple[int, Any]]:
    return [(i, n) for i, n in enumerate(value.shape or [None]) if n != 1]


def _expanded(node: Node, positions_of: _Walk) -> Positions | None:
    """The axes are aligned at the end; what an axis of length 1 is stretched to does not matter."""
    return _broadcast(node, node.input(0), positions_of)


def _broadcast(node: Node, value: Value, positions_of: _Walk) -> Positions | None:
    rank = node.output().rank
    if rank is None or value.rank is None:
        return None
    return positions_of(value).moved({a: a + rank - value.rank for a in range(value.rank)})


def _transposed(node: Node, positions_of: _Walk) -> Positions | None:
    rank = node.input(0).rank or 0
    perm = node.attribute("perm") or list(range(rank))[::-1]
    return positions_of(node.input(0)).moved({source: i for i, source in enumerate(perm)})


def _combined(node: Node, positions_of: _Walk) -> Positions | None:
    parts = [_broadcast(node, value, positions_of) for value in node.inputs if value is not None]
    axes = [part.axes for part in parts if part is not None]
    return Positions(frozenset[int]().union(*axes)) if len(axes) == len(parts) else None


_FOLLOWED = {
    "Identity": _same,
    "Cast": _same,
    "Reshape": _regrouped,
    "Unsqueeze": _regrouped,
    "Squeeze": _regrouped,
    "Expand": _expanded,
    "Transpose": _transposed,
    **dict.fromkeys(("Add", "Sub", "Mul", "Where"), _combined),
}
