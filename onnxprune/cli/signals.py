"""Signals that end a command: as exceptions, so that half-written files are cleared away on the way out."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_arrived: BaseException | None = None


class Terminated(BaseException):
    """SIGTERM as an exception."""


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raises `KeyboardInterrupt` at SIGINT and `Terminated` at SIGTERM while the block lasts.

    A signal that was ignored before remains so: a shell starts background jobs that way.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    global _arrived
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    _arrived = None
    try:
        for number, handler in before.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, _stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _arrived = None


def check() -> None:
    """Raises again what a signal raised before, if the run still goes on.

    Python prints and forgets exceptions that are raised in a finalizer or in a callback of a library; a signal that
    arrives there would be lost.
    """
    global _arrived
    if _arrived is not None:
        arrived, _arrived = _arrived, None
        raise arrived


def _stop(number: int, frame: FrameType | None) -> None:
    global _arrived
    _arrived = KeyboardInterrupt() if number == signal.SIGINT else Terminated()
    raise _arrived
