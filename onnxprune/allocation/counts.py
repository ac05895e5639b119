"""How many units of each group are removed, and which."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxprune.common.math import share
from onnxprune.coupling.groups import Group
from onnxprune.importance.magnitude import Scores


@dataclass(frozen=True)
class Width:
    """How many channels a layer has, given how many units of a group are kept: ``units * per_unit + rest``.

    Attributes:
        per_unit: Channels that one unit is.
        rest: Channels that belong to no group that may shrink.
        multiple: What the width is to be a multiple of.
    """

    per_unit: int = 1
    rest: int = 0
    multiple: int = 1

    def fits(self, units: int) -> bool:
        """Whether so many units make a width that is a multiple."""
        return (units * self.per_unit + self.rest) % self.multiple == 0


@dataclass(frozen=True)
class Limits:
    """What a group must keep.

    Attributes:
        min_channels: At least so many units.
        widths: Widths of the layers that read or write the group; by default its units.
    """

    min_channels: int = 1
    widths: tuple[Width, ...] = (Width(),)

    def kept(self, units: int, remove: int) -> int:
        """Units that are kept when `remove` of `units` are to be removed.

        The nearest count that makes every width a multiple, of two equally near ones the larger; all units where there
        is none.
        """
        least = min(self.min_channels, units)
        wanted = max(units - remove, least)
        period = math.lcm(*(w.multiple for w in self.widths))
        if period == 1 or wanted == units:
            return wanted
        widths = self._satisfiable(period)
        return next((n for n in _nearest(wanted, units) if n >= least and all(w.fits(n) for w in widths)), units)

    def removals(self, units: int, most: int) -> list[int]:
        """Counts of removed units, up to `most`, at which a group may stop; ascending from 0."""
        return sorted({n for k in range(most + 1) if (n := units - self.kept(units, k)) <= most} | {0})

    def step(self, units: int) -> int:
        """The smallest count of units of which all multiples, up to `units`, make every width a multiple.

        1 where there is none below `units`: any count is as good then.
        """
        period = math.lcm(*(w.multiple for w in self.widths))
        widths = self._satisfiable(period)
        divisors = (n for n in range(1, units // 2 + 1) if units % n == 0)
        return next((n for n in divisors if all(w.fits(k) for w in widths for k in range(n, units + 1, n))), 1)

    def _satisfiable(self, period: int) -> tuple[Width, ...]:
        """The widths that one count makes multiples; without the rests of those where none does.

        A concatenation that holds three pinned channels and a group whose own layer is a multiple cannot be one, say.
        """
        if any(all(width.fits(n) for width in self.widths) for n in range(period)):
            return self.widths
        return tuple(replace(w, rest=0) for w in self.widths)


def _nearest(wanted: int, units: int) -> Iterator[int]:
    """Counts from 1 to all units but one, the nearest to one of them first, until all units are as near."""
    for off in range(units - wanted):
        yield wanted + off
        if 0 < off < wanted:
            yield wanted - off


def uniform(groups: Sequence[Group], ratio: float, limits: Sequence[Limits]) -> list[int]:
    """Units to remove from each group: ``floor(ratio * n)`` of n."""
    return [g.units - held.kept(g.units, share(ratio, g.units)) for g, held in zip(groups, limits, strict=True)]


def ranked(
    sets: Sequence[Sequence[Group]], scores: Sequence[Scores], ratio: float, limits: Sequence[Limits]
) -> list[int]:
    """Units to remove from each group when the lowest ``floor(ratio * n)`` of all n are to be removed.

    What `limits` keep in one group is compensated by the next lowest of the others.

    Args:
        sets: Groups of as many units that lose as many as each other; a group alone is a set of one.
        scores: Scores of the units of each set.
        ratio: 0 <= ratio <= 1.
        limits: What the groups of each set keep.

    Returns:
        The units that each group of a set loses.
    """
    units, sizes = [some[0].units for some in sets], [len(some) for some in sets]
    target = share(ratio, sum(n * size for n, size in zip(units, sizes, strict=True)))
    owner = np.repeat(np.arange(len(sets)), units)
    order = np.argsort(np.concatenate(scores), kind="stable") if len(sets) else np.empty(0, np.int64)
    room = [n - held.kept(n, n) for n, held in zip(units, limits, strict=True)]
    removed = [0] * len(sets)
    for i in owner[order]:
        if target == 0:
            break
        if removed[i] < room[i] and sizes[i] <= target:
            removed[i] += 1
            target -= sizes[i]
    return [n - held.kept(n, gone) for n, gone, held in zip(units, removed, limits, strict=True)]


def weakest(scores: Scores, count: int) -> NDArray[np.int64]:
    """Positions of the `count` lowest scores, in ascending position; equal ones go from the front."""
    return np.sort(np.argsort(scores, kind="stable")[:count])
