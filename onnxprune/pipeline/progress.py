"""Times the stages of a run, and estimates the work of each from the options."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from onnxprune.common.progress import Meter, ProgressCallback
from onnxprune.options import LATENCY, Options

logger = logging.getLogger(__name__)

REPAIR = {"none": 0.0, "data-free": 30.0}
REPAIR_WITH_DATA = 80.0
"""Units of work of a repair: about the seconds that a small model takes, as for all stages."""
TRAINING = 300.0


class Clock:
    """Seconds spent in each stage, and how far the run is.

    Attributes:
        seconds: Seconds by stage.
        prefix: What is said in front of a stage's name.
    """

    def __init__(self, report: ProgressCallback | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self.prefix = ""
        self._meter = Meter(report or (lambda progress: None))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of the block to a stage."""
        shown = self.prefix + name
        logger.debug("%s", shown)
        start = time.perf_counter()
        try:
            with self._meter.stage(name, shown):
                yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    @contextmanager
    def trial(self, number: int, most: int, work: Mapping[str, float]) -> Iterator[None]:
        """One of several trials in the range of the stage ``search``, with stages of its own."""
        with self._meter.within("search"), self._meter.part(number / most, (number + 1) / most):
            self._meter.expect(work)
            yield

    def expect(self, work: Mapping[str, float]) -> None:
        """Announces the stages to come, with their units of work."""
        self._meter.expect(work)

    def samples(self, done: int, total: int | None) -> None:
        """Reports how many calibration samples the running step has read."""
        self._meter.samples(done, total)


def work(options: Options) -> dict[str, float]:
    """Units of work of the stages of a run, in their order."""
    searched = options.checks.search
    middle = {"search": 4 * sum(work_of_attempt(options).values())} if searched else work_of_attempt(options)
    return {**work_before(options), **middle, **work_after(options)}


def work_before(options: Options) -> dict[str, float]:
    """Units of work of what is done before anything is removed."""
    informed = options.calibration.data is not None or options.repair.method == "data-free"
    steps = 0 if options.channels is None else options.channels.steps - 1
    scoring = 20.0 if informed and options.criterion.from_data else 0.5
    times = options.channels is not None and LATENCY in options.channels.limits and options.channels.times is None
    return {
        "load": 1.0,
        "analyze": 0.5,
        "measure": 20.0 * times,
        "depth": 20.0 if options.channels is not None and options.channels.depth else 0.0,
        "score": scoring + steps * (scoring + _repair(options)),
    }


def work_of_attempt(options: Options) -> dict[str, float]:
    """Units of work of what makes one pruned model."""
    zeros = 0.0 if options.zeros is None else 2.0 + (_repair(options) if options.repair.refits_zeros else 0.0)
    return {
        "plan": 1.0,
        "apply": 0.5,
        "repair": 0.0 if options.channels is None else _repair(options),
        "distill": TRAINING if options.channels is not None and options.repair.trains else 0.0,
        "permute": 5.0 if options.zeros is not None and options.zeros.permute else 0.0,
        "zero": zeros,
        "judge": 0.0 if options.calibration.data is None else 1.0,
        "store": float(options.sparse_storage),
    }


def work_after(options: Options) -> dict[str, float]:
    """Units of work of what is done with the pruned model."""
    return {"verify": float(options.checks.verify), "time": float(options.checks.time)}


def _repair(options: Options) -> float:
    if options.repair.method == "auto":
        return REPAIR_WITH_DATA if options.calibration.data is not None else REPAIR["data-free"]
    return REPAIR.get(options.repair.method, REPAIR_WITH_DATA)
