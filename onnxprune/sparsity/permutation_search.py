"""Which order of channels keeps most under an N:M pattern: a local search over swaps, with escapes.

Columns are what is reordered, *stripes* the groups of M that the pattern judges as one. What a column adds to a stripe
depends only on the N-th largest of the others there, so one table holds the gains of all swaps of two columns. Where
none of them gains, exchanges of two columns for two are tried as well: with M = 4 these and the swaps are all ways to
share out two stripes (Pool and Yu, "Channel permutations for N:M sparsity", NeurIPS 2021). Where nothing gains, random
swaps lead away; what is found from there is kept if it is better.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.sparsity.swap_gains import TOP, Floats, Sums, larger, sums

Index = NDArray[np.int64]

WORK = 1e9
"""Comparisons that one search may take."""
STEP = 5e5
"""What a step takes whatever its size, in comparisons."""
IDLE = 60
"""Escapes in a row that may lead to nothing."""
KICK = 2
"""Random swaps of an escape."""
LEAST = 1e-6
"""Gains below this share of what a column adds are rounding."""
PAIRS = np.array(list(combinations(range(4), 2)))
"""Pairs of the columns of a stripe of 4; the i-th and the last but i-th together are all of it."""


@dataclass(frozen=True)
class Stripes:
    """Rows of weights whose columns fall into stripes.

    Attributes:
        values: What elements are worth, by column in the present order; not negative; shape (columns, rows).
        slots: The columns of each stripe, -1 where there is none or one that does not move; shape (stripes, M).
        fixed: Worth of what does not move, zero elsewhere; shape (stripes, M, rows); None where all of it moves.
    """

    values: Floats
    slots: Index
    fixed: Floats | None = None

    def contents(self, stripes: Index, order: Index) -> Floats:
        """Elements of some stripes under an order; shape (stripes, M, rows)."""
        slots = self.slots[stripes]
        found: Floats = self.values[order[slots]]
        if (slots < 0).any():
            found[slots < 0] = 0 if self.fixed is None else self.fixed[stripes][slots < 0]
        return found


def search(parts: Sequence[Stripes], n: int, rng: np.random.Generator, work: float = WORK) -> Index:
    """An order of columns under which all parts together keep more than in the present one, or as much.

    Args:
        parts: Rows whose columns are reordered together; stripes may lie otherwise in each.
        n: How many of a stripe stay.
        rng: Where escapes come from.
        work: Comparisons to spend, about; the order of a climb that is not at its end by then counts as well.

    Returns:
        For each place the column that goes there; shape (columns,).
    """
    best = _State(parts, n)
    best.climb(work)
    idle, spent = 0, best.spent
    if all(len(part.slots) < 2 for part in parts):
        return best.order
    while idle < IDLE and spent < work:
        state = best.copy()
        state.kick(rng)
        state.climb(work - spent)
        spent += state.spent
        idle += 1
        if state.gained > best.gained + best.least:
            best, idle = state, 0
    return best.order


class _State:
    """An order with what could be done to it.

    Attributes:
        order: For each place the column that is there.
        gained: What is kept more than at the start.
        least: What counts as a gain.
        spent: Comparisons since the state was made or copied.
    """

    def __init__(self, parts: Sequence[Stripes], n: int) -> None:
        self.order = np.arange(len(parts[0].values))
        self.gained = 0.0
        self._swaps = [_Swaps(part, n) for part in parts]
        pairs = len(parts) == 1 and parts[0].slots.shape[1] == 4 and len(_full(parts[0])) > 1
        self._exchanges = _Exchanges(parts[0], n) if pairs else None
        self.spent = sum(table.refresh(self.order, np.arange(len(table.part.slots))) for table in self._swaps)
        self.least = LEAST * sum(float(t.table.diagonal().mean()) for t in self._swaps)

    def copy(self) -> _State:
        """One that can go its own way."""
        other = copy.copy(self)
        other.order, other.spent = self.order.copy(), 0.0
        other._swaps = [t.copy() for t in self._swaps]
        other._exchanges = None if self._exchanges is None else self._exchanges.copy()
        return other

    def climb(self, work: float) -> None:
        """Goes on while something gains and there is work to spend."""
        while self.spent < work and (self._swap_gaining() or self._exchange_gaining()):
            self.spent += STEP

    def kick(self, rng: np.random.Generator) -> None:
        """Swaps columns at random."""
        for _ in range(KICK):
            a, b = rng.choice(len(self.order), 2, replace=False)
            self._swap(np.array([[a, b]]), float(self._gains()[a, b]))

    def _gains(self) -> Sums:
        """What the swap of two places gains; shape (columns, columns)."""
        found: Sums = np.sum([t.gains() for t in self._swaps], axis=0)
        return found

    def _swap_gaining(self) -> bool:
        """The swaps that gain most, each in stripes of its own; whether there are any."""
        gains = np.triu(self._gains())
        stripes = np.stack([t.stripe for t in self._swaps])  # parts, columns
        taken = [np.zeros(len(t.part.slots), dtype=bool) for t in self._swaps]
        chosen, total = [], 0.0
        for a, b in _falling(gains, self.least):
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
        """The same for exchanges of two columns for two."""
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
            self._exchanges.touch(np.unique(self._swaps[0].stripe[swaps]))


class _Swaps:
    """Swaps of two columns in one part.

    Attributes:
        part: The part.
        stripe: Stripe of each place.
        table: Entry (a, b): what the column of place b would add at place a, a constant of a left out.
    """

    def __init__(self, part: Stripes, n: int) -> None:
        columns = len(part.values)
        self.part, self._n = part, n
        self.stripe = np.empty(columns, dtype=np.int64)
        at, _ = np.nonzero(part.slots >= 0)
        self.stripe[part.slots[part.slots >= 0]] = at
        self.table = np.zeros((columns, columns))

    def copy(self) -> _Swaps:
        """One with a table of its own."""
        other = copy.copy(self)
        other.table = self.table.copy()
        return other

    def gains(self) -> Sums:
        """What each swap gains."""
        found = self.table - self.table.diagonal()[:, None]
        found[self.stripe[:, None] == self.stripe] = 0
        both: Sums = found + found.T
        return both

    def refresh(self, order: Index, stripes: Index) -> float:
        """Brings the rows of some stripes up to date; returns the comparisons.

        An element x counts in a stripe as ``max(x, limit)``, but for a constant, where the limit is the N-th largest of
        the others: the next one for those that stay, the last that stays for those that go.
        """
        content = self.part.contents(stripes, order)
        ranked = -np.sort(-content, axis=1)
        last, next_ = ranked[:, self._n - 1, None], ranked[:, self._n, None]
        slots = self.part.slots[stripes]
        limits = np.where(content >= last, next_, last)[slots >= 0]
        self.table[slots[slots >= 0]] = sums(limits[None], self.part.values[None, order], larger)
        return float(limits.size) * len(order)


class _Exchanges:
    """Exchanges of two columns for two between the stripes of one part, where M is 4 and all columns move."""

    def __init__(self, part: Stripes, n: int) -> None:
        self._part, self._n = part, n
        self._stripes = _full(part)
        count, rows = len(self._stripes), part.values.shape[1]
        self._place = np.full(len(part.slots), -1)
        self._place[self._stripes] = np.arange(count)
        self._stale = np.ones(count, dtype=bool)
        self._kept = np.zeros(count)
        self._pairs = np.zeros((2, count, 6, rows), np.float32)
        self._table = np.zeros((count, 6, count, 6))  # what two pairs would keep as one stripe

    def copy(self) -> _Exchanges:
        """One that can go its own way."""
        other = copy.copy(self)
        for name in ("_stale", "_kept", "_pairs", "_table"):
            setattr(other, name, getattr(self, name).copy())
        return other

    def touch(self, stripes: Index) -> None:
        """Says that some stripes hold other columns now."""
        at = self._place[stripes]
        self._stale[at[at >= 0]] = True

    def refresh(self, order: Index) -> float:
        """Brings the table up to date; returns the comparisons."""
        stale = np.flatnonzero(self._stale)
        content = self._part.contents(self._stripes[stale], order)
        pairs = content[:, PAIRS]  # stripes, 6, 2, rows
        self._pairs[0, stale] = pairs.sum(axis=2)
        self._pairs[1, stale] = pairs.max(axis=2) if self._n < 3 else pairs.min(axis=2)
        self._kept[stale] = np.sort(content, axis=1)[:, -self._n :].sum(axis=(1, 2), dtype=np.float64)
        rows = self._pairs.shape[-1]
        block = sums(self._pairs[:, stale].reshape(2, -1, rows), self._pairs.reshape(2, -1, rows), TOP[self._n])
        self._table[stale] = block.reshape(len(stale), *self._table.shape[1:])
        self._table[:, :, stale] = self._table[stale].transpose(2, 3, 0, 1)
        self._stale[:] = False
        return 3.0 * block.size * rows

    def gaining(self, least: float) -> tuple[Index, float]:
        """Swaps of places that make up the exchanges that gain most, each in stripes of its own, and what they gain."""
        count = len(self._stripes)
        both = self._table[:, :3] + self._table[:, :2:-1, :, ::-1]  # the other halves make up the other stripe
        gains = (both - self._kept[:, None, None, None] - self._kept[:, None]).swapaxes(1, 2).reshape(count, count, 18)
        which, most = gains.argmax(axis=2), np.triu(gains.max(axis=2), 1)
        swaps: list[tuple[Any, Any]] = []
        taken, total = np.zeros(count, dtype=bool), 0.0
        for i, j in _falling(most, least):
            if not (taken[i] or taken[j]):
                taken[[i, j]] = True
                a, b = divmod(int(which[i, j]), 6)
                slots = self._part.slots[self._stripes[[i, j]]]
                swaps += zip(slots[0][PAIRS[5 - a]], slots[1][PAIRS[b]], strict=True)
                total += float(most[i, j])
        return np.array(swaps, dtype=np.int64).reshape(-1, 2), total


def _full(part: Stripes) -> Index:
    """The stripes of which all columns move."""
    return np.flatnonzero((part.slots >= 0).all(axis=1))


def _falling(gains: Sums, least: float) -> list[tuple[int, int]]:
    """Places of the largest gains, the largest first: a few times as many as can be taken side by side."""
    flat = gains.ravel()
    found = np.flatnonzero(flat > least)
    best = found[np.argsort(-flat[found], kind="stable")[: 4 * len(gains)]]
    return [divmod(int(i), len(gains)) for i in best]
