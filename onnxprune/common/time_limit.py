"""A limit on the time of a whole run, which ends it in any thread and wherever it is.

At the deadline another thread raises an exception in the limited one (`PyThreadState_SetAsyncExc`). It arrives between
two instructions of Python, so a call into compiled code ends first; what waits for another process must wait no longer
than `remaining`.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar

from onnxprune.errors import TimeLimitError

AGAIN = 5.0
"""Seconds after which the exception is raised again: where it arrived in a finalizer, Python dropped it."""

_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)


_starting = threading.Lock()


@contextlib.contextmanager
def starting_threads() -> Iterator[None]:
    """Lets no limit expire in the block, which starts threads.

    Until a new thread runs, Python takes it for the one that started it (CPython 3.11). An exception for that one would
    end the new one before it says that it has started, which the other waits for.
    """
    with _starting:
        yield


class _Expired(BaseException):
    """Ends the run; no handler of `Exception` takes it for a failure of its own."""


def remaining() -> float:
    """Seconds until the time limit of the current run; infinite without one."""
    return _deadline.get() - time.monotonic()


def check() -> None:
    """Ends the run here if its time is up."""
    if remaining() <= 0:
        raise _Expired


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Limits the time of the block; an earlier limit of a surrounding block remains.

    Args:
        seconds: The limit; None for none.

    Raises:
        TimeLimitError: The block took longer.
    """
    if seconds is None:
        yield
        return
    token = _deadline.set(min(_deadline.get(), time.monotonic() + seconds))
    alarm = _Alarm(threading.get_ident(), seconds)
    try:
        try:
            alarm.start()
            yield
            check()  # on a busy machine the alarm may not have had its turn
        finally:
            alarm.stop()
    except _Expired:
        alarm.stop()  # where it arrived while the alarm was being stopped
        if not alarm.expired:  # the limit of a surrounding block
            raise
        raise TimeLimitError(f"the time limit of {seconds:g} s is reached; nothing was written") from None
    finally:
        _deadline.reset(token)


class _Alarm:
    """Raises `_Expired` in a thread after some seconds, and again until it is stopped."""

    def __init__(self, thread: int, seconds: float) -> None:
        self._thread = thread
        self._end = time.monotonic() + seconds
        self._stopped, self._lock = threading.Event(), threading.Lock()

    def start(self) -> None:
        """Starts to wait."""
        with starting_threads():
            threading.Thread(target=self._wait, daemon=True, name="time limit").start()

    @property
    def expired(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._end

    def stop(self) -> None:
        """Stops it; what it raised and has not arrived yet is withdrawn."""
        with self._lock:
            self._stopped.set()
            _raise_in(self._thread, None)

    def _wait(self) -> None:
        pause = self._end - time.monotonic()
        while not self._stopped.wait(max(pause, 0.0)):
            with self._lock, _starting:
                if not self._stopped.is_set():
                    _raise_in(self._thread, _Expired)
            pause = AGAIN


def _raise_in(thread: int, kind: type[BaseException] | None) -> None:
    """Makes another thread raise an exception at its next instruction; None withdraws one that has not arrived."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), None if kind is None else ctypes.py_object(kind))
