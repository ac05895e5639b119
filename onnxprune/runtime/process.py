"""onnxruntime in a process of its own: a model that crashes or hangs there ends a run with an error, not the program.

One worker (see `worker`) serves the whole program; it starts when it is first needed and again after it died. Nothing
is forked, so threads are no danger. Runs of one model over many batches go side by side, each on one thread: sums then
never depend on how many threads there are.
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
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from onnxprune.errors import RunError
from onnxprune.runtime import worker

logger = logging.getLogger(__name__)

SECONDS = 600.0
"""Default of the longest that one load or run of a model may take."""
POLL = 0.25
"""Seconds between looks at the clock."""
AHEAD = min(os.cpu_count() or 1, 8)
"""Batches that are under way at once."""
IN_FLIGHT = 2**29
"""Bytes that batches under way in this process may make."""


@dataclass(frozen=True)
class Limits:
    """What onnxruntime may use.

    Attributes:
        seconds: The longest that one load or run of a model may take.
        memory: Bytes that the worker may hold in memory.
    """

    seconds: float
    memory: int


_limits: ContextVar[Limits | None] = ContextVar("limits", default=None)


@contextlib.contextmanager
def limited(seconds: float | None = None, memory: int | None = None) -> Iterator[None]:
    """Within the block, what is loaded in onnxruntime is held to these limits; by default `SECONDS` and all memory."""
    token = _limits.set(Limits(SECONDS if seconds is None else seconds, all_memory() if memory is None else memory))
    try:
        yield
    finally:
        _limits.reset(token)


def all_memory() -> int:
    """Bytes of memory that this process can have: those of the machine, or of its container."""
    sizes = [sys.maxsize]
    with contextlib.suppress(AttributeError, ValueError, OSError):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError), open(path) as file:  # "max" is no number
            sizes.append(int(file.read()))
    return min(sizes)


class Session:
    """A model loaded in the worker.

    Attributes:
        inputs: Names of its inputs.
        outputs: Names of its outputs.
    """

    def __init__(
        self,
        payload: bytes | str,
        *,
        optimize: bool = True,
        threads: int = 1,
        data_folder: str | None = None,
        arena: bool = False,
    ) -> None:
        """Loads a model.

        Args:
            payload: Its serialized bytes, or the path of its file.
            optimize: Whether onnxruntime may rewrite the graph.
            threads: Threads for one operator; 0 leaves that to onnxruntime.
            data_folder: Where the files of its external data are, for a model in bytes.
            arena: Whether memory is kept from run to run: faster, and what people have whose models are timed.

        Raises:
            RunError: onnxruntime does not take it, crashes, or goes beyond a limit.
        """
        self._limits = _limits.get() or Limits(SECONDS, all_memory())
        self._worker = _worker()
        self._handle = next(_numbers)
        if isinstance(payload, str):
            payload = os.path.abspath(payload)  # the worker stays in the folder where it was started
        self.inputs, self.outputs = self._ask("load", payload, optimize, threads, data_folder, arena)
        weakref.finalize(self, self._worker.forget, self._handle)

    def _ask(self, what: str, *arguments: Any) -> Any:
        return self._worker.result(self._worker.ask(self._limits, what, self._handle, *arguments), self._limits)

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs of these names (None: all) for some inputs.

        Raises:
            RunError: onnxruntime does not take the inputs, crashes, or goes beyond a limit.
        """
        result: list[Any] = self._ask("run", names, dict(feeds))
        return result

    def each(self, batches: Iterable[Mapping[str, Any]], names: Sequence[str] | None = None) -> Iterator[list[Any]]:
        """What `run` gives for each of many batches, in their order; several are under way at once."""
        asked: deque[int] = deque()
        for feeds in batches:
            asked.append(self._worker.ask(self._limits, "run", self._handle, names, dict(feeds)))
            if len(asked) > AHEAD:
                yield self._worker.result(asked.popleft(), self._limits)
        while asked:
            yield self._worker.result(asked.popleft(), self._limits)

    def race(
        self, other: Session, names: Sequence[str], feeds: Sequence[Mapping[str, Any]], runs: int
    ) -> list[list[float]]:
        """Seconds of each run of this session and another one, taken in turns."""
        whole = Limits(self._limits.seconds * runs, self._limits.memory)
        number = self._worker.ask(whole, "race", [self._handle, other._handle], names, [dict(f) for f in feeds], runs)
        times: list[list[float]] = self._worker.result(number, whole)
        return times


class LocalSession:
    """A model loaded in this process, where nothing has to be handed over.

    Pieces of a model give out far more than the whole does, and handing it over can take longer than making it. They
    run here once the model as a whole has run in the worker.

    Attributes:
        inputs: Names of its inputs.
    """

    def __init__(
        self, payload: bytes | str, *, optimize: bool = True, threads: int = 1, data_folder: str | None = None
    ) -> None:
        """See `Session`."""
        self._handle = next(_numbers)
        with _told():
            self.inputs, _ = worker.load(self._handle, payload, optimize, threads, data_folder, arena=False)
        weakref.finalize(self, worker.forget, self._handle)

    def each(
        self, batches: Iterable[Mapping[str, Any]], names: Sequence[str] | None = None, *, ahead: int = AHEAD
    ) -> Iterator[list[Any]]:
        """See `Session.each`.

        So many batches are under way besides the one that is handed out, fewer where they make more than `IN_FLIGHT`.
        """
        with ThreadPoolExecutor(ahead) as pool:
            asked: deque[Future[list[Any]]] = deque()
            most = min(ahead, 2)  # until it is known how much a batch makes
            for feeds in batches:
                asked.append(pool.submit(self.run, names, feeds))
                while len(asked) > most:
                    made = asked.popleft().result()
                    most = max(1, min(ahead, IN_FLIGHT // max(sum(getattr(a, "nbytes", 0) for a in made), 1)))
                    yield made
            while asked:
                yield asked.popleft().result()

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Any]:
        """See `Session.run`."""
        with _told():
            return worker.run(self._handle, names, dict(feeds))


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Turns what onnxruntime raises into a `RunError`."""
    try:
        yield
    except Exception as error:
        raise RunError(worker.reason(error)) from error


class _Worker:
    """The other process, and who waits for what of it."""

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
        self._ready: dict[int, tuple[Any, str | None]] = {}
        self._forgotten: deque[int] = deque()
        self._started = self._late = False
        self._deadline = math.inf
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()
        self._over: str | None = None
        logger.debug("onnxruntime runs in process %d", self.process.pid)

    @property
    def alive(self) -> bool:
        return self.owner == os.getpid() and self._over is None and self.process.poll() is None

    def ask(self, limits: Limits, what: str, *arguments: Any) -> int:
        """Sends a request; its number."""
        number = next(_numbers)
        with self._lock:
            if not self._started:
                self._started = True
                self.result(worker.READY, Limits(SECONDS, limits.memory))
            while self._forgotten:
                self._send((next(_numbers), limits.memory, "forget", (self._forgotten.popleft(),)), limits)
            self._send((number, limits.memory, what, arguments), limits)
        return number

    def forget(self, handle: int) -> None:
        """Lets go of a session with the next request: this may be called amid one."""
        self._forgotten.append(handle)

    def result(self, number: int, limits: Limits) -> Any:
        """Waits for the answer to a request.

        Raises:
            RunError: The request failed, or the worker died of it or went beyond the time limit.
        """
        with self._lock:
            while number not in self._ready:
                with self._watched(limits):
                    found, value, fault = pickle.load(self.process.stdout)  # type: ignore[arg-type]
                self._ready[found] = value, fault
            value, fault = self._ready.pop(number)
        if fault is not None:
            raise RunError(fault)
        return value

    def _send(self, request: tuple[Any, ...], limits: Limits) -> None:
        assert self.process.stdin is not None
        with self._watched(limits):
            pickle.dump(request, self.process.stdin, protocol=5)
            self.process.stdin.flush()

    @contextlib.contextmanager
    def _watched(self, limits: Limits) -> Iterator[None]:
        """Ends the worker when the block takes too long, or is left half done."""
        if self._over is not None:
            raise RunError(self._over, fatal=True)
        self._deadline = time.monotonic() + limits.seconds
        try:
            yield
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            self._over = self._end(limits)
            logger.warning("%s", self._over)
            raise RunError(self._over, "run-seconds in a recipe allows more" if self._late else None, True) from error
        except BaseException:
            self._over = "onnxruntime was interrupted"
            self.close()  # the rest of an answer would be taken for the next one
            raise
        finally:
            self._deadline = math.inf

    def _watch(self) -> None:
        """Ends the process where a block takes too long: whoever waits for an answer then sees the end of it."""
        while not self._closed.wait(POLL):
            if time.monotonic() > self._deadline:
                self._late = True
                self.process.kill()
                return

    def _end(self, limits: Limits) -> str:
        """How the worker ended."""
        self.close()
        if self._late:
            return f"onnxruntime took longer than {limits.seconds:g} s"
        code = self.process.returncode
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        return f"onnxruntime crashed ({how})" + (", probably for want of memory" if code == -9 else "")

    def close(self) -> None:
        """Ends the process."""
        self._closed.set()
        if self.owner != os.getpid():
            return
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        try:
            self.process.wait(timeout=1)  # a crash is told by how it ended
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


def warm_up() -> None:
    """Starts the worker, which takes a moment, while there is other work to do."""
    _worker()


@atexit.register
def _close() -> None:
    if _current is not None:
        _current.close()
