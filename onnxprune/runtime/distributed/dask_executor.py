"""An executor whose tasks are done by the workers of a Dask cluster."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import pickle
import queue
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from onnxprune.common.progress import step
from onnxprune.common.shared_files import SharedFiles
from onnxprune.errors import InputError, RunError, option
from onnxprune.runtime.distributed import worker
from onnxprune.runtime.distributed.worker import Answer, Call
from onnxprune.runtime.limits import current_limits, total_memory

Task = TypeVar("Task")
Result = TypeVar("Result")

CANCELLED = (asyncio.CancelledError, concurrent.futures.CancelledError)
"""What Dask raises for a task that it has given up: the one or the other, by its version."""
POLL = 0.25
"""Seconds between two looks at what is done."""
PATIENCE = 60.0
"""Seconds that a scheduler may be without a worker."""
START_WORKERS = "start some with dask worker and the address of the scheduler"


class DaskExecutor:
    """Does tasks on the workers of a client, see `common.executor`."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def check_workers(self, version: str) -> None:
        """Waits for a worker.

        Raises:
            InputError: There is none, or one has no onnxprune or another version of it.
        """
        end = time.monotonic() + PATIENCE
        while not self.workers():
            if time.monotonic() > end:
                raise InputError("the scheduler has no workers", START_WORKERS)
            time.sleep(POLL)
        found = self._client.run(worker.version, on_error="return")
        for address, other in found.items():
            if other != version:
                has = f"onnxprune {other}" if isinstance(other, str) else "no onnxprune"
                raise InputError(f"worker {address} has {has}, and this is {version}", "install the same everywhere")

    def workers(self) -> int:
        """How many workers there are.

        Raises:
            InputError: The scheduler is gone.
        """
        try:
            return len(self._client.nthreads())
        except (OSError, ValueError, TimeoutError) as error:
            raise _no_scheduler() from error

    def each(
        self,
        function: Callable[[Task], Result],
        tasks: Iterable[tuple[str, Task]],
        count: int,
        lost: Callable[[str], Result] | None,
    ) -> Iterator[tuple[int, Result]]:
        """See `common.executor.each`."""
        calls = _Calls(self._client, pickled(function), lost)
        try:
            yield from calls.results(iter(tasks), count, self.workers)
        finally:
            calls.close()


@dataclass
class _Sent:
    """A task that is under way."""

    number: int
    name: str
    task: bytes
    files: list[SharedFiles] = field(default_factory=list)
    share: float = 0.0
    item: str = ""


class _Calls:
    """The calls of one function."""

    def __init__(self, client: Any, function: bytes, lost: Callable[[str], Any] | None) -> None:
        self._client, self._lost = client, lost
        self._run = f"onnxprune-{uuid.uuid4().hex}"
        self._function = self._held(function)
        self._copies: dict[SharedFiles, Any] = {}
        self._sent: dict[Any, _Sent] = {}
        self._told: queue.SimpleQueue[tuple[int, str, float]] = queue.SimpleQueue()
        self._alone_since: float | None = None
        client.subscribe_topic(self._run, lambda event: self._told.put(event[1]))

    def results(
        self, tasks: Iterator[tuple[str, Any]], count: int, workers: Callable[[], int]
    ) -> Iterator[tuple[int, Any]]:
        """Yields the number of each task and its result."""
        done, more, ended = 0, enumerate(tasks), False
        while not ended or self._sent:
            room = self._room(workers())
            for _ in range(0 if ended else room):
                following = next(more, None)
                ended = following is None
                if following is None:
                    break
                number, (name, task) = following
                self._send(_Sent(number, name, pickled(task)))
            self._tell(done, count)
            for future in self._finished():
                sent = self._sent.pop(future)
                answer = self._answer(future, sent)
                if answer.missing is not None:
                    self._send_with(sent, answer.missing)
                    continue
                if answer.error is not None:
                    raise answer.error
                done += 1
                yield sent.number, answer.result

    def close(self) -> None:
        """Gives up what is under way, and lets workers forget the function."""
        with contextlib.suppress(Exception):  # the scheduler may be gone
            self._client.unsubscribe_topic(self._run)
            self._client.cancel([*self._sent, self._function, *self._copies.values()], force=True)
            self._client.run(worker.close, self._run, on_error="ignore")

    def _room(self, workers: int) -> int:
        """How many tasks may be sent: one a worker, since those that wait at one that is lost count as lost with it."""
        if workers:
            self._alone_since = None
        else:
            self._alone_since = self._alone_since or time.monotonic()
            if time.monotonic() > self._alone_since + PATIENCE:
                raise InputError("the scheduler has lost its workers", START_WORKERS)
        return max(0, workers - len(self._sent))

    def _send(self, sent: _Sent) -> None:
        limits = current_limits()
        memory = None if limits.memory == total_memory() else limits.memory
        call = Call(self._run, sent.number, limits.seconds, memory)
        copies = [(files, self._copies[files]) for files in sent.files]
        name = f"{self._run}-{sent.number}-{len(copies)}"
        with _quietly():
            future = self._client.submit(worker.perform, call, self._function, sent.task, copies, key=name, pure=False)
        self._sent[future] = sent

    def _send_with(self, sent: _Sent, files: SharedFiles) -> None:
        """Sends a task again, with files that its worker lacks."""
        if files not in self._copies:
            self._copies[files] = self._held(files.contents())
        sent.files.append(files)
        self._send(sent)

    def _held(self, content: Any) -> Any:
        """Something that each worker is sent once, and again after those that had it are lost."""
        with _quietly():
            return self._client.submit(worker.itself, content, key=f"onnxprune-{uuid.uuid4().hex}", pure=False)

    def _finished(self) -> list[Any]:
        """The tasks that are done, after a while."""
        from distributed import wait

        if not self._sent:
            time.sleep(POLL)
        with contextlib.suppress(TimeoutError, *CANCELLED), self._client.as_current():
            wait(list(self._sent), timeout=POLL, return_when="FIRST_COMPLETED")
        return sorted((f for f in self._sent if f.done()), key=lambda f: self._sent[f].number)

    def _answer(self, future: Any, sent: _Sent) -> Answer:
        from distributed import KilledWorker

        if future.cancelled():
            raise _no_scheduler()
        try:
            answer: Answer = future.result()
        except KilledWorker as error:
            tries = f"ended {error.allowed_failures + 1} workers one after another"
            if self._lost is not None:
                return Answer(self._lost(tries))
            raise RunError(f"{sent.name}: {tries}", "have they enough memory?", fatal=True) from error
        except (OSError, *CANCELLED) as error:
            raise _no_scheduler() from error
        return answer

    def _tell(self, done: int, count: int) -> None:
        """Reports how far all is, by what the workers told."""
        under_way = {sent.number: sent for sent in self._sent.values()}
        latest = min(under_way.values(), key=lambda sent: sent.number, default=None)
        while not self._told.empty():
            number, item, share = self._told.get()
            if number in under_way:
                latest = under_way[number]
                latest.item, latest.share = item, share
        if latest is not None:
            item = f"{latest.name} {latest.item}".rstrip()
            step(item, done, count, sum(sent.share for sent in under_way.values()))


def pickled(value: Any) -> bytes:
    """A value for another process; what is defined in a script or an interactive session goes as a whole.

    Raises:
        InputError: It cannot be sent: an open file, an iterator.
    """
    import cloudpickle

    try:
        return bytes(cloudpickle.dumps(value))
    except (TypeError, AttributeError, pickle.PicklingError, ValueError) as error:
        data = option("calib", ...)
        raise InputError(
            f"workers cannot be sent what the run has: {error}", f"give {data} as files, arrays, or module:function"
        ) from error


def _no_scheduler() -> InputError:
    return InputError("the scheduler is gone", "start it again, and its workers; what was written so far is there")


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without Dask's warning of what is large: each worker needs it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
