"""What a Dask worker does of a run: one task at a time, each as the run itself would do it."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune import __version__
from onnxprune.common.progress import Meter, Progress
from onnxprune.common.shared_files import FilesMissing, SharedFiles, copies_in
from onnxprune.errors import InputError, OnnxPruneError
from onnxprune.runtime.determinism import deterministic_run
from onnxprune.runtime.free_memory import reuse
from onnxprune.runtime.limits import on_threads

SECONDS = 0.5
"""Seconds between two messages of how far a task is."""


@dataclass(frozen=True)
class Call:
    """A task to do.

    Attributes:
        run: Name of the calls of one function, and of the topic that progress is told under.
        number: Number of the task.
        seconds: The longest that one run of a model may take.
        memory: Bytes that onnxruntime may hold; None for all that the machine has.
        version: Version of onnxprune that sends it.
    """

    run: str
    number: int
    seconds: float
    memory: int | None
    version: str = __version__


@dataclass(frozen=True)
class Answer:
    """What became of a task.

    Attributes:
        result: Its result.
        error: What was wrong with the input.
        missing: Files that are to be sent first.
    """

    result: Any = None
    error: OnnxPruneError | None = None
    missing: SharedFiles | None = None


_busy = threading.Lock()
_opened: dict[str, Callable[[Any], Any]] = {}


def perform(call: Call, function: bytes, task: bytes, sent: list[tuple[SharedFiles, Mapping[str, bytes]]]) -> Answer:
    """Does a task; further threads of this process wait until it is done.

    Args:
        call: What else belongs to it.
        function: The function that does it, pickled.
        task: The task, pickled.
        sent: Files with their contents that this process may lack.
    """
    from distributed import get_worker

    worker = get_worker()
    if call.version != __version__:
        return Answer(
            error=InputError(f"worker {worker.address} has onnxprune {__version__}, not {call.version}", "update it")
        )
    with _busy, copies_in(Path(worker.local_directory, "onnxprune")), on_threads(worker.state.nthreads):
        for files, contents in sent:
            files.copy(contents)
        try:
            with deterministic_run(call.seconds, call.memory):
                meter = Meter(_Teller(worker, call).tell)
                with meter.stage("", ""):
                    return Answer(_open(call.run, function)(pickle.loads(task)))
        except FilesMissing as missing:
            return Answer(missing=missing.files)
        except OnnxPruneError as error:
            return Answer(error=error)


def close(run: str) -> None:
    """Lets go of what a function holds."""
    _opened.pop(run, None)


def itself(content: Any) -> Any:
    """What was sent, which each process that needs it fetches once."""
    return content


def version() -> str:
    """The version of onnxprune of this process."""
    return __version__


def _open(run: str, function: bytes) -> Callable[[Any], Any]:
    """The function of a run, which holds what earlier tasks have made."""
    if run not in _opened:
        reuse()
        _opened.clear()
        _opened[run] = pickle.loads(function)
    return _opened[run]


class _Teller:
    """Tells the run how far a task is, now and then."""

    def __init__(self, worker: Any, call: Call) -> None:
        self._worker, self._call = worker, call
        self._next = 0.0

    def tell(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.item and now >= self._next:
            self._next = now + SECONDS
            self._worker.log_event(self._call.run, (self._call.number, progress.item, progress.done / progress.total))
