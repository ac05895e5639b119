"""Costs that grow in steps: sums of products of axis lengths, each length rounded up to blocks of its own.

Engines compute channels in blocks: a convolution of 33 output channels takes three blocks of 16. Some leave a fast path
altogether where a width is no multiple, which `StepProduct.odd` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.cost.cost_model import Removed
from onnxprune.cost.table import CostTable, CostTerm, slopes_by_entry


@dataclass(frozen=True)
class StepProduct:
    """A product of lengths.

    Attributes:
        axes: Which lengths.
        blocks: To multiples of what each of them is rounded up.
        odd: The position in `axes` of a length, and a number: the product counts only where the length is no multiple
            of it. None for always.
    """

    axes: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()
    odd: tuple[int, int] | None = None


class StepProducts:
    """Many products as one function of lengths."""

    def __init__(self, products: Sequence[StepProduct], lengths: int) -> None:
        """Reads the products.

        Args:
            products: The products.
            lengths: How many lengths there are.
        """
        width = max((len(p.axes) for p in products), default=0)
        self._axes = np.full((len(products), width), lengths, dtype=np.int64)
        self._blocks = np.ones((len(products), width), dtype=np.int64)
        self._odd_axis = np.full(len(products), lengths, dtype=np.int64)
        self._odd = np.full(len(products), 2, dtype=np.int64)  # the length that pads is 1, which is no multiple of 2
        for i, product in enumerate(products):
            self._axes[i, : len(product.axes)] = product.axes
            self._blocks[i, : len(product.axes)] = product.blocks
            if product.odd is not None:
                self._odd_axis[i], self._odd[i] = product.axes[product.odd[0]], product.odd[1]

    def values(self, lengths: NDArray[np.int64], rows: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.float64]:
        """The products.

        Args:
            lengths: Shape (..., lengths).
            rows: Which products.

        Returns:
            Shape (..., products).
        """
        padded = np.concatenate([lengths, np.ones((*lengths.shape[:-1], 1), dtype=np.int64)], axis=-1)
        axes, blocks = self._axes[rows], self._blocks[rows]
        found: NDArray[np.float64] = (-(-padded[..., axes] // blocks) * blocks).astype(np.float64).prod(axis=-1)
        there = padded[..., self._odd_axis[rows]] % self._odd[rows] > 0
        return np.where(there, found, 0.0)

    def reads(self, axis: int) -> NDArray[np.bool_]:
        """Which products read a length."""
        found: NDArray[np.bool_] = (self._axes == axis).any(axis=1)
        return found


class StepCost:
    """A cost of a model: a weighted sum of products.

    Args:
        products: The products.
        weights: Weight of each.
        lengths: The lengths before removal.
        slopes: By how much one unit of each group shrinks each length; shape (lengths, groups).
        fixed: What is there whatever is removed.
    """

    def __init__(
        self,
        products: Sequence[StepProduct],
        weights: NDArray[np.float64],
        lengths: NDArray[np.int64],
        slopes: NDArray[np.int64],
        fixed: float = 0.0,
    ) -> None:
        used = np.flatnonzero(weights)
        self._listed = [products[i] for i in used.tolist()]
        self._products = StepProducts(self._listed, len(lengths))
        self._weights, self._lengths, self._slopes, self._fixed = weights[used], lengths, slopes, fixed
        reads = np.stack([self._products.reads(axis) for axis in range(len(lengths))]) if len(lengths) else None
        self._rows_of = [
            np.flatnonzero(reads[slopes[:, g] > 0].any(axis=0)) if reads is not None else np.zeros(0, np.int64)
            for g in range(slopes.shape[1])
        ]

    def left(self, removed: Removed) -> float:
        """See `CostModel`."""
        lengths = self._lengths - self._slopes @ removed
        return self._fixed + float(self._products.values(lengths) @ self._weights)

    def saving(self, removed: Removed, group: int, more: int) -> float:
        """See `CostModel`."""
        before, after = self.lefts(removed, group, np.array([removed[group], removed[group] + more]))
        return float(before - after)

    def lefts(self, removed: Removed, group: int, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """What depends on one group, for several counts of its removed units; shape of `counts`."""
        rows = self._rows_of[group]
        start = self._lengths - self._slopes @ removed
        lengths = start - (counts - removed[group])[:, None] * self._slopes[:, group]
        found: NDArray[np.float64] = self._products.values(lengths, rows) @ self._weights[rows]
        return found

    def table(self) -> CostTable:
        """The cost as plain data."""
        terms = [
            CostTerm(weight, list(p.axes), list(p.blocks), [] if p.odd is None else [p.axes[p.odd[0]], p.odd[1]], [])
            for p, weight in zip(self._listed, self._weights.tolist(), strict=True)
        ]
        return CostTable(self._fixed, self._lengths.tolist(), slopes_by_entry(self._slopes), terms)
