"""How many units of each group go, and which."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.allocation.counts import Limits, Width, ranked, uniform, weakest
from onnxprune.common.math import share
from onnxprune.coupling.groups import Grade, Group

UNITS = st.lists(st.integers(2, 40), min_size=1, max_size=6)
RATIOS = st.floats(0, 1, exclude_max=True)
LIMITS = st.builds(lambda least, of: Limits(least, (Width(multiple=of),)), st.integers(1, 12), st.integers(1, 12))


def groups(sizes: list[int]) -> list[Group]:
    return [Group(f"g{i}", np.arange(n), Grade.EXACT, [], []) for i, n in enumerate(sizes)]


def alone(sizes: list[int]) -> list[list[Group]]:
    """Each group a set of its own."""
    return [[group] for group in groups(sizes)]


@pytest.mark.parametrize(
    ("ratio", "units", "expected"),
    [
        (0.29, 100, 29),
        (0.57, 100, 57),
        (0.1, 10, 1),
        (0.7, 10, 7),
        (0.3, 10, 3),
        (0.5, 7, 3),
        (0.0, 9, 0),
        (0.99, 2, 1),
        (1 / 3, 3, 1),
        (2 / 3, 3, 2),
        (0.999, 10, 9),
        (0.49, 2, 0),
    ],
)
def test_the_share_is_the_floor_that_people_expect(ratio: float, units: int, expected: int) -> None:
    assert share(ratio, units) == expected


@given(st.integers(1, 999), st.integers(1, 2000))
def test_the_share_in_thousandths_is_exact(thousandths: int, units: int) -> None:
    assert share(thousandths / 1000, units) == thousandths * units // 1000


MULTIPLES = st.sampled_from([1, 2, 3, 4, 6, 8])
WIDTHS = st.lists(st.builds(Width, st.integers(1, 9), st.integers(0, 9), MULTIPLES), min_size=1, max_size=3).map(tuple)


def fits(widths: tuple[Width, ...], units: int, rests: bool) -> bool:
    """Whether so many units make every width a multiple, with or without what other channels add to it."""
    return all((units * w.per_unit + rests * w.rest) % w.multiple == 0 for w in widths)


@given(WIDTHS, st.integers(1, 30), st.integers(0, 30), st.integers(1, 4))
def test_the_nearest_count_is_kept_that_makes_every_width_a_multiple(
    widths: tuple[Width, ...], units: int, remove: int, least: int
) -> None:
    """By trying all; where no number of units does, without what other channels add to a width."""
    wanted, least = max(units - remove, min(least, units)), min(least, units)
    rests = any(fits(widths, n, rests=True) for n in range(24))
    counts = [n for n in range(least, units) if n > 0 and fits(widths, n, rests)] + [units]
    if all(w.multiple == 1 for w in widths):
        counts = list(range(least, units + 1))
    expected = min(counts, key=lambda n: (abs(n - wanted), -n))
    assert Limits(least, widths).kept(units, remove) == expected


def multiples(of: int, least: int = 1) -> Limits:
    return Limits(least, (Width(multiple=of),))


@pytest.mark.parametrize(
    ("limits", "units", "remove", "expected"),
    [
        (Limits(), 8, 3, 5),
        (Limits(), 8, 8, 1),
        (Limits(4), 8, 7, 4),
        (Limits(40), 8, 7, 8),
        (multiples(4), 16, 7, 8),
        (multiples(4), 16, 6, 12),
        (multiples(4), 16, 8, 8),
        (multiples(4), 6, 1, 6),
        (multiples(4), 6, 2, 4),
        (multiples(16), 8, 7, 8),
        (multiples(4, 5), 16, 14, 8),
        (multiples(8), 40, 20, 24),
    ],
)
def test_limits(limits: Limits, units: int, remove: int, expected: int) -> None:
    assert limits.kept(units, remove) == expected


@given(WIDTHS, st.integers(1, 30))
def test_every_multiple_of_a_step_makes_the_widths_multiples(widths: tuple[Width, ...], units: int) -> None:
    """By trying all; rests count where any number of units makes up for them."""
    rests = any(fits(widths, n, rests=True) for n in range(24))
    steps = [
        s for s in range(1, units) if not units % s and all(fits(widths, k, rests) for k in range(s, units + 1, s))
    ]
    assert Limits(1, widths).step(units) == min(steps, default=1)


def multiple(limits: Limits) -> int:
    return limits.widths[0].multiple


def assert_limited(sizes: list[int], counts: list[int], limits: Limits) -> None:
    for n, gone in zip(sizes, counts, strict=True):
        kept = n - gone
        assert 0 <= gone < n
        assert kept >= min(limits.min_channels, n)
        assert kept == n or kept % multiple(limits) == 0


@given(UNITS, RATIOS, LIMITS)
def test_uniform_takes_the_share_of_each_group_as_far_as_it_may(sizes: list[int], ratio: float, limits: Limits) -> None:
    counts = uniform(groups(sizes), ratio, [limits] * len(sizes))
    assert_limited(sizes, counts, limits)
    for n, gone in zip(sizes, counts, strict=True):
        plain = min(share(ratio, n), n - min(limits.min_channels, n))
        assert gone <= plain + multiple(limits) // 2
        if multiple(limits) == 1:
            assert gone == plain


@given(UNITS, RATIOS, LIMITS, st.integers(0, 2**32 - 1))
def test_ranked_takes_no_more_than_asked_but_for_rounding(
    sizes: list[int], ratio: float, limits: Limits, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    counts = ranked(alone(sizes), [rng.random(n) for n in sizes], ratio, [limits] * len(sizes))
    assert_limited(sizes, counts, limits)
    assert sum(counts) <= share(ratio, sum(sizes)) + len(sizes) * (multiple(limits) // 2)
    if multiple(limits) == 1:
        room = sum(n - min(limits.min_channels, n) for n in sizes)
        assert sum(counts) == min(share(ratio, sum(sizes)), room)


@given(UNITS, RATIOS, st.integers(0, 2**32 - 1))
def test_ranked_takes_the_lowest_of_all(sizes: list[int], ratio: float, seed: int) -> None:
    """Unless a group would lose its last unit, what goes scores no more than what stays."""
    rng = np.random.default_rng(seed)
    scores = [rng.random(n) for n in sizes]
    counts = ranked(alone(sizes), scores, ratio, [Limits()] * len(sizes))
    gone = [np.sort(s)[:c] for s, c in zip(scores, counts, strict=True)]
    stay = [np.sort(s)[c:] for s, c in zip(scores, counts, strict=True) if c < len(s) - 1]
    if stay:
        assert max((g.max() for g in gone if len(g)), default=0) <= min(s.min() for s in stay)


def test_a_weak_group_loses_more() -> None:
    scores: list[Any] = [np.array([1.0, 2, 3, 4]), np.array([10.0, 20, 30, 40])]
    assert ranked(alone([4, 4]), scores, 0.5, [Limits()] * 2) == [3, 1]
    assert ranked(alone([4, 4]), scores, 0.5, [Limits(2)] * 2) == [2, 2]


def test_groups_that_stay_alike_count_as_many_times() -> None:
    """Six of twelve units: the lowest of the set takes two at once, and what is left is too little for another."""
    scores: list[Any] = [np.array([1.0, 2, 8, 9]), np.array([3.0, 4, 5, 6])]
    sets = [groups([4, 4]), groups([4])]
    assert ranked(sets, scores, 0.5, [Limits()] * 2) == [2, 2]
    assert ranked(sets, scores, 5 / 12, [Limits()] * 2) == [2, 1]
    assert ranked(sets, scores, 3 / 12, [Limits()] * 2) == [1, 1]


def test_nothing_to_choose_from() -> None:
    assert uniform([], 0.5, []) == [] and ranked([], [], 0.5, []) == []


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.data())
def test_the_weakest(scores: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(scores)))
    taken = weakest(np.array(scores, dtype=float), count).tolist()
    assert taken == sorted(taken) and len(set(taken)) == count
    expected = sorted(sorted(range(len(scores)), key=lambda i: (scores[i], i))[:count])
    assert taken == expected  # equal ones go from the front
