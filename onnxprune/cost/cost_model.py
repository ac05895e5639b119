"""Costs as functions of how many units of each group are removed.

Allocation knows a cost as a `CostModel` and nothing else. `LengthProducts` is the form of parameters, MACs and bytes:
a sum of products of axis lengths, each of which shrinks by a fixed number of indices a unit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnxprune.cost.macs import graph_with_shapes, terms
from onnxprune.cost.table import CostTable, CostTerm, slopes_by_entry, unpadded
from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Group, group_of_channels
from onnxprune.coupling.parts import present_with
from onnxprune.coupling.refills import ends
from onnxprune.graph.graph import Axis, Node, Value
from onnxprune.graph.operators import Term
from onnxprune.model.tensors import WEIGHT_TYPES, bytes_an_element

Removed = NDArray[np.int64]
"""Removed units of each group; shape (groups,)."""


class CostModel(Protocol):
    """A cost of the pruned model, predicted from what is removed."""

    def left(self, removed: Removed) -> float:
        """The cost once so many units of each group are removed."""

    def saving(self, removed: Removed, group: int, more: int) -> float:
        """How much less it costs when `more` further units of one group are removed."""


@dataclass(frozen=True)
class Copy:
    """A term that is there only once an axis in `causes` loses an index: what removal adds to a model."""

    factor: float
    axes: Sequence[Axis]
    causes: Sequence[Axis]


class LengthProducts:
    """A sum of terms, each a constant times the lengths of some axes.

    Args:
        coupling: The analysed graph.
        groups: The groups that may shrink.
        terms: (factor, axes) of each term; axes without static length count by their part of the factor.
        fixed: What is there whatever is removed.
        copies: Terms that removal adds.
        singles: Whether a product that has shrunk to 1 counts: a tensor with one element is no parameter.
    """

    def __init__(
        self,
        coupling: Coupling,
        groups: Sequence[Group],
        terms: Iterable[Term],
        fixed: float = 0.0,
        copies: Iterable[Copy] = (),
        *,
        singles: bool = True,
    ) -> None:
        owned = owned_indices(coupling, groups)
        classes: dict[int, int] = {}
        rows: list[tuple[float, list[int], list[int] | None]] = []
        self._fixed, self._singles = fixed, singles
        for term in [*(Copy(factor, axes, ()) for factor, axes in terms), *copies]:
            factor, shrinking = term.factor, list[int]()
            for axis in term.axes:
                c = int(coupling.classes.of[axis.id])
                if c in owned:
                    shrinking.append(classes.setdefault(c, len(classes)))
                else:
                    factor *= 1 if axis.width is None else axis.width
            causes = {g for axis in term.causes for g in owned.get(int(coupling.classes.of[axis.id]), ())}
            if term.causes and not causes:
                continue
            if shrinking or causes:
                rows.append((factor, shrinking, sorted(causes) or None))
            else:
                self._fixed += factor
        width = max((len(r) for _, r, _ in rows), default=1)
        self._lengths = np.ones(len(classes) + 1)  # the last one pads
        self._slopes = np.zeros((len(classes) + 1, len(groups)))
        for c, i in classes.items():
            self._lengths[i] = coupling.classes.length[c]
            for g, k in owned[c].items():
                self._slopes[i, g] = k
        self._factors = np.array([f for f, _, _ in rows])
        padded = [r + [len(classes)] * (width - len(r)) for _, r, _ in rows]
        self._axes = np.array(padded, dtype=np.int64).reshape(-1, width)
        self._always = np.array([causes is None for _, _, causes in rows], dtype=bool)
        self._causes = np.zeros((len(rows), len(groups)), dtype=bool)
        for row, (_, _, by) in enumerate(rows):
            self._causes[row, by or []] = True
        self._rows_of = [
            np.flatnonzero((self._slopes[self._axes, g] > 0).any(axis=1) | self._causes[:, g])
            for g in range(len(groups))
        ]

    def left(self, removed: Removed) -> float:
        """See `CostModel`."""
        return self._fixed + float(self._sum(removed, slice(None)))

    def saving(self, removed: Removed, group: int, more: int) -> float:
        """See `CostModel`."""
        rows = self._rows_of[group]
        further = removed.copy()
        further[group] += more
        return float(self._sum(removed, rows) - self._sum(further, rows))

    def lefts(self, removed: Removed, group: int, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """What depends on one group, for several counts of its removed units; shape of `counts`."""
        rows = self._rows_of[group]
        without = removed.copy()
        without[group] = 0
        lengths = self._lengths - self._slopes @ without - counts[:, None] * self._slopes[:, group]
        others = (self._causes[rows] & (without > 0)).any(axis=1)
        there = self._always[rows] | others | (self._causes[rows, group] & (counts[:, None] > 0))
        products = self._factors[rows] * lengths[:, self._axes[rows]].prod(axis=-1)
        if not self._singles:
            there = there & (products > 1)
        found: NDArray[np.float64] = np.where(there, products, 0.0).sum(axis=1)
        return found

    def table(self) -> CostTable:
        """The cost as plain data."""
        padding = len(self._lengths) - 1
        terms = [
            CostTerm(factor, unpadded(axes, padding), [], [], np.flatnonzero(causes).tolist())
            for factor, axes, causes in zip(self._factors.tolist(), self._axes.tolist(), self._causes, strict=True)
        ]
        lengths = self._lengths[:padding].astype(np.int64).tolist()
        return CostTable(self._fixed, lengths, slopes_by_entry(self._slopes), terms, self._singles)

    def _sum(self, removed: Removed, rows: NDArray[np.int64] | slice) -> float:
        if not len(self._factors):
            return 0.0
        lengths = self._lengths - self._slopes @ removed
        there = self._always[rows] | self._causes[rows][:, removed > 0].any(axis=1)
        products = self._factors[rows] * lengths[self._axes[rows]].prod(axis=1)
        if not self._singles:
            there &= products > 1
        return float(products[there].sum())


def owned_indices(coupling: Coupling, groups: Sequence[Group]) -> dict[int, dict[int, int]]:
    """Class -> group -> how many of its indices each unit owns."""
    owner = group_of_channels(coupling, groups)[coupling.channel]
    classes = coupling.classes
    sizes = np.maximum(classes.length, 0)
    class_of = np.repeat(np.arange(len(sizes)), sizes)
    hit = owner >= 0
    pairs, counts = np.unique(np.stack([class_of[hit], owner[hit]]), axis=1, return_counts=True)
    found: dict[int, dict[int, int]] = {}
    for c, g, n in zip(*pairs.tolist(), counts.tolist(), strict=True):
        found.setdefault(c, {})[g] = n // groups[g].units
    return found


def parameters(coupling: Coupling, groups: Sequence[Group]) -> LengthProducts:
    """Elements of weight constants with more than one element."""
    stored = [v for v in _stored(coupling) if v.elem_type in WEIGHT_TYPES and _size(v) > 1]
    return LengthProducts(
        coupling,
        groups,
        _with_branches(coupling, [(v, _term(coupling, v)) for v in stored]),
        copies=[Copy(*_term(coupling, v), causes) for v, causes in _copied(coupling, stored)],
        singles=False,
    )


NODE_BYTES = 80
"""Bytes of a node or tensor that removal adds, beside its names and contents: an upper bound."""


def nbytes(
    coupling: Coupling, groups: Sequence[Group], total: int, density: Mapping[str, float] = MappingProxyType({})
) -> LengthProducts:
    """Bytes of the saved model: `total` before removal, of which the weights shrink, sparse ones by their `density`.

    What removal adds (copies of shared vectors, factors of means, zeros given back, gathered constants) is bounded from
    above; tensors of positions that get shorter count as they are.
    """

    def stored_bytes(value: Value) -> float:
        return bytes_an_element(value.elem_type) * density.get(value.key, 1.0)

    stored = _stored(coupling)
    copies = []
    for value, causes in _copied(coupling, stored):
        copies += [
            Copy(*_term(coupling, value, stored_bytes(value)), causes),
            Copy(NODE_BYTES + 2.0 * len(value.name), [], causes),
        ]
    for mean in coupling.ties.means:
        copies.append(Copy(2 * NODE_BYTES + 6.0 * len(mean.node.label), [], [mean.axis]))
    copies += _refilled(coupling)
    for cut in coupling.constant_cuts:
        for axis in (cut.read.axis(p) for p in cut.positions):
            copies += [Copy(8.0, [axis], [axis]), Copy(2 * NODE_BYTES + 6.0 * len(cut.made.name), [], [axis])]
    for node in dict.fromkeys(node for node, _ in coupling.ties.resizes):
        axes = [axis for v in [*node.inputs, *node.outputs] if v is not None for axis in v.axes()]
        longest = max((len(v.name) for v in [*node.inputs, *node.outputs] if v is not None), default=0)
        copies.append(Copy(2 * NODE_BYTES + 4.0 * longest + 8.0 * len(axes), [], axes))  # a shape or bounds of its own
        made = [v for v in node.inputs if v is not None and v.tensor is None and v.elem_type not in WEIGHT_TYPES]
        for positions in made:  # a Gather, a Mul and an Add, with their operands, compute others
            copies.append(Copy(6 * NODE_BYTES + 12.0 * len(positions.name), [], axes))
            copies.append(Copy(8.0, node.inputs[0].axes()[1:] if node.inputs[0] is not None else [], axes))
    terms = _with_branches(coupling, [(v, _term(coupling, v, stored_bytes(v))) for v in stored])
    fixed = total - sum(stored_bytes(v) * _size(v) for v in stored)
    return LengthProducts(coupling, groups, terms, fixed, copies)


def _refilled(coupling: Coupling) -> list[Copy]:
    """The Pads, of one operand, and the Slices, of three, of nodes that are given zeros."""
    found: dict[tuple[str, bool, int, frozenset[int]], Copy] = {}
    for end in ends(coupling.graph, coupling.classes, coupling.ties.refills):
        if end.value in coupling.padded_constants:
            continue
        for operands, of in ((1, end.pads), (3, end.cuts)):
            causes = [axis for axis in end.value.axes() if coupling.classes.of[axis.id] in of]
            size = (1 + operands) * (NODE_BYTES + 4.0 * len(end.value.name)) + 16.0 * len(end.value.axes())
            if causes:
                found[end.value.name, end.is_output, operands, of] = Copy(size, [], causes)
    return list(found.values())


def macs(coupling: Coupling, groups: Sequence[Group], shapes: Mapping[str, Sequence[int]]) -> LengthProducts:
    """Multiply-accumulates, by the terms that `macs.macs_from_shapes` counts.

    Args:
        coupling: The analysed graph.
        groups: The groups that may shrink.
        shapes: Concrete shapes of the main graph's values before pruning, for axes without static length.

    Raises:
        LookupError: A shape that a count needs is not known.
    """
    counted = [(node, term) for node, found in counted_terms(coupling, shapes) for term in found]
    return LengthProducts(coupling, groups, _with_branches(coupling, counted))


def counted_terms(coupling: Coupling, shapes: Mapping[str, Sequence[int]]) -> Iterator[tuple[Node, list[Term]]]:
    """The nodes of the main graph with their terms, in which free lengths are part of the factors; see `macs`."""
    concrete = graph_with_shapes(coupling.graph.proto, shapes)
    for node, twin in zip(coupling.graph.main.nodes, concrete.main.nodes, strict=True):
        counted, known = terms(node), terms(twin)
        if known is None or any(axis.length is None for _, axes in known for axis in axes):
            raise LookupError(f"the lengths that {node.label} runs over are not known")
        if counted is None:  # the analysis knows no rank here, so nothing of it can be pruned
            yield node, [(math.prod([factor, *(axis.length or 0 for axis in axes)]), ()) for factor, axes in known]
            continue
        found: list[Term] = []
        for (factor, axes), (_, lengths) in zip(counted, known, strict=True):
            free = math.prod(  # of an axis with fixed digits what these are multiplied with
                (there.length or 0) / (a.width or 1) for a, there in zip(axes, lengths, strict=True) if a.length is None
            )
            found.append((factor * free, axes))
        yield node, found


def _with_branches(coupling: Coupling, terms: Iterable[tuple[Node | Value, Term]]) -> list[Term]:
    """The terms of nodes and constants; what goes with one index of an axis counts by the share of those that stay."""
    axes = present_with(coupling.branches)
    found: list[Term] = []
    for one, (factor, lengths) in terms:
        axis = axes.get(one)
        found.append((factor, lengths) if axis is None else (factor / (axis.length or 1), [*lengths, axis]))
    return found


def _stored(coupling: Coupling) -> list[Value]:
    """One value for every stored tensor: that of its first reader, which keeps the tensor."""
    return list({v.key: v for v in reversed(list(coupling.graph.constants()))}.values())


def _term(coupling: Coupling, value: Value, factor: float = 1.0) -> Term:
    """The elements of a stored tensor; axes that are stored with zeros keep their length."""
    padded = coupling.padded_constants.get(value, frozenset())
    whole = [axis for axis in value.axes() if axis.position in padded]
    shrinking = [axis for axis in value.axes() if axis.position not in padded]
    return factor * math.prod(axis.width or 1 for axis in whole), shrinking


def _copied(coupling: Coupling, stored: Sequence[Value]) -> list[tuple[Value, list[Axis]]]:
    """Readers that get a copy of a stored tensor once they lose other indices of it than the first one."""
    first = {v.key: v for v in stored}
    found = []
    for value in coupling.graph.constants():
        keeper = first.get(value.key)
        if keeper is None or keeper is value:
            continue
        own, kept = ([coupling.channels_of(axis) for axis in v.axes()] for v in (value, keeper))
        same = coupling.padded_constants.get(value) == coupling.padded_constants.get(keeper)
        if not same or any(not np.array_equal(a, b) for a, b in zip(own, kept, strict=True)):
            found.append((value, [*value.axes(), *keeper.axes()]))
    return found


def _size(value: Value) -> int:
    return math.prod(d for d in value.shape or [] if isinstance(d, int))
