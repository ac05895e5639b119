"""Shows how far a run is: a bar on a terminal, lines elsewhere if they are asked for."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from onnxprune.cli.command import say
from onnxprune.cli.signals import check
from onnxprune.common.text import short

if TYPE_CHECKING:
    from onnxprune.common.progress import Progress

Show = Callable[["Progress | str"], None]
"""Shows how far a run is, or the name of a stage of which nothing more is known."""

ITEM = 28
"""Characters of the name of a layer."""
LINE_SECONDS = 5.0
"""Seconds between two lines where there is no terminal."""


@contextlib.contextmanager
def announcing(silent: bool, wanted: bool | None = None) -> Iterator[Show]:
    """Shows progress while the block lasts, and ends the run where a signal was lost.

    Args:
        silent: Whether to show nothing unless it is wanted.
        wanted: Whether progress was asked for; None for where stderr is a terminal.
    """
    with _shown(silent, wanted) as show:

        def announce(progress: Progress | str) -> None:
            check()
            show(progress)

        yield announce


@contextlib.contextmanager
def _shown(silent: bool, wanted: bool | None) -> Iterator[Show]:
    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    if wanted is False or (wanted is None and (silent or not terminal)):
        yield lambda progress: None
    elif terminal:
        with _bar() as show:
            yield show
    else:
        yield _Lines().show


@contextlib.contextmanager
def _bar() -> Iterator[Show]:
    from rich import progress as rich
    from rich.console import Console

    columns = [
        rich.SpinnerColumn("line"),
        rich.BarColumn(24),
        rich.TaskProgressColumn(),
        rich.TextColumn("{task.fields[time]}"),
        rich.TextColumn("{task.description}", markup=False),
    ]
    with rich.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, time="")

        def show(progress: Progress | str) -> None:
            if isinstance(progress, str):
                bar.update(task, description=progress, total=None, time="")
            else:
                done, total = progress.done, progress.total
                bar.update(task, description=what(progress), completed=done, total=total, time=times(progress))

        yield show


class _Lines:
    """Writes a line on stderr when a stage begins, and every few seconds."""

    def __init__(self) -> None:
        self._stage = ""
        self._next = 0.0

    def show(self, progress: Progress | str) -> None:
        """See `Show`."""
        if isinstance(progress, str):
            say(progress, err=True)
        elif progress.stage != self._stage or progress.elapsed >= self._next:
            self._stage, self._next = progress.stage, progress.elapsed + LINE_SECONDS
            percent = 100 * progress.done / progress.total
            say(f"{percent:3.0f}%  {times(progress)}  {what(progress)}", err=True)


def what(progress: Progress) -> str:
    """The stage and what it works on."""
    return f"{progress.stage} {short(progress.item, ITEM)}".rstrip()


def times(progress: Progress) -> str:
    """Elapsed and remaining time: ``0:12, about 1:40 left``."""
    left = "" if progress.remaining is None else f", about {clock(progress.remaining)} left"
    return f"{clock(progress.elapsed)}{left}"


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds, with hours where there are any.

    >>> clock(7.6), clock(100), clock(3725)
    ('0:08', '1:40', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
