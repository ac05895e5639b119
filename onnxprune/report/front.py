"""Which variants of a pruned model no other one is better than in accuracy and cost alike."""

from __future__ import annotations

from collections.abc import Sequence


def front(points: Sequence[tuple[float, float]], bound: tuple[float, float] | None = None) -> list[int]:
    """Positions of the points that no other dominates, in their order; of equal ones the first.

    A point dominates another where it is at most as large in both coordinates, and smaller in one.

    Args:
        points: Cost and loss of each; less is better.
        bound: A point that may dominate too, and is not among them.

    >>> front([(0.5, 0.1), (0.6, 0.2), (0.4, 0.3), (0.5, 0.1)])
    [0, 2]
    """
    others = [*points, *([] if bound is None else [bound])]
    return [
        i
        for i, point in enumerate(points)
        if point not in points[:i] and not any(_dominates(other, point) for other in others)
    ]


def _dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] <= other[0] and one[1] <= other[1]
