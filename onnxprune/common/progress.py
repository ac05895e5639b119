"""How far a run is: one number for the whole run, reported to a callback by whatever part of it runs.

The run has a range of work, from 0 to 1. Stages and loops narrow it for what they call (`part`) and report their steps
in it (`step`); code that runs outside of a reported run reports to nobody.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass

LEAST_DONE, LEAST_SECONDS = 0.01, 0.5
"""Share of the work and seconds from which on the remaining time is estimated."""


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        stage: The running stage: ``load``, ``analyze``, ``score``, ``repair`` and so on.
        item: What the stage is working on, the name of a layer or a group, say; "" where it does not tell.
        done: Units of work that are done.
        total: Units of work of the whole run, estimated from its options.
        elapsed: Seconds since the run began.
        remaining: Seconds that it will still take at this pace; None while too little is done to tell.
    """

    stage: str
    item: str
    done: float
    total: float
    elapsed: float
    remaining: float | None


ProgressCallback = Callable[[Progress], None]
"""Called often, in the thread of the run. What it raises ends the run."""


class Meter:
    """The work of one run.

    Args:
        report: Called when a stage begins and after each step.
    """

    def __init__(self, report: ProgressCallback) -> None:
        self._report = report
        self._begin = time.monotonic()
        self._low, self._high = 0.0, 1.0
        self._reached = 0.0
        self._total = 1.0
        self._ranges: dict[str, tuple[float, float]] = {}
        self._stage = self._item = ""
        self._number, self._count = 0, 1

    def expect(self, work: Mapping[str, float]) -> None:
        """Divides what is left of the current range among the stages to come.

        Args:
            work: Units of work by stage, in the order of the stages.
        """
        whole = sum(work.values())
        if self._reached == 0:
            self._total = whole
        low = max(self._low, min(self._reached, self._high))
        for name, units in work.items():
            high = low + (self._high - low) * units / whole if whole else low
            self._ranges[name] = low, high
            low, whole = high, whole - units

    @contextlib.contextmanager
    def stage(self, name: str, shown: str) -> Iterator[None]:
        """Narrows the range to that of a stage while the block lasts.

        Args:
            name: Its name in `expect`; of no work where that is unknown.
            shown: Its name for the callback.
        """
        token = _current.set(self)
        try:
            with self.within(name):
                self._stage = shown
                self.step("", 0, 1)
                yield
                self.step("", 1, 1)
        finally:
            _current.reset(token)

    @contextlib.contextmanager
    def within(self, name: str) -> Iterator[None]:
        """Narrows the range to that of a stage while the block lasts, which has stages of its own."""
        low, high = self._ranges.get(name, (self._reached, self._reached))
        with self.range(low, high):
            yield

    @contextlib.contextmanager
    def range(self, low: float, high: float) -> Iterator[None]:
        """Narrows the range while the block lasts."""
        before = self._low, self._high, self._ranges.copy(), self._item, self._number, self._count
        self._low, self._high = low, high
        try:
            yield
        finally:
            self._low, self._high, self._ranges, self._item, self._number, self._count = before

    @contextlib.contextmanager
    def part(self, low: float, high: float) -> Iterator[None]:
        """Narrows the range to a part of it, given by shares, while the block lasts."""
        length = self._high - self._low
        with self.range(self._low + low * length, self._low + high * length):
            yield

    def step(self, item: str, number: int, count: int, within: float = 0.0) -> None:
        """Reports that a step begins.

        Args:
            item: What it works on.
            number: Number of the step, from 0.
            count: Steps in the current range.
            within: The share of the step that is done.
        """
        self._item, self._number, self._count = item, number, max(count, 1)
        share = min((number + within) / self._count, 1.0)
        self._reached = max(self._reached, self._low + (self._high - self._low) * share)
        elapsed, done = time.monotonic() - self._begin, self._reached
        known = done >= LEAST_DONE and elapsed >= LEAST_SECONDS
        remaining = elapsed * (1 - done) / done if known else None
        self._report(Progress(self._stage, item, done * self._total, self._total, elapsed, remaining))

    def samples(self, done: int, total: int | None) -> None:
        """Reports the samples that the current step has read."""
        self.step(self._item, self._number, self._count, done / total if total else 0.0)


_current: ContextVar[Meter | None] = ContextVar("meter", default=None)


def step(item: str, number: int, count: int, within: float = 0.0) -> None:
    """Reports that a step of the current range begins, see `Meter.step`."""
    meter = _current.get()
    if meter is not None:
        meter.step(item, number, count, within)


@contextlib.contextmanager
def part(low: float, high: float) -> Iterator[None]:
    """Narrows the range of the current run to a part of it, given by shares, while the block lasts."""
    meter = _current.get()
    if meter is None:
        yield
        return
    with meter.part(low, high):
        yield


def inner() -> ProgressCallback:
    """Reports how far a run within this one is, as a step of the current range."""
    meter = _current.get()

    def report(progress: Progress) -> None:
        if meter is not None:
            meter.step(f"{progress.stage} {progress.item}".rstrip(), 0, 1, progress.done / progress.total)

    return report
