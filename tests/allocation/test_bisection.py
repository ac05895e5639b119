"""The search for the smallest model that is good enough."""

from __future__ import annotations

import pytest

from onnxprune.allocation.bisection import MAX_RUNS, furthest_good


@pytest.mark.parametrize("limit", [0.0, 0.03, 0.3, 0.5, 0.77, 0.999, 1.0])
@pytest.mark.parametrize("steps", [3, 50, 10_000])
def test_the_furthest_good_one_is_found(limit: float, steps: int) -> None:
    """To within what the runs can tell; two shares that lead to one model are never both made."""
    made: list[float] = []

    def attempt(share: float) -> float:
        made.append(share)
        return int(share * steps) / steps

    found = furthest_good(attempt, lambda at: at <= limit, lambda a, b: int(a * steps) == int(b * steps))
    best = int(limit * steps + 1e-9) / steps
    assert found <= limit and best - found <= max(2.0 ** -(MAX_RUNS - 1), 0.0)
    if steps == 3:
        assert found == best
    assert len([m for m in made if m > 0]) <= MAX_RUNS
    assert len({int(m * steps) for m in made}) == len(made)


def test_the_whole_model_is_what_is_left_where_nothing_is_good() -> None:
    assert furthest_good(lambda share: share, lambda at: at == 0, lambda a, b: a == b) == 0.0


def test_a_result_is_good_even_where_worse_is_further_than_better() -> None:
    """Good ones in islands: whatever is found is one of them."""

    def good(at: float) -> bool:
        return at < 0.1 or 0.4 < at < 0.6

    found = furthest_good(lambda share: share, good, lambda a, b: a == b)
    assert good(found) and found > 0.5
