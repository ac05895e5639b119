"""Parameters, MACs and bytes as functions of how many units of each group go."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnxprune.cost.macs import _mac_axes
from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import WEIGHT_TYPES, Group
from onnxprune.graph.graph import Axis, Value

Removed = NDArray[np.int64]
"""Removed units of each group; shape (groups,)."""


class CostModel:
    """A sum of terms, each a constant times the lengths of some axes.

    Args:
        coupling: The analysed graph.
        groups: The groups that may shrink.
        terms: (factor, axes) of each term; axes without static length count by their place in the factor.
        fixed: What is there whatever goes.
    """

    def __init__(
        self,
        coupling: Coupling,
        groups: Sequence[Group],
        terms: Sequence[tuple[float, Sequence[Axis]]],
        fixed: float = 0.0,
    ) -> None:
        owned = _owned(coupling, groups)
        self._fixed = fixed
        self._groups = len(groups)
        rows: list[tuple[float, list[int]]] = []
        classes: dict[int, int] = {}
        for factor, axes in terms:
            shrinking = []
            for axis in axes:
                c = int(coupling.classes.of[axis.id])
                if c in owned:
                    shrinking.append(classes.setdefault(c, len(classes)))
                else:
                    factor *= axis.length or 1
            if shrinking:
                rows.append((factor, shrinking))
            else:
                self._fixed += factor
        width = max((len(r) for _, r in rows), default=1)
        self._lengths = np.ones(len(classes) + 1)  # the last one pads
        self._slopes = np.zeros((len(classes) + 1, len(groups)))
        for c, i in classes.items():
            self._lengths[i] = coupling.classes.length[c]
            for g, k in owned[c].items():
                self._slopes[i, g] = k
        self._factors = np.array([f for f, _ in rows])
        padded = [r + [len(classes)] * (width - len(r)) for _, r in rows]
        self._axes = np.array(padded, dtype=np.int64).reshape(-1, width)
        self._rows_of = [np.flatnonzero((self._slopes[self._axes, g] > 0).any(axis=1)) for g in range(len(groups))]

    def left(self, removed: Removed) -> float:
        """The cost once so many units of each group are gone."""
        return self._fixed + float(self._sum(removed, slice(None)))

    def saving(self, removed: Removed, group: int, more: int) -> float:
        """How much less it costs when `more` units of one group go as well."""
        rows = self._rows_of[group]
        further = removed.copy()
        further[group] += more
        return float(self._sum(removed, rows) - self._sum(further, rows))

    def _sum(self, removed: Removed, rows: NDArray[np.int64] | slice) -> float:
        if not len(self._factors):
            return 0.0
        lengths = self._lengths - self._slopes @ removed
        return float((self._factors[rows] * lengths[self._axes[rows]].prod(axis=1)).sum())


def _owned(coupling: Coupling, groups: Sequence[Group]) -> dict[int, dict[int, int]]:
    """Class -> group -> how many of its indices each unit owns."""
    group_of = np.full(len(coupling.channel), -1, dtype=np.int64)
    for i, group in enumerate(groups):
        group_of[group.channels] = i
    owner = group_of[coupling.channel]
    classes = coupling.classes
    sizes = np.maximum(classes.length, 0)
    class_of = np.repeat(np.arange(len(sizes)), sizes)
    hit = owner >= 0
    pairs, counts = np.unique(np.stack([class_of[hit], owner[hit]]), axis=1, return_counts=True)
    found: dict[int, dict[int, int]] = {}
    for c, g, n in zip(*pairs.tolist(), counts.tolist(), strict=True):
        found.setdefault(c, {})[g] = n // groups[g].units
    return found


def parameters(coupling: Coupling, groups: Sequence[Group]) -> CostModel:
    """Elements of weight constants with more than one element."""
    terms = [(1.0, v.axes()) for v in _stored(coupling) if v.elem_type in WEIGHT_TYPES and _size(v) > 1]
    return CostModel(coupling, groups, terms)


def nbytes(coupling: Coupling, groups: Sequence[Group], total: int) -> CostModel:
    """Bytes of the saved model: `total` now, of which the weights shrink."""
    terms = [(_width(v), v.axes()) for v in _stored(coupling)]
    return CostModel(coupling, groups, terms, total - sum(_width(v) * _size(v) for v in _stored(coupling)))


def _stored(coupling: Coupling) -> list[Value]:
    return list({v.key: v for v in reversed(list(coupling.graph.constants()))}.values())


def _size(value: Value) -> int:
    return math.prod(d for d in value.shape or [] if isinstance(d, int))


def _width(value: Value) -> float:
    if value.elem_type in (TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1):
        return 0.5
    try:
        return float(helper.tensor_dtype_to_np_dtype(value.elem_type).itemsize)
    except KeyError:
        return 1.0


def macs(coupling: Coupling, groups: Sequence[Group], shapes: Mapping[str, Sequence[int]]) -> CostModel:
    """Multiply-accumulates, counted as `cost.macs_from_shapes` does.

    Args:
        coupling: The analysed graph.
        groups: The groups that may shrink.
        shapes: Concrete shapes of the main graph's values before pruning, for axes without static length.
    """
    terms = []
    for node in coupling.graph.main.nodes:
        for axes in _mac_axes(node):
            free = math.prod(
                shapes[a.value.name][a.position] for a in axes if a.length is None and a.value.name in shapes
            )
            terms.append((float(free), axes))
    return CostModel(coupling, groups, terms)
