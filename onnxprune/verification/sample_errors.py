"""Which samples an output moved most on: what to look at first where a result is in doubt."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.verification.drift import is_classes, is_numeric

MOST = 5
"""How many samples are named."""


@dataclass(frozen=True)
class SampleError:
    """One sample.

    Attributes:
        sample: Its position in the data, from 0.
        error: Root mean square of the difference on it, over that of the original on all samples.
    """

    sample: int
    error: float


@dataclass(frozen=True)
class OutputReport:
    """One output on held-out samples.

    Attributes:
        agreement: Share of its choices that are the same; None where it chooses nothing.
        worst: The samples on which it moved most, the worst first; empty where that has no meaning.
    """

    agreement: float | None = None
    worst: list[SampleError] = field(default_factory=list)


class SampleErrors:
    """Collects the errors of one output, batch by batch; samples are along its first axis."""

    def __init__(self) -> None:
        self._usable = True
        self._gaps: list[NDArray[np.float64]] = []
        self._before = 0.0

    def add(self, a: NDArray[Any], b: NDArray[Any]) -> None:
        """Adds the outputs of both models for a batch."""
        self._usable &= a.shape == b.shape and a.ndim > 0 and is_numeric(a) and is_numeric(b) and not is_classes(a)
        if not self._usable or a.dtype.kind == "c":
            self._usable = False
            return
        x, y = (part.astype(np.float64).reshape(len(part), math.prod(part.shape[1:])) for part in (a, b))
        finite = np.isfinite(x) & np.isfinite(y)
        x, y = np.where(finite, x, 0.0), np.where(finite, y, 0.0)
        self._gaps.append(np.square(x - y).sum(axis=1))
        self._before += float(np.square(x).sum())

    def worst(self, positions: NDArray[np.int64] | None) -> list[SampleError]:
        """The worst samples.

        Args:
            positions: Position of each sample in the data; None where it is not known.
        """
        gaps = np.concatenate(self._gaps) if self._usable and self._gaps else np.zeros(0)
        if positions is None or len(positions) != len(gaps) or not self._before:
            return []
        order = np.argsort(-gaps, kind="stable")[:MOST]
        usual = self._before / len(gaps)
        return [SampleError(int(positions[i]), float(f"{np.sqrt(gaps[i] / usual):.4g}")) for i in order if gaps[i] > 0]
