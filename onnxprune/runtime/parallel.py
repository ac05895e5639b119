"""Work on several threads, with results that do not depend on how many there are."""

from __future__ import annotations

import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from onnxprune.common.time_limit import starting_threads
from onnxprune.runtime.determinism import single_threaded_blas
from onnxprune.runtime.limits import max_threads

T = TypeVar("T")
R = TypeVar("R")

_worker = threading.local()


def cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yields a function of each item, in the order of the items, computed on all cores.

    Sums over the results are the same on every machine as long as the items are. NumPy and onnxruntime release
    Python's global lock while they compute, so threads are enough.

    Args:
        function: What is computed; safe to call from several threads.
        items: Its arguments. Only a few more than there are cores are taken ahead of the results.
    """
    threads = 1 if getattr(_worker, "busy", False) else max_threads(cores())
    if threads == 1:
        yield from map(function, items)
        return
    pool = _pool(threads)
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            with starting_threads():
                pending.append(pool.submit(function, item))
            if len(pending) > 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "onnxprune", initializer=_begin)


def _begin() -> None:
    """Prepares a thread of the pool: work inside it is not divided again, nor by BLAS."""
    _worker.busy = True
    single_threaded_blas()
