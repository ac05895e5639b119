"""Connected components in vectorised numpy: of whole axes, then of single indices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph.graph import Axis, Graph
from onnxprune.ops.ties import Link

Index = NDArray[np.int64]


def components(count: int, a: Index, b: Index) -> Index:
    """Label of every element under the edges ``a[i] - b[i]``: the smallest element of its component.

    Min-label hooking with pointer jumping (Shiloach and Vishkin, J. Algorithms 1982), on whole arrays, over the
    elements that have an edge.
    """
    label = np.arange(count, dtype=np.int64)
    touched = np.zeros(count, dtype=bool)
    touched[a] = touched[b] = True
    nodes = np.flatnonzero(touched)
    place = np.empty(count, dtype=np.int64)
    place[nodes] = np.arange(len(nodes))
    label[nodes] = nodes[_hook(len(nodes), place[a], place[b])]  # nodes ascend, so the smallest remains the smallest
    return label


def _hook(count: int, a: Index, b: Index) -> Index:
    label = np.arange(count, dtype=np.int64)
    while len(a):
        la, lb = label[a], label[b]
        open_ = la != lb
        if not open_.any():
            break
        a, b, la, lb = a[open_], b[open_], la[open_], lb[open_]
        np.minimum.at(label, np.maximum(la, lb), np.minimum(la, lb))
        while True:
            jumped = label[label]
            if np.array_equal(jumped, label):
                break
            label = jumped
    return label


class AxisClasses:
    """Axes united as a whole, and the numbering of their indices.

    An *element* is one index of one class; a class of n indices owns n consecutive elements.

    Attributes:
        of: Class of each axis.
        length: Length of each class; of a free one the product of its fixed digits, or -1 where it has none.
        offset: First element of each class.
        elements: How many there are.
        linked: How many of the elements may be tied one by one; they come first.
        conflicts: Classes whose axes have different lengths, or digits.
        factors: Digits of the free classes that have fixed ones, see `Value.factors`.
    """

    def __init__(self, graph: Graph, whole: Sequence[tuple[int, int]], linked: Sequence[int], axis_count: int) -> None:
        pairs = np.array(whole, dtype=np.int64).reshape(-1, 2)
        root = components(axis_count, pairs[:, 0], pairs[:, 1])
        alone = np.ones(axis_count, dtype=bool)
        alone[root[np.asarray(linked, dtype=np.int64)]] = False
        _, self.of = np.unique(root + axis_count * alone[root], return_inverse=True)  # linked classes first
        count = int(self.of.max()) + 1 if axis_count else 0
        lengths = np.fromiter(
            (d if isinstance(d, int) else -1 for v in graph.values for d in v.shape or []),
            dtype=np.int64,
            count=axis_count,
        )
        digits = [axis for v in graph.values if v.factors for axis in v.axes() if axis.position in v.factors]
        lengths[[axis.id for axis in digits]] = [axis.width or -1 for axis in digits]
        self.length = np.full(count, -1, dtype=np.int64)
        np.maximum.at(self.length, self.of, lengths)
        self.factors = {int(self.of[axis.id]): axis.factors for axis in digits}
        self.conflicts = np.unique(
            np.concatenate([self.of[(lengths >= 0) & (lengths != self.length[self.of])], self._mixed(graph, digits)])
        )
        sizes = np.maximum(self.length, 0)
        self.offset = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64) if count else sizes
        self.elements = int(sizes.sum())
        self.linked = int(sizes[np.unique(self.of[np.asarray(linked, dtype=np.int64)])].sum())

    def _mixed(self, graph: Graph, digits: Sequence[Axis]) -> Index:
        """Classes with digits that not all of their axes are known to have."""
        if not digits:
            return np.empty(0, np.int64)
        same = np.zeros(len(self.of), dtype=bool)
        same[[axis.id for axis in digits if axis.factors == self.factors[int(self.of[axis.id])]]] = True
        return self.of[~same & np.isin(self.of, list(self.factors))]

    def span(self, axis_id: int) -> slice:
        """Elements of the class of an axis."""
        c = self.of[axis_id]
        return slice(int(self.offset[c]), int(self.offset[c] + max(self.length[c], 0)))

    def fits(self, link: Link) -> bool:
        """Whether a link has a label for every element of its axes; where lengths are in conflict, it may not."""
        spans = [(self.span(axis.id), labels) for axis, labels in link]
        return all(span.stop - span.start == len(labels) for span, labels in spans)


def edges(classes: AxisClasses, links: Sequence[Link]) -> tuple[Index, Index]:
    """Element pairs that the links tie: each labelled index with the first one of its label."""
    ones, others = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for link in links:
        labels = np.concatenate([part for _, part in link])
        elements = np.concatenate([np.arange(s.start, s.stop) for s in (classes.span(axis.id) for axis, _ in link)])
        if (labels < 0).any():
            elements, labels = elements[labels >= 0], labels[labels >= 0]
        if not len(labels):
            continue
        first = np.full(int(labels.max()) + 1, -1, dtype=np.int64)
        first[labels[::-1]] = elements[::-1]
        mates = first[labels]
        apart = mates != elements
        ones.append(elements[apart])
        others.append(mates[apart])
    return np.concatenate(ones), np.concatenate(others)
