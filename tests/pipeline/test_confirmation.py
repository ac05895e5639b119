"""Which model a search returns, where the one that it found is not confirmed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from onnxprune.pipeline.search import _confirmed


class Trials:
    """Models that meet the limit in a search up to one share, and on the confirmation samples up to another."""

    def __init__(self, chosen: float, holds: float, tried: list[float]) -> None:
        self.limits, self.made = (chosen, holds), list[float]()
        self.verdicts = {share: (share <= chosen, share <= holds) for share in tried}

    def holds(self, found: Any) -> bool:
        return bool(found.options.channels <= self.limits[1])

    def make(self, share: float) -> Any:
        self.made.append(share)
        self.verdicts[share] = (share <= self.limits[0], share <= self.limits[1])
        return SimpleNamespace(options=SimpleNamespace(channels=share))

    def channels(self, share: float) -> float:
        return share

    def confirmed(self, found: Any) -> Any:
        return found


@pytest.mark.parametrize(
    ("chosen", "holds", "tried", "taken", "made"),
    [
        (0.6, 1.0, [1.0, 0.5, 0.75, 0.6], 0.6, []),  # it holds: nothing else is made
        (0.6, 0.55, [1.0, 0.5, 0.75, 0.6], 0.5, [0.125, 0.25, 0.375, 0.5]),  # the one before, made again
        (0.6, 0.3, [1.0, 0.5, 0.75, 0.6], 0.25, [0.125, 0.25, 0.375, 0.25]),
        (0.6, 0.1, [1.0, 0.5, 0.75, 0.6], 0.0, [0.125, 0.0]),  # not even the largest
        (1.0, 0.6, [1.0], 0.5, [0.25, 0.5, 0.75, 0.5]),  # no other was made
    ],
)
def test_a_model_that_is_not_confirmed_gives_way(
    chosen: float, holds: float, tried: list[float], taken: float, made: list[float]
) -> None:
    """To the last larger one that holds before one does not, the largest first."""
    trials: Any = Trials(chosen, holds, tried)
    best = max(share for share, (met, _) in trials.verdicts.items() if met)
    found: Any = SimpleNamespace(options=SimpleNamespace(channels=best))
    assert _confirmed(trials, found).options.channels == taken
    assert trials.made == made
