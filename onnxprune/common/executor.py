"""Where tasks are done: one after another in this process, or by an executor that sends them elsewhere.

What falls into independent tasks is written once, as a function of a task, and mapped by `each`; nobody who calls it
knows where the tasks run. Results do not depend on that: sums are taken in the order of the tasks (`in_order`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Protocol, TypeVar

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
) -> Iterator[tuple[int, Result]]:
    """Yields the number of each task and its result, as they are done.

    Args:
        function: Does a task. It may be called in another process: it is pickled once with all that it holds, and what
            it makes of that stays there for the tasks that follow. Equal tasks must have equal results.
        tasks: A name for progress, and the task; they are taken one by one as there is room for them.
        count: How many there are.
        lost: The result of a task that ends every process that takes it on; by default that ends the run.

    Raises:
        InputError: Tasks or function cannot be sent, or nobody is left to do them.
    """
    return _current.get().each(function, tasks, count, lost)


def in_order(results: Iterable[tuple[int, Result]]) -> Iterator[Result]:
    """The results of `each` in the order of the tasks."""
    waiting: dict[int, Result] = {}
    following = 0
    for number, result in results:
        waiting[number] = result
        while following in waiting:
            yield waiting.pop(following)
            following += 1
