"""Limits on the time and memory of onnxruntime, which apply within a context."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field

SECONDS = 600.0
"""Default time limit of one load or run of a model."""
MAX_AHEAD = min(os.cpu_count() or 1, 8)
"""Batches that are run concurrently at most."""


@dataclass(frozen=True)
class Limits:
    """Limits on onnxruntime.

    Attributes:
        seconds: Time limit of one load or run of a model.
        memory: Memory limit of the worker in bytes.
        reached: What was ended for a limit, a line each: whoever asked for it went on without.
    """

    seconds: float
    memory: int
    reached: list[str] = field(default_factory=list, compare=False)


_limits: ContextVar[Limits | None] = ContextVar("limits", default=None)
_threads: ContextVar[int | None] = ContextVar("threads", default=None)


@contextlib.contextmanager
def limited(seconds: float | None = None, memory: int | None = None) -> Iterator[None]:
    """Applies limits to sessions that are created within the block; by default `SECONDS` and the total memory."""
    token = _limits.set(Limits(SECONDS if seconds is None else seconds, total_memory() if memory is None else memory))
    try:
        yield
    finally:
        _limits.reset(token)


@contextlib.contextmanager
def on_threads(most: int) -> Iterator[None]:
    """Lets no more than so many batches, or parts of them, be computed at a time within the block."""
    token = _threads.set(max(1, most))
    try:
        yield
    finally:
        _threads.reset(token)


def max_threads(cores: int) -> int:
    """Returns how many of the processor's cores may be used here."""
    return min(cores, _threads.get() or cores)


def max_ahead() -> int:
    """Returns how many batches may run concurrently here."""
    return max_threads(MAX_AHEAD)


def total_memory() -> int:
    """Returns the memory of the machine, or of the container, in bytes."""
    sizes = [sys.maxsize]
    with contextlib.suppress(AttributeError, ValueError, OSError):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError), open(path) as file:  # "max" means no limit
            sizes.append(int(file.read()))
    return min(sizes)


def current_limits() -> Limits:
    """Returns the limits that apply here."""
    return _limits.get() or Limits(SECONDS, total_memory())
