"""Graph inputs and outputs that lost slices: a cache of keys and values, the state of a recurrent layer.

They belong to the interface and stay whole unless somebody asks for them. Whoever runs the pruned model beside its
original needs the arrays of the one in the shape of the other.
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
    """What graph inputs and outputs lost.

    Attributes:
        lost: Name -> axis -> indices of the original that are gone.
    """

    lost: Mapping[str, Mapping[int, Sequence[int]]] = field(default_factory=dict)

    def array(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """An array of the original as the pruned model takes or gives it."""
        for axis, indices in self.lost.get(name, {}).items():
            array = np.delete(array, list(indices), axis=axis)
        return array

    def feeds(self, feeds: Batch) -> dict[str, NDArray[Any]]:
        """Inputs of the original as the pruned model takes them."""
        return {name: self.array(name, array) if name in self.lost else array for name, array in feeds.items()}

    def arrays(self, names: Sequence[str], arrays: Sequence[Any]) -> list[Any]:
        """Outputs of the original, in the order of `names`, as the pruned model gives them."""
        return [self.array(n, a) if n in self.lost else a for n, a in zip(names, arrays, strict=True)]

    def shapes(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
        """Shapes of the original's inputs as the pruned model takes them."""
        return {
            name: tuple(n - len(self.lost.get(name, {}).get(axis, ())) for axis, n in enumerate(shape))
            for name, shape in shapes.items()
        }

    def batches(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """Batches for the pruned model; as often as those of the original can be gone through."""
        return _Narrowed(self, batches) if self.lost else batches


@dataclass(frozen=True)
class _Narrowed:
    io_slices: IoSlices
    whole: Iterable[Batch]

    def __iter__(self) -> Iterator[Batch]:
        return (self.io_slices.feeds(feeds) for feeds in self.whole)


WHOLE = IoSlices()
"""Nothing is lost."""
