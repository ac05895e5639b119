"""The package's own patterns of zeros: any elements, N:M, and blocks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import InputError
from onnxprune.graph.operators import WeightLayout
from onnxprune.patterns import Pattern, pattern
from onnxprune.sparsity.masks import Mask, Worth, block_means, expand, mark_all_but, widen
from onnxprune.sparsity.unstructured import smallest, smallest_across

LARGEST = 4096
"""No block and no group of an N:M pattern is longer."""


@pattern("weights")
@dataclass(frozen=True)
class Unstructured(Pattern):
    """Any elements.

    Attributes:
        share: Share of the elements of each weight.
    """

    share: float | None = None
    elementwise: ClassVar[bool] = True
    by_columns: ClassVar[bool] = True

    @classmethod
    def parse(cls, text: str) -> Unstructured | None:
        """Reads ``weights``."""
        return cls() if text == "weights" else None

    def __str__(self) -> str:
        return "weights"

    def mask(self, worth: Worth, layout: WeightLayout | None) -> Mask:
        """The smallest elements."""
        return smallest(worth, self.share or 0.0)

    def masks(self, worths: Sequence[Worth], layouts: Sequence[WeightLayout | None]) -> list[Mask]:
        """The smallest of all weights, each divided by its root mean square first."""
        return smallest_across(worths, self.share or 0.0)

    def holds(self, zero: NDArray[np.bool_], layout: WeightLayout | None) -> bool:
        """Any zeros do."""
        return True


@pattern("n:m")
@dataclass(frozen=True)
class NOfM(Pattern):
    """Of every M neighbouring inputs of an output, N stay.

    Attributes:
        n: How many of a group stay.
        m: Neighbouring inputs in a group.
    """

    n: int
    m: int
    takes_share: ClassVar[bool] = False
    by_columns: ClassVar[bool] = True

    @classmethod
    def parse(cls, text: str) -> NOfM | None:
        """Reads ``N:M``."""
        match = re.fullmatch(r"([0-9]{1,6}):([0-9]{1,6})", text)
        if match is None:
            return None
        n, m = int(match[1]), int(match[2])
        if not 0 < n < m <= LARGEST:
            raise InputError(
                f"pattern {text!r} must keep at least 1 and fewer than all, of at most {LARGEST}", "2:4 keeps 2 of 4"
            )
        return cls(n, m)

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @property
    def width(self) -> int:
        """The length of a group."""
        return self.m

    @property
    def kept(self) -> int:
        """How many of a group stay."""
        return self.n

    def mask(self, worth: Worth, layout: WeightLayout | None) -> Mask:
        """All but the N largest of each group; a shorter group at the end keeps its N largest as well."""
        assert layout is not None
        zero = np.zeros(worth.shape, dtype=bool)
        mark_all_but(layout.runs(worth), layout.runs(zero), self.n, self.m)
        return zero

    def holds(self, zero: NDArray[np.bool_], layout: WeightLayout | None) -> bool:
        """Whether no group, a shorter one at the end included, has more than N elements that are not zero."""
        assert layout is not None
        runs = layout.runs(~zero)
        ends = np.arange(0, runs.shape[1], self.m)
        return bool(runs.size == 0 or np.add.reduceat(runs, ends, axis=1, dtype=np.int32).max() <= self.n)


@pattern("blocks")
@dataclass(frozen=True)
class Blocks(Pattern):
    """Blocks of neighbouring outputs and inputs; those at the borders may be smaller.

    Attributes:
        rows: Outputs of a block.
        columns: Inputs of a block.
        share: Share of the blocks of each weight.
    """

    rows: int = 1
    columns: int = 1
    share: float | None = None
    by_columns: ClassVar[bool] = True
    repeats: ClassVar[bool] = True

    @classmethod
    def parse(cls, text: str) -> Blocks | None:
        """Reads ``ROWSxCOLUMNS``."""
        match = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", text)
        if match is None:
            return None
        rows, columns = int(match[1]), int(match[2])
        if not (0 < rows <= LARGEST and 0 < columns <= LARGEST):
            raise InputError(f"the sides of the blocks of pattern {text!r} must be from 1 to {LARGEST}", "4x1=0.5, say")
        return cls(rows, columns)

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"

    @property
    def width(self) -> int:
        """Inputs of a block."""
        return self.columns

    def mask(self, worth: Worth, layout: WeightLayout | None) -> Mask:
        """The blocks that are worth least on average."""
        assert layout is not None
        means = block_means(layout.matrices(worth), self.rows, self.columns)
        return expand(smallest(means, self.share or 0.0), worth, layout, self.rows, self.columns)

    def masks(self, worths: Sequence[Worth], layouts: Sequence[WeightLayout | None]) -> list[Mask]:
        """The same over the blocks of all weights, each divided by its root mean square first."""
        known = [layout for layout in layouts if layout is not None]
        means = [
            block_means(layout.matrices(w), self.rows, self.columns) for w, layout in zip(worths, known, strict=True)
        ]
        return [
            expand(zero, w, layout, self.rows, self.columns)
            for zero, w, layout in zip(smallest_across(means, self.share or 0.0), worths, known, strict=True)
        ]

    def holds(self, zero: NDArray[np.bool_], layout: WeightLayout | None) -> bool:
        """Whether all zeros fill whole blocks."""
        assert layout is not None
        matrices: NDArray[Any] = layout.matrices(zero)
        whole = matrices
        for axis, step in ((-2, self.rows), (-1, self.columns)):
            at = np.arange(0, matrices.shape[axis], step)
            whole = widen(np.logical_and.reduceat(whole, at, axis=axis), axis, step, matrices.shape[axis])
        return bool((whole == matrices).all())
