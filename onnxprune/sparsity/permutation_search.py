"""Search for an order of channels that keeps the most magnitude under an N:M pattern: local search with escapes.

The columns are permuted; a *stripe* is a group of M columns to which the pattern applies. The contribution of a column
to a stripe depends only on the N-th largest of the other elements, so one table has the gains of all swaps of two
columns. If no swap gains, exchanges of two columns for two are tried: for M = 4, swaps and exchanges are all ways to
divide eight columns into two stripes (Pool and Yu, "Channel permutations for N:M sparsity", NeurIPS 2021). At a local
optimum, random swaps are made and the search continues; the result is kept if it is better.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.sparsity.swap_gains import TOP, Floats, Sums, larger, pairwise_sums

Index = NDArray[np.int64]

MAX_WORK = 1e9
"""Maximum number of comparisons of one search."""
STEP_WORK = 5e5
"""Fixed cost of a step, in comparisons."""
MAX_IDLE = 60
"""Maximum number of successive escapes without improvement."""
ESCAPE_SWAPS = 2
"""Number of random swaps of an escape."""
MIN_GAIN = 1e-6
"""Smaller gains, relative to the contribution of a column, are regarded as rounding errors."""
PAIRS = np.array(list(combinations(range(4), 2)))
"""Pairs of the columns of a stripe of 4; pair i and pair 5 - i are complementary."""


@dataclass(frozen=True)
class Stripes:
    """Rows of weights whose columns are divided into stripes.

    Attributes:
        values: Nonnegative scores of the elements, by column in the current order; shape (columns, rows).
        slots: Columns of each stripe, -1 for none or for a column that is not permuted; shape (stripes, M).
        fixed: Scores of columns that are not permuted, zero elsewhere; shape (stripes, M, rows); None if there are
            none.
    """

    values: Floats
    slots: Index
    fixed: Floats | None = None

    def contents(self, stripes: Index, order: Index) -> Floats:
        """Returns the scores in some stripes for an order of the columns; shape (stripes, M, rows)."""
        slots = self.slots[stripes]
        found: Floats = self.values[order[slots]]
        if (slots < 0).any():
            found[slots < 0] = 0 if self.fixed is None else self.fixed[stripes][slots < 0]
        return found


def search(parts: Sequence[Stripes], n: int, rng: np.random.Generator, work: float = MAX_WORK) -> Index:
    """Returns an order of columns for which all parts together keep at least as much as in the current order.

    Args:
        parts: Rows whose columns are permuted together; their stripes may differ.
        n: Number of elements per row that a stripe keeps.
        rng: Random numbers of the escapes.
        work: Approximate maximum number of comparisons.

    Returns:
        For each position the column that takes it; shape (columns,).
    """
    best = _State(parts, n)
    best.climb(work)
    idle, spent = 0, best.spent
    if all(len(part.slots) < 2 for part in parts):
        return best.order
    while idle < MAX_IDLE and spent < work:
        state = best.copy()
        state.perturb(rng)
        state.climb(work - spent)
        spent += state.spent
        idle += 1
        if state.gained > best.gained + best.least:
            best, idle = state, 0
    return best.order


class _State:
    """An order of columns with the tables of its swaps and exchanges.

    Attributes:
        order: For each position the column at it; shape (columns,).
        gained: Kept magnitude minus that of the initial order.
        least: Minimum gain of a step.
        spent: Comparisons since the state was created or copied.
    """

    def __init__(self, parts: Sequence[Stripes], n: int) -> None:
        self.order = np.arange(len(parts[0].values))
        self.gained = 0.0
        self._swaps = [_Swaps(part, n) for part in parts]
        pairs = len(parts) == 1 and parts[0].slots.shape[1] == 4 and len(_movable_stripes(parts[0])) > 1
        self._exchanges = _Exchanges(parts[0], n) if pairs else None
        self.spent = sum(table.refresh(self.order, np.arange(len(table.part.slots))) for table in self._swaps)
        self.least = MIN_GAIN * sum(float(t.table.diagonal().mean()) for t in self._swaps)

    def copy(self) -> _State:
        """Returns an independent copy."""
        other = copy.copy(self)
        other.order, other.spent = self.order.copy(), 0.0
        other._swaps = [t.copy() for t in self._swaps]
        other._exchanges = None if self._exchanges is None else self._exchanges.copy()
        return other

    def climb(self, work: float) -> None:
        """Makes the best steps until none gains or the work is spent."""
        while self.spent < work and (self._swap_gaining() or self._exchange_gaining()):
            self.spent += STEP_WORK

    def perturb(self, rng: np.random.Generator) -> None:
        """Makes random swaps."""
        for _ in range(ESCAPE_SWAPS):
            a, b = rng.choice(len(self.order), 2, replace=False)
            self._swap(np.array([[a, b]]), float(self._gains()[a, b]))

    def _gains(self) -> Sums:
        """Returns the gain of the swap of two positions; shape (columns, columns)."""
        found: Sums = np.sum([t.gains() for t in self._swaps], axis=0)
        return found

    def _swap_gaining(self) -> bool:
        """Makes the swaps with the largest gains, in disjoint stripes; returns whether there are any."""
        gains = np.triu(self._gains())
        stripes = np.stack([t.stripe for t in self._swaps])  # parts, columns
        taken = [np.zeros(len(t.part.slots), dtype=bool) for t in self._swaps]
        chosen, total = [], 0.0
        for a, b in _largest_first(gains, self.least):
            touched = stripes[:, [a, b]]
            if not any(mark[at].any() for mark, at in zip(taken, touched, strict=True)):
                for mark, at in zip(taken, touched, strict=True):
                    mark[at] = True
                chosen.append((a, b))
                total += float(gains[a, b])
        if chosen:
            self._swap(np.array(chosen), total)
        return bool(chosen)

    def _exchange_gaining(self) -> bool:
        """Makes the exchanges with the largest gains, in disjoint stripes; returns whether there are any."""
        if self._exchanges is None:
            return False
        self.spent += self._exchanges.refresh(self.order)
        swaps, total = self._exchanges.gaining(self.least)
        if len(swaps):
            self._swap(swaps, total)
        return len(swaps) > 0

    def _swap(self, swaps: Index, gain: float) -> None:
        a, b = swaps.T
        self.order[a], self.order[b] = self.order[b], self.order[a]
        self.gained += gain
        for t in self._swaps:
            t.table[:, np.r_[a, b]] = t.table[:, np.r_[b, a]]
            self.spent += t.refresh(self.order, np.unique(t.stripe[swaps]))
        if self._exchanges is not None:
            self._exchanges.invalidate(np.unique(self._swaps[0].stripe[swaps]))


class _Swaps:
    """Gains of all swaps of two columns in one part.

    Attributes:
        part: The part.
        stripe: Stripe of each position; shape (columns,).
        table: Entry (a, b): contribution of the column at position b if it were at position a, up to a constant that
            depends on a; shape (columns, columns).
    """

    def __init__(self, part: Stripes, n: int) -> None:
        columns = len(part.values)
        self.part, self._n = part, n
        self.stripe = np.empty(columns, dtype=np.int64)
        at, _ = np.nonzero(part.slots >= 0)
        self.stripe[part.slots[part.slots >= 0]] = at
        self.table = np.zeros((columns, columns))

    def copy(self) -> _Swaps:
        """Returns an independent copy."""
        other = copy.copy(self)
        other.table = self.table.copy()
        return other

    def gains(self) -> Sums:
        """Returns the gain of each swap; shape (columns, columns)."""
        found = self.table - self.table.diagonal()[:, None]
        found[self.stripe[:, None] == self.stripe] = 0
        both: Sums = found + found.T
        return both

    def refresh(self, order: Index, stripes: Index) -> float:
        """Updates the rows of some stripes; returns the number of comparisons.

        Up to a constant, an element x contributes ``max(x, limit)`` to a stripe, where the limit is the N-th largest of
        the other elements: for one of the N largest elements the (N + 1)-th largest of all, else the N-th.
        """
        content = self.part.contents(stripes, order)
        ranked = -np.sort(-content, axis=1)
        last, next_ = ranked[:, self._n - 1, None], ranked[:, self._n, None]
        slots = self.part.slots[stripes]
        limits = np.where(content >= last, next_, last)[slots >= 0]
        self.table[slots[slots >= 0]] = pairwise_sums(limits[None], self.part.values[None, order], larger)
        return float(limits.size) * len(order)


class _Exchanges:
    """Exchanges of two columns for two between stripes of one part with M = 4 whose columns are all permuted."""

    def __init__(self, part: Stripes, n: int) -> None:
        self._part, self._n = part, n
        self._stripes = _movable_stripes(part)
        count, rows = len(self._stripes), part.values.shape[1]
        self._place = np.full(len(part.slots), -1)
        self._place[self._stripes] = np.arange(count)
        self._stale = np.ones(count, dtype=bool)
        self._kept = np.zeros(count)
        self._pairs = np.zeros((2, count, 6, rows), np.float32)
        self._table = np.zeros((count, 6, count, 6))  # kept magnitude of a stripe that consists of two pairs

    def copy(self) -> _Exchanges:
        """Returns an independent copy."""
        other = copy.copy(self)
        for name in ("_stale", "_kept", "_pairs", "_table"):
            setattr(other, name, getattr(self, name).copy())
        return other

    def invalidate(self, stripes: Index) -> None:
        """Marks stripes whose columns have changed."""
        at = self._place[stripes]
        self._stale[at[at >= 0]] = True

    def refresh(self, order: Index) -> float:
        """Updates the table; returns the number of comparisons."""
        stale = np.flatnonzero(self._stale)
        content = self._part.contents(self._stripes[stale], order)
        pairs = content[:, PAIRS]  # (stripes, 6, 2, rows)
        self._pairs[0, stale] = pairs.sum(axis=2)
        self._pairs[1, stale] = pairs.max(axis=2) if self._n < 3 else pairs.min(axis=2)
        self._kept[stale] = np.sort(content, axis=1)[:, -self._n :].sum(axis=(1, 2), dtype=np.float64)
        rows = self._pairs.shape[-1]
        changed, all_pairs = (pairs.reshape(2, -1, rows) for pairs in (self._pairs[:, stale], self._pairs))
        block = pairwise_sums(changed, all_pairs, TOP[self._n])
        self._table[stale] = block.reshape(len(stale), *self._table.shape[1:])
        self._table[:, :, stale] = self._table[stale].transpose(2, 3, 0, 1)
        self._stale[:] = False
        return 3.0 * block.size * rows

    def gaining(self, least: float) -> tuple[Index, float]:
        """Returns the exchanges with the largest gains, in disjoint stripes, as swaps of positions; and their gain."""
        count = len(self._stripes)
        both = self._table[:, :3] + self._table[:, :2:-1, :, ::-1]  # the complementary pairs form the other stripe
        gains = (both - self._kept[:, None, None, None] - self._kept[:, None]).swapaxes(1, 2).reshape(count, count, 18)
        which, most = gains.argmax(axis=2), np.triu(gains.max(axis=2), 1)
        swaps: list[tuple[Any, Any]] = []
        taken, total = np.zeros(count, dtype=bool), 0.0
        for i, j in _largest_first(most, least):
            if not (taken[i] or taken[j]):
                taken[[i, j]] = True
                a, b = divmod(int(which[i, j]), 6)
                slots = self._part.slots[self._stripes[[i, j]]]
                swaps += zip(slots[0][PAIRS[5 - a]], slots[1][PAIRS[b]], strict=True)
                total += float(most[i, j])
        return np.array(swaps, dtype=np.int64).reshape(-1, 2), total


def _movable_stripes(part: Stripes) -> Index:
    """Returns the stripes whose columns are all permuted."""
    return np.flatnonzero((part.slots >= 0).all(axis=1))


def _largest_first(gains: Sums, least: float) -> list[tuple[int, int]]:
    """Returns the positions of the largest gains in descending order: four times as many as columns at most."""
    flat = gains.ravel()
    found = np.flatnonzero(flat > least)
    best = found[np.argsort(-flat[found], kind="stable")[: 4 * len(gains)]]
    return [divmod(int(i), len(gains)) for i in best]
