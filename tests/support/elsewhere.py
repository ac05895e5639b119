"""An executor like one of other machines: what it is sent is pickled, and results come in any order."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

Task = TypeVar("Task")
Result = TypeVar("Result")


class Elsewhere:
    """Some copies of the function, each of which does some of the tasks in some order.

    Attributes:
        done: How many tasks were done.
    """

    def __init__(self, workers: int, seed: int = 0) -> None:
        self._workers, self._random = workers, np.random.default_rng(seed)
        self.done = 0

    def each(
        self,
        function: Callable[[Task], Result],
        tasks: Iterable[tuple[str, Task]],
        count: int,
        lost: Callable[[str], Result] | None,
    ) -> Iterator[tuple[int, Result]]:
        """See `onnxprune.common.executor.each`."""
        sent = pickle.dumps(function)
        copies = [pickle.loads(sent) for _ in range(self._workers)]
        packed = [pickle.dumps(task) for _, task in tasks]
        assert len(packed) <= count
        for number in self._random.permutation(len(packed)).tolist():
            result = copies[self._random.integers(self._workers)](pickle.loads(packed[number]))
            self.done += 1
            yield number, pickle.loads(pickle.dumps(result))
