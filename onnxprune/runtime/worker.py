"""The process that onnxruntime runs in, as `isolation` starts it: pickled requests in, pickled answers out.

It imports little, so that it starts fast. A request is ``(number, memory, what, arguments)``, an answer
``(number, result, fault)`` with one of the last two None. Answers come as they are ready, not in the order of requests.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

_sessions: dict[int, Any] = {}


READY = -1
"""Number of the answer that comes first, to no request: onnxruntime is there."""


def ready() -> None:
    """Imports onnxruntime, which takes a moment."""
    import onnxruntime

    assert onnxruntime


def load(
    handle: int, payload: bytes | str, optimize: bool, threads: int, data_folder: str | None, arena: bool
) -> tuple[list[str], list[str]]:
    """Makes a session; the names of its inputs and outputs.

    An arena, as onnxruntime has by default, keeps the memory of the largest run for good, up to twice that.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = arena
    options.intra_op_num_threads = threads
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if data_folder:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", data_folder)
    session = ort.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
    _sessions[handle] = session
    return [i.name for i in session.get_inputs()], [o.name for o in session.get_outputs()]


def run(handle: int, names: Sequence[str] | None, feeds: dict[str, Any]) -> list[Any]:
    """The outputs of a session for some inputs."""
    result: list[Any] = _sessions[handle].run(names, feeds)
    return result


def race(handles: Sequence[int], names: Sequence[str], feeds: Sequence[dict[str, Any]], runs: int) -> list[list[float]]:
    """Seconds of each run of each session, taken in turns."""
    times: list[list[float]] = [[] for _ in handles]
    for _ in range(runs):
        for handle, inputs, spent in zip(handles, feeds, times, strict=True):
            start = time.perf_counter()
            _sessions[handle].run(names, inputs)
            spent.append(time.perf_counter() - start)
    return times


def forget(handle: int) -> None:
    """Lets go of a session."""
    _sessions.pop(handle, None)


_SERVICES: dict[str, Callable[..., Any]] = {"ready": ready, "load": load, "run": run, "race": race, "forget": forget}


def serve() -> None:
    """Answers requests until there is nobody left to ask."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not get between the answers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the program gets it too, and ends this process by closing the pipe
    _offer_to_the_killer()
    lock = threading.Lock()
    _answer(answers, lock, READY, "ready", ())
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        while True:
            try:
                number, memory, what, arguments = pickle.load(sys.stdin.buffer)
            except EOFError:
                os._exit(0)  # whatever still runs, runs for nobody
            _limit_memory(memory)
            pool.submit(_answer, answers, lock, number, what, arguments)


def _answer(stream: BinaryIO, lock: threading.Lock, number: int, what: str, arguments: tuple[Any, ...]) -> None:
    try:
        result = _SERVICES[what](*arguments)
        content = pickle.dumps((number, result, None), protocol=5)
    except Exception as error:
        content = pickle.dumps((number, None, reason(error)), protocol=5)
    with lock:
        stream.write(content)
        stream.flush()


def reason(error: Exception) -> str:
    """The first line of a message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _limit_memory(size: int) -> None:
    """Bounds what this process may hold in memory of its own (mapped files do not count), where the system can."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (size if hard < 0 else min(size, hard), hard))


def _offer_to_the_killer() -> None:
    """Where memory runs out all the same, Linux is to end this process and not one that somebody works in."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
