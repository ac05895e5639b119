"""Where tasks are done: one after another in this process, or by an executor that sends them elsewhere.

What falls into independent tasks is written once, as a function of a task, and mapped by `each`; nobody who calls it
knows where the tasks run. Results do not depend on that: sums are taken in the order of the tasks (`sorted_by_task`).
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from onnxprune.common.checkpoint import MISSING, Checkpoints, current
from onnxprune.common.progress import part, step

Task = TypeVar("Task")
Result = TypeVar("Result")


class Executor(Protocol):
    """Does tasks."""

    def each(
        self,
        function: Callable[[Task], Result],
        tasks: Iterable[tuple[str, Task]],
        count: int,
        lost: Callable[[str], Result] | None,
    ) -> Iterator[tuple[int, Result]]:
        """See `each`."""


class _Here:
    """Does tasks in this process, in their order."""

    def each(
        self,
        function: Callable[[Task], Result],
        tasks: Iterable[tuple[str, Task]],
        count: int,
        lost: Callable[[str], Result] | None,
    ) -> Iterator[tuple[int, Result]]:
        for number, (name, task) in enumerate(tasks):
            step(name, number, count)
            with part(number / count, (number + 1) / count):
                result = function(task)
            yield number, result


_HERE = _Here()
_current: ContextVar[Executor] = ContextVar("executor", default=_HERE)


@contextlib.contextmanager
def using(executor: Executor | None) -> Iterator[None]:
    """Lets an executor do the tasks of the block; None for the one that does them now."""
    token = _current.set(executor or _current.get())
    try:
        yield
    finally:
        _current.reset(token)


def each(
    function: Callable[[Task], Result],
    tasks: Iterable[tuple[str, Task]],
    count: int,
    lost: Callable[[str], Result] | None = None,
    *,
    kept: str | None = None,
) -> Iterator[tuple[int, Result]]:
    """Yields the number of each task and its result, as they are done.

    Args:
        function: Does a task. It may be called in another process: it is pickled once with all that it holds, and what
            it makes of that stays there for the tasks that follow. Equal tasks must have equal results.
        tasks: A name for progress, and the task; they are taken one by one as there is room for them.
        count: How many there are.
        lost: The result of a task that ends every process that takes it on; by default that ends the run.
        kept: Name under which storable results are kept for a run that goes on (see `checkpoint`); None to keep none.

    Raises:
        InputError: Tasks or function cannot be sent, or nobody is left to do them.
    """
    executor, checkpoints = _current.get(), current()
    if kept is None or checkpoints is None:
        return executor.each(function, tasks, count, lost)
    steps = _Steps(checkpoints, checkpoints.begin(), kept)
    return steps.each(lambda missing: executor.each(function, missing, count, lost), tasks)


@dataclass
class _Steps:
    """The tasks of one call, of which some were done before.

    Attributes:
        checkpoints: Where results are kept.
        number: Number of the call.
        name: Name of the call.
        numbers: Numbers of the tasks that are done now, in their order.
        before: Numbers and results of those that were done before, and are not handed on yet.
    """

    checkpoints: Checkpoints
    number: int
    name: str
    numbers: list[int] = field(default_factory=list)
    before: deque[tuple[int, Any]] = field(default_factory=deque)

    def each(
        self,
        do: Callable[[Iterable[tuple[str, Task]]], Iterator[tuple[int, Result]]],
        tasks: Iterable[tuple[str, Task]],
    ) -> Iterator[tuple[int, Result]]:
        for at, result in do(self._missing(tasks)):
            yield from self._handed_on()
            self.checkpoints.write(self.number, self.name, result, self.numbers[at])
            yield self.numbers[at], result
        yield from self._handed_on()

    def _missing(self, tasks: Iterable[tuple[str, Task]]) -> Iterator[tuple[str, Task]]:
        for number, (name, task) in enumerate(tasks):
            found = self.checkpoints.read(self.number, self.name, number)
            if found is MISSING:
                self.numbers.append(number)
                yield name, task
            else:
                self.before.append((number, found))

    def _handed_on(self) -> Iterator[tuple[int, Any]]:
        while self.before:
            yield self.before.popleft()


def sorted_by_task(results: Iterable[tuple[int, Result]]) -> Iterator[Result]:
    """The results of `each` in the order of the tasks."""
    waiting: dict[int, Result] = {}
    following = 0
    for number, result in results:
        waiting[number] = result
        while following in waiting:
            yield waiting.pop(following)
            following += 1
