"""Latency of two models, measured in alternating runs, so that a machine that gets slower meanwhile slows both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.runtime.process import Session

RUNS, SECONDS = 200, 1.5
"""Timed runs of each model at most, and seconds after which no further pair of runs begins."""
FEWEST = 5
"""Timed runs of each model at least."""
QUANTILE = 0.05
"""Of processor times the quantile that counts: other programs on the machine make them longer, never shorter."""


@dataclass(frozen=True)
class Timing:
    """Times of one run of a model in seconds, over several runs.

    Attributes:
        wall: Median of the elapsed time.
        low: First quartile of the elapsed time.
        high: Third quartile of the elapsed time.
        cpu: Processor time, a low quantile of it: other programs on the machine change that least.
    """

    wall: float
    low: float
    high: float
    cpu: float


@dataclass(frozen=True)
class Latency:
    """Times of two models on the same inputs, at batch size 1 where the model leaves it open.

    Attributes:
        before: The first model.
        after: The second model.
        runs: Timed runs of each.
        threads: Threads for one operator; 0 is onnxruntime's default.
    """

    before: Timing
    after: Timing
    runs: int
    threads: int

    @property
    def ratio(self) -> float:
        """Time of the second model over that of the first, below 1 where it is faster.

        With one thread it is the ratio of processor times, which other programs on the machine disturb less.
        """
        if self.threads == 1 and self.before.cpu > 0:
            return self.after.cpu / self.before.cpu
        return self.after.wall / self.before.wall


def latency(
    first: Session,
    second: Session,
    names: Sequence[str],
    feeds: Sequence[Mapping[str, Any]],
    *,
    threads: int,
    runs: int | None = None,
) -> Latency:
    """Times alternating runs of two loaded models.

    Args:
        first: One model.
        second: The other model.
        names: Names of the outputs.
        feeds: Inputs of both models.
        threads: Threads that the sessions were made with.
        runs: Timed runs of each; None for as many as fit in `SECONDS`, from `FEWEST` to `RUNS`.

    Raises:
        RunError: A run fails or exceeds a limit.
    """
    first.race(second, names, feeds, 1)  # the first run of a session allocates its memory
    if runs is None:
        times = first.race(second, names, feeds, RUNS, fewest=FEWEST, seconds=SECONDS)
    else:
        times = first.race(second, names, feeds, runs)
    before, after = map(_timing, times)
    return Latency(before, after, len(times[0]), threads)


def _timing(times: Sequence[tuple[float, float]]) -> Timing:
    wall, cpu = np.asarray(times).T
    low, middle, high = (float(q) for q in np.quantile(wall, (0.25, 0.5, 0.75)))
    return Timing(middle, low, high, float(np.quantile(cpu, QUANTILE)))
