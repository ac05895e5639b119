"""The built-in patterns of zeros: unstructured, N:M, and blocks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import InputError
from onnxprune.extensions.patterns import Pattern, pattern
from onnxprune.graph.operators import WeightLayout
from onnxprune.sparsity.masks import Mask, Scores, block_means, expand_blocks, mask_all_but_largest, repeat_blocks
from onnxprune.sparsity.unstructured import smallest, smallest_across

LARGEST = 4096
"""Maximum length of a block and of a group of an N:M pattern."""


@pattern("weights")
@dataclass(frozen=True)
class Unstructured(Pattern):
    """Unstructured zeros.

    Attributes:
        share: Share of zeros in each weight.
    """

    share: float | None = None
    elementwise: ClassVar[bool] = True
    by_columns: ClassVar[bool] = True

    @classmethod
    def parse(cls, text: str) -> Unstructured | None:
        """Parses ``weights``."""
        return cls() if text == "weights" else None

    def __str__(self) -> str:
        return "weights"

    def mask(self, scores: Scores, layout: WeightLayout | None) -> Mask:
        """Returns the mask of the smallest elements."""
        return smallest(scores, self.share or 0.0)

    def masks(
        self, all_scores: Sequence[Scores], layouts: Sequence[WeightLayout | None], *, scaled: bool = True
    ) -> list[Mask]:
        """Returns the masks of the smallest elements of all weights."""
        return smallest_across(all_scores, self.share or 0.0, scaled=scaled)

    def holds(self, zero: NDArray[np.bool_], layout: WeightLayout | None) -> bool:
        """Always true: any zeros are allowed."""
        return True


@pattern("n:m")
@dataclass(frozen=True)
class NOfM(Pattern):
    """N:M sparsity: N of every M consecutive inputs of an output are kept.

    Attributes:
        n: Number of kept inputs of a group.
        m: Number of inputs of a group.
    """

    n: int
    m: int
    takes_share: ClassVar[bool] = False
    by_columns: ClassVar[bool] = True

    @classmethod
    def parse(cls, text: str) -> NOfM | None:
        """Parses ``N:M``."""
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
        """Length of a group."""
        return self.m

    @property
    def kept(self) -> int:
        """Number of kept inputs of a group."""
        return self.n

    def mask(self, scores: Scores, layout: WeightLayout | None) -> Mask:
        """Returns the mask of all but the N largest elements of each group; a shorter last group keeps N too."""
        assert layout is not None
        zero = np.zeros(scores.shape, dtype=bool)
        mask_all_but_largest(layout.runs(scores), layout.runs(zero), self.n, self.m)
        return zero

    def holds(self, zero: NDArray[np.bool_], layout: WeightLayout | None) -> bool:
        """Whether no group, a shorter last one included, has more than N nonzero elements."""
        assert layout is not None
        runs = layout.runs(~zero)
        ends = np.arange(0, runs.shape[1], self.m)
        return bool(runs.size == 0 or np.add.reduceat(runs, ends, axis=1, dtype=np.int32).max() <= self.n)


@pattern("blocks")
@dataclass(frozen=True)
class Blocks(Pattern):
    """Blocks of consecutive outputs and inputs; blocks at the borders may be smaller.

    Attributes:
        rows: Number of outputs of a block.
        columns: Number of inputs of a block.
        share: Share of zero blocks in each weight.
    """

    rows: int = 1
    columns: int = 1
    share: float | None = None
    by_columns: ClassVar[bool] = True
    repeats: ClassVar[bool] = True

    @classmethod
    def parse(cls, text: str) -> Blocks | None:
        """Parses ``ROWSxCOLUMNS``."""
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
        """Number of inputs of a block."""
        return self.columns

    def mask(self, scores: Scores, layout: WeightLayout | None) -> Mask:
        """Returns the mask of the blocks with the smallest mean score."""
        assert layout is not None
        means = block_means(layout.matrices(scores), self.rows, self.columns)
        return expand_blocks(smallest(means, self.share or 0.0), scores, layout, self.rows, self.columns)

    def masks(
        self, all_scores: Sequence[Scores], layouts: Sequence[WeightLayout | None], *, scaled: bool = True
    ) -> list[Mask]:
        """Returns the masks of the smallest blocks of all weights."""
        known = [layout for layout in layouts if layout is not None]
        means = [
            block_means(layout.matrices(w), self.rows, self.columns)
            for w, layout in zip(all_scores, known, strict=True)
        ]
        zeros = smallest_across(means, self.share or 0.0, scaled=scaled)
        return [
            expand_blocks(zero, w, layout, self.rows, self.columns)
            for zero, w, layout in zip(zeros, all_scores, known, strict=True)
        ]

    def holds(self, zero: NDArray[np.bool_], layout: WeightLayout | None) -> bool:
        """Whether all zeros form whole blocks."""
        assert layout is not None
        matrices: NDArray[Any] = layout.matrices(zero)
        whole = matrices
        for axis, step in ((-2, self.rows), (-1, self.columns)):
            at = np.arange(0, matrices.shape[axis], step)
            whole = repeat_blocks(np.logical_and.reduceat(whole, at, axis=axis), axis, step, matrices.shape[axis])
        return bool((whole == matrices).all())
