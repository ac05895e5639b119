"""How far embeddings keep their neighbours: what a search, a clustering or a recognition by them depends on.

Scale and rotation of an embedding mean nothing, so that a squared error says little about it. What is asked is which
sample is the nearest to another one, by cosine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.verification.decisions import Estimate, share_estimate

Array = NDArray[Any]
Floats = NDArray[np.float64]

FEATURES = 32
"""Numbers of a sample from which on they are taken for an embedding, where they choose no class."""
FEWEST = 3
"""Samples without which there is no choice of a nearest one."""
ELEMENTS = 2**24
"""Elements of an output that are kept at most."""


@dataclass(frozen=True)
class Neighbours:
    """What is known of an output that holds embeddings.

    Attributes:
        output: Name of the output.
        cosine: Cosine of the embeddings of a sample by both models, mean over the samples.
        same: Share of the samples whose nearest other sample is the same for both models.
    """

    output: str
    cosine: float
    same: Estimate


class NeighbourSums:
    """Collects the embeddings of one output, batch by batch."""

    def __init__(self, name: str) -> None:
        """Begins without a sample."""
        self._name = name
        self._pairs: list[tuple[Array, Array]] = []
        self._elements = 0
        self._usable = True

    def add(self, a: Array, b: Array) -> None:
        """Adds a batch of the original's output and of the pruned model's; samples along the first axis."""
        if a.ndim and not len(a):
            return
        self._usable &= a.shape == b.shape and _is_embedding(a)
        if self._usable and self._elements < ELEMENTS:
            self._pairs.append((a.reshape(len(a), -1), np.nan_to_num(b.reshape(len(b), -1))))
            self._elements += a.size

    def neighbours(self) -> Neighbours | None:
        """What was found; None where the output holds no embeddings, or those of too few samples."""
        if not self._usable or sum(len(a) for a, _ in self._pairs) < FEWEST:
            return None
        before, after = (_directions(np.concatenate(parts)) for parts in zip(*self._pairs, strict=True))
        same = _nearest(before) == _nearest(after)
        return Neighbours(
            self._name, float((before * after).sum(axis=1).mean()), share_estimate(same.astype(np.float64))
        )


def _is_embedding(array: Array) -> bool:
    """Whether a batch holds one vector of many finite floats a sample."""
    one_axis = array.ndim > 1 and max(array.shape[1:]) == array[:1].size >= FEATURES
    return one_axis and array.dtype.kind == "f" and bool(np.isfinite(array).all())


def _directions(rows: Array) -> Floats:
    """Rows as unit vectors; those of zeros stay."""
    numbers = rows.astype(np.float64)
    found: Floats = numbers / np.maximum(np.linalg.norm(numbers, axis=1, keepdims=True), 1e-30)
    return found


def _nearest(directions: Floats) -> NDArray[np.intp]:
    """For each row the other row with the largest cosine."""
    found = np.empty(len(directions), dtype=np.intp)
    step = max(1, ELEMENTS // max(len(directions), 1))
    for start in range(0, len(directions), step):
        cosines = directions[start : start + step] @ directions.T
        rows = np.arange(len(cosines))
        cosines[rows, start + rows] = -np.inf
        found[start : start + step] = cosines.argmax(axis=1)
    return found
