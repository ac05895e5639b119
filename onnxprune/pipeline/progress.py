"""Times the stages of a run and reports progress to a callback."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

logger = logging.getLogger(__name__)


class Clock:
    """Seconds spent in each stage.

    Attributes:
        seconds: Seconds by stage.
        prefix: What is said in front of a stage's name.
    """

    def __init__(self, announce: Announce | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self.prefix = ""
        self._announce = announce or (lambda name, done=0, total=None: None)
        self._stage = ""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of the block to a stage."""
        self._stage = self.prefix + name
        self._announce(self._stage)
        logger.debug("%s", self._stage)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def progress(self, done: int, total: int | None) -> None:
        """Reports how many calibration samples the running stage has processed."""
        self._announce(self._stage, done, total)


class Announce(Protocol):
    """Progress callback of a run."""

    def __call__(self, name: str, done: int = 0, total: int | None = None) -> None:
        """Called when a stage starts, and with the calibration samples processed so far, of `total` (None: unknown)."""
