"""Runs onnxruntime in a separate process, so that a model which crashes or hangs raises an error in this one.

One worker process (see `worker`) serves the whole program. It is started when first needed and restarted after a crash;
it is spawned, not forked, which is safe with threads. Runs of one model over many batches are executed concurrently,
each on one thread, so that floating-point sums do not depend on the number of threads.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import logging
import math
import os
import pickle
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from onnxprune.common.time_limit import check, remaining, starting_threads
from onnxprune.errors import RunError, option
from onnxprune.runtime import worker
from onnxprune.runtime.limits import SECONDS, Limits, current_limits, max_ahead

logger = logging.getLogger(__name__)

POLL = 0.25
"""Interval in seconds at which the time limit is checked."""


class Session:
    """A model loaded in the worker process.

    Attributes:
        inputs: Names of the inputs.
        outputs: Names of the outputs.
    """

    def __init__(
        self,
        payload: bytes | str,
        *,
        optimize: bool = True,
        threads: int = 1,
        data_folder: str | None = None,
        arena: bool = False,
        providers: Sequence[Any] = (worker.CPU,),
        prepack: bool = True,
    ) -> None:
        """Loads a model.

        Args:
            payload: The serialized model, or the path of its file.
            optimize: Whether onnxruntime may optimize the graph.
            threads: Threads per operator; 0 for onnxruntime's default.
            data_folder: Folder of the external data files, for a serialized model.
            arena: Whether onnxruntime's memory arena is used, as by default in deployment: faster, more memory.
            providers: Execution providers of onnxruntime, by name or with options, the first that can runs a node.
            prepack: Whether onnxruntime may keep a copy of weights in the order in which its kernels read them.

        Raises:
            RunError: onnxruntime rejects the model, crashes, or exceeds a limit.
        """
        self._limits = current_limits()
        self._worker = _worker()
        self._handle = next(_numbers)
        if isinstance(payload, str):
            payload = os.path.abspath(payload)  # the working directory of the worker may differ
        self.inputs, self.outputs = self._request(
            "load", payload, optimize, threads, data_folder, arena, tuple(providers), prepack
        )
        weakref.finalize(self, self._worker.release, self._handle)

    def _request(self, service: str, *arguments: Any) -> Any:
        return self._worker.result(self._worker.send(self._limits, service, self._handle, *arguments), self._limits)

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Any]:
        """Returns the outputs of these names (None: all) for one batch of inputs.

        Raises:
            RunError: onnxruntime rejects the inputs, crashes, or exceeds a limit.
        """
        result: list[Any] = self._request("run", names, dict(feeds))
        return result

    def each(self, batches: Iterable[Mapping[str, Any]], names: Sequence[str] | None = None) -> Iterator[list[Any]]:
        """Yields the outputs of `run` for each batch, in order; some batches are run concurrently (`max_ahead`)."""
        pending: deque[int] = deque()
        most = max_ahead()
        try:
            for feeds in batches:
                pending.append(self._worker.send(self._limits, "run", self._handle, names, dict(feeds)))
                if len(pending) > most:
                    yield self._worker.result(pending.popleft(), self._limits)
            while pending:
                yield self._worker.result(pending.popleft(), self._limits)
        finally:
            self._worker.forget(pending)

    def race(
        self,
        other: Session,
        names: Sequence[str],
        feeds: Sequence[Mapping[str, Any]],
        runs: int,
        *,
        fewest: int = 1,
        seconds: float = math.inf,
    ) -> list[list[tuple[float, float]]]:
        """Times alternating runs of this session and another one.

        Args:
            other: The other session.
            names: Names of the outputs.
            feeds: Inputs of this session and of the other one.
            runs: Number of runs of each session at most.
            fewest: Number of runs of each session at least.
            seconds: Time after which no more than the fewest runs are made.

        Returns:
            Elapsed time and processor time of each run in seconds, for this session and for the other one.
        """
        limits = replace(self._limits, seconds=self._limits.seconds * runs)
        arguments = [self._handle, other._handle], names, [dict(f) for f in feeds], runs, fewest, seconds
        number = self._worker.send(limits, "race", *arguments)
        times: list[list[tuple[float, float]]] = self._worker.result(number, limits)
        return times


class _Worker:
    """The worker process, and the requests that it has not answered yet."""

    def __init__(self) -> None:
        start = f"import sys; sys.path[:] = {sys.path!r}; from onnxprune.runtime.worker import serve; serve()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", start],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pipesize=2**20,
        )
        self.owner = os.getpid()
        self._lock = threading.RLock()
        self._answers: dict[int, tuple[Any, str | None]] = {}
        self._released: deque[int] = deque()
        self._forgotten: set[int] = set()
        self._started = self._timed_out = False
        self._deadline = math.inf
        self._closed = threading.Event()
        with starting_threads():
            threading.Thread(target=self._watch, daemon=True).start()
        self._failure: str | None = None
        logger.debug("onnxruntime runs in process %d", self.process.pid)

    @property
    def alive(self) -> bool:
        return self.owner == os.getpid() and self._failure is None and self.process.poll() is None

    def send(self, limits: Limits, service: str, *arguments: Any) -> int:
        """Sends a request and returns its number."""
        number = next(_numbers)
        with self._lock:
            if not self._started:
                self._started = True
                self.result(worker.READY, replace(limits, seconds=SECONDS))
            while self._released:
                release = next(_numbers)
                self._forgotten.add(release)
                self._write((release, limits.memory, "release", (self._released.popleft(),)), limits)
            self._write((number, limits.memory, service, arguments), limits)
        return number

    def release(self, handle: int) -> None:
        """Releases a session with the next request: a finalizer may call this while one is being sent."""
        self._released.append(handle)

    def forget(self, numbers: Iterable[int]) -> None:
        """Answers to these requests need not be kept: whoever asked has gone."""
        with self._lock:
            self._forgotten.update(number for number in numbers if self._answers.pop(number, None) is None)

    def result(self, number: int, limits: Limits) -> Any:
        """Waits for the answer to a request.

        Raises:
            RunError: The request failed, or the worker crashed or exceeded the time limit.
        """
        with self._lock:
            while number not in self._answers:
                with self._watched(limits):
                    found, value, fault = pickle.load(self.process.stdout)  # type: ignore[arg-type]
                if found in self._forgotten:
                    self._forgotten.remove(found)
                else:
                    self._answers[found] = value, fault
            value, fault = self._answers.pop(number)
        if fault is not None:
            if worker.is_out_of_memory(fault):
                limits.reached.append(f"onnxruntime needed more than {limits.memory:,} bytes")
            raise RunError(fault)
        return value

    def _write(self, request: tuple[Any, ...], limits: Limits) -> None:
        assert self.process.stdin is not None
        with self._watched(limits):
            pickle.dump(request, self.process.stdin, protocol=5)
            self.process.stdin.flush()

    @contextlib.contextmanager
    def _watched(self, limits: Limits) -> Iterator[None]:
        """Stops the worker if the block exceeds the time limit or is interrupted."""
        if self._failure is not None:
            raise RunError(self._failure, fatal=True)
        self._deadline = time.monotonic() + min(limits.seconds, remaining())
        try:
            yield
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            self._failure = self._stop(limits)
            check()  # the time of the run, not that of onnxruntime
            if self._timed_out:
                limits.reached.append(self._failure)
            logger.warning("%s", self._failure)
            hint = f"{option('run_seconds')} allows more" if self._timed_out else None
            raise RunError(self._failure, hint, True) from error
        except BaseException:
            self._failure = "onnxruntime was interrupted"
            self.close()  # the rest of a partly read answer would be read as the next one
            raise
        finally:
            self._deadline = math.inf

    def _watch(self) -> None:
        """Kills the process at the deadline; the thread that waits for an answer then reads an end of file."""
        while not self._closed.wait(POLL):
            if time.monotonic() > self._deadline:
                self._timed_out = True
                self.process.kill()
                return

    def _stop(self, limits: Limits) -> str:
        """Stops the worker and returns a description of its failure."""
        self.close()
        if self._timed_out:
            return f"onnxruntime took longer than {limits.seconds:g} s"
        code = self.process.returncode
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        return f"onnxruntime crashed ({how})" + (", probably for want of memory" if code == -9 else "")

    def close(self) -> None:
        """Stops the process."""
        self._closed.set()
        if self.owner != os.getpid():
            return
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        try:
            self.process.wait(timeout=1)  # a crashed process ends by itself, with the exit status of the crash
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


_numbers = itertools.count()
_starting = threading.Lock()
_current: _Worker | None = None


def _worker() -> _Worker:
    global _current
    with _starting:
        if _current is None or not _current.alive:
            _current = _Worker()
        return _current


def request(service: str, *arguments: Any) -> Any:
    """Asks the worker for a service that belongs to no session.

    Raises:
        RunError: It fails, or exceeds a limit.
    """
    limits, serving = current_limits(), _worker()
    return serving.result(serving.send(limits, service, *arguments), limits)


def warm_up() -> None:
    """Starts the worker in advance, so that it loads onnxruntime in parallel with other work."""
    _worker()


@atexit.register
def _close() -> None:
    if _current is not None:
        _current.close()
