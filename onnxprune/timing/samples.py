"""Which widths are measured: every group at many widths, on and off the multiples that engines compute in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxprune.allocation.widths import limits_of
from onnxprune.coupling.groups import Group

MULTIPLES = (8, 4, 16, 1)
"""Multiples that the widths of all groups of one sample share, or of each group by itself."""
CYCLE = (8, 4, 16, 4, None, 8, 4, 1)
"""Which of them one sample after the other has, None for one of each group's own: mostly those that engines compute
fast, as these are what an allocation ends with; some others show what engines lose off them."""
LEAST = 0.125
"""Share of its units that a group keeps at least."""


def sampled_widths(groups: Sequence[Group], count: int, seed: int) -> list[NDArray[np.int64]]:
    """Removed units of each group, for each of several sliced copies of a model.

    The kept shares of each group fill the range evenly (McKay et al., "A comparison of three methods for selecting
    values of input variables", Technometrics 1979), independently of the other groups.

    Args:
        groups: The groups that may shrink.
        count: How many copies.
        seed: Seed of the random choices.

    Returns:
        One array of shape (groups,) a copy.
    """
    rng = np.random.default_rng(seed)
    choices = [[_removals(group, multiple) for multiple in MULTIPLES] for group in groups]
    shares = np.stack([rng.permutation(count) for _ in groups], axis=1) if groups else np.zeros((count, 0))
    shares = LEAST + (1 - LEAST) * (shares + rng.random(shares.shape)) / count
    found = []
    for i in range(count):
        common, own = CYCLE[i % len(CYCLE)], rng.integers(len(MULTIPLES), size=len(groups)).tolist()
        picks = own if common is None else [MULTIPLES.index(common)] * len(groups)
        removed = [
            _nearest(choices[g][pick], (1 - shares[i, g]) * group.units)
            for g, (group, pick) in enumerate(zip(groups, picks, strict=True))
        ]
        found.append(np.array(removed, dtype=np.int64))
    return found


def _removals(group: Group, multiple: int) -> NDArray[np.int64]:
    """Counts of removed units that leave multiples, or all units; ascending."""
    (held,) = limits_of([group], 1, multiple)
    return np.array(held.removals(group.units, group.most()), dtype=np.int64)


def _nearest(counts: NDArray[np.int64], wanted: float) -> int:
    return int(counts[np.argmin(np.abs(counts - wanted))])
