"""Interface slices: what a plan removes of graph inputs and outputs, such as key/value caches, or which of them go.

The interface of a model is kept unless the caller asks for its slices to be removed. To run the pruned model beside its
original, the arrays of the original are sliced to the shapes of the pruned model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Batch = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class IoSlices:
    """Slices that were removed from graph inputs and outputs.

    Attributes:
        removed: Name of the input or output -> axis -> removed indices of the original.
        gone: Names of the inputs and outputs that went as a whole.
    """

    removed: Mapping[str, Mapping[int, Sequence[int]]] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()

    def array(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """Returns an input or output of the original without its removed slices."""
        for axis, indices in self.removed.get(name, {}).items():
            array = np.delete(array, list(indices), axis=axis)
        return array

    def feeds(self, feeds: Batch) -> dict[str, NDArray[Any]]:
        """Returns the inputs of the original without their removed slices."""
        return {n: self.array(n, a) if n in self.removed else a for n, a in feeds.items() if n not in self.gone}

    def arrays(self, names: Sequence[str], arrays: Sequence[Any]) -> list[Any]:
        """Returns the outputs of the original that `left` names, in this order, without their removed slices."""
        pairs = [(n, a) for n, a in zip(names, arrays, strict=True) if n not in self.gone]
        return [self.array(n, a) if n in self.removed else a for n, a in pairs]

    def left(self, names: Sequence[str]) -> list[str]:
        """Those of some inputs or outputs of the original that the pruned model has."""
        return [name for name in names if name not in self.gone]

    def shapes(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
        """Returns the input shapes of the pruned model, given those of the original."""
        return {
            name: tuple(n - len(self.removed.get(name, {}).get(axis, ())) for axis, n in enumerate(shape))
            for name, shape in shapes.items()
            if name not in self.gone
        }

    def batches(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """Returns the batches for the pruned model; re-iterable if those of the original are."""
        return _SlicedBatches(self, batches) if self.removed or self.gone else batches


@dataclass(frozen=True)
class _SlicedBatches:
    io_slices: IoSlices
    whole: Iterable[Batch]

    def __iter__(self) -> Iterator[Batch]:
        return (self.io_slices.feeds(feeds) for feeds in self.whole)


WHOLE = IoSlices()
"""No slices are removed."""
