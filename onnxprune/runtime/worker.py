"""The worker process in which onnxruntime runs (started by `process`): reads pickled requests, writes pickled answers.

It imports little, so that it starts fast. A request is ``(number, memory, service, arguments)``, an answer
``(number, result, error message)`` with one of the last two None. Answers are written in the order of completion.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

_sessions: dict[int, Any] = {}


OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "allocate memory", "unable to allocate", "memoryerror")
"""Parts of the errors of onnxruntime, NumPy and Python, in small letters, that say that memory does not suffice."""

READY = -1
"""Number of the first answer, which belongs to no request and reports that onnxruntime is loaded."""


CPU = "CPUExecutionProvider"
"""The execution provider that onnxprune runs models with, except where times are measured for another one."""


def is_out_of_memory(message: str) -> bool:
    """Whether an error says that memory does not suffice: which is due to a limit and not to the model."""
    return any(words in message.lower() for words in OUT_OF_MEMORY)


def import_runtime() -> None:
    """Imports onnxruntime."""
    import onnxruntime

    assert onnxruntime


def load(
    handle: int,
    payload: bytes | str,
    optimize: bool,
    threads: int,
    data_folder: str | None,
    arena: bool,
    providers: Sequence[Any] = (CPU,),
    prepack: bool = True,
) -> tuple[list[str], list[str]]:
    """Creates a session and returns the names of its inputs and outputs; for the arguments see `process.Session`.

    onnxruntime's memory arena, its default, keeps up to twice the memory of the largest run.
    """
    import onnxruntime as ort

    options = _options(threads, data_folder, arena)
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    session = ort.InferenceSession(payload, options, providers=list(providers))
    _sessions[handle] = session
    return [i.name for i in session.get_inputs()], [o.name for o in session.get_outputs()]


def _options(threads: int, data_folder: str | None, arena: bool) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = arena
    options.intra_op_num_threads = threads
    if data_folder:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", data_folder)
    return options


def run(handle: int, names: Sequence[str] | None, feeds: dict[str, Any]) -> list[Any]:
    """Returns the outputs of a session for one batch of inputs."""
    session = _sessions[handle]
    names = names or [output.name for output in session.get_outputs()]
    result: list[Any] = session.run(names, feeds)
    # An output that is an input lies where the feed does, which some versions of onnxruntime do not keep.
    return [array.copy() if name in feeds else array for name, array in zip(names, result, strict=True)]


def race(
    handles: Sequence[int],
    names: Sequence[str],
    feeds: Sequence[dict[str, Any]],
    runs: int,
    fewest: int,
    seconds: float,
) -> list[list[tuple[float, float]]]:
    """Times alternating runs of several sessions; for the arguments see `process.Session.race`.

    Returns:
        Elapsed time and processor time of each run in seconds, for each session.
    """
    times: list[list[tuple[float, float]]] = [[] for _ in handles]
    end = time.perf_counter() + seconds
    for done in range(runs):
        if done >= fewest and time.perf_counter() > end:
            break
        for handle, inputs, spent in zip(handles, feeds, times, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            _sessions[handle].run(names, inputs)
            spent.append((time.perf_counter() - wall, time.process_time() - cpu))
    return times


def profile(
    payload: bytes | str,
    threads: int,
    data_folder: str | None,
    names: Sequence[str],
    feeds: dict[str, Any],
    runs: int,
    seconds: float,
) -> list[tuple[str, float]]:
    """Times the kernels of a model with onnxruntime's profiler.

    Returns:
        Name of each kernel's node, in order of execution, and its time in seconds: the mean of the faster half of its
        runs (the profiler counts whole microseconds). Times of kernels that run several times are added up.
    """
    import onnxruntime as ort

    with tempfile.TemporaryDirectory(prefix="onnxprune-", ignore_cleanup_errors=True) as folder:
        options = _options(threads, data_folder, arena=True)
        options.enable_profiling = True
        options.profile_file_prefix = os.path.join(folder, "profile")
        session = ort.InferenceSession(payload, options, providers=[CPU])
        end, done = time.perf_counter() + seconds, 0
        while done < runs and (done < 3 or time.perf_counter() < end):
            session.run(names, feeds)
            done += 1
        with open(session.end_profiling(), encoding="utf-8") as file:
            events = json.load(file)
    times: dict[str, list[int]] = {}
    for event in events:
        if event["name"].endswith(_KERNEL):
            times.setdefault(event["name"].removesuffix(_KERNEL), []).append(event["dur"])
    found = []
    for name, spent in times.items():
        fastest = sorted(spent)[: (len(spent) + 1) // 2]
        found.append((name, sum(fastest) / len(fastest) * len(spent) / done / 1e6))
    return found


_KERNEL = "_kernel_time"


def release(handle: int) -> None:
    """Releases a session."""
    _sessions.pop(handle, None)


_SERVICES: dict[str, Callable[..., Any]] = {
    "import": import_runtime,
    "load": load,
    "run": run,
    "race": race,
    "profile": profile,
    "release": release,
}


def serve() -> None:
    """Answers requests until the pipe is closed."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # output of libraries must not be mixed with the answers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it and stops this process by closing the pipe
    _prefer_for_oom_killer()
    lock = threading.Lock()
    _answer(answers, lock, READY, "import", ())
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        while True:
            try:
                number, memory, service, arguments = pickle.load(sys.stdin.buffer)
            except EOFError:
                os._exit(0)  # the parent has ended or stopped waiting, so running requests are abandoned
            _limit_memory(memory)
            pool.submit(_answer, answers, lock, number, service, arguments)


def _answer(stream: BinaryIO, lock: threading.Lock, number: int, service: str, arguments: tuple[Any, ...]) -> None:
    try:
        result = _SERVICES[service](*arguments)
        content = pickle.dumps((number, result, None), protocol=5)
    except Exception as error:
        content = pickle.dumps((number, None, first_line(error)), protocol=5)
    with lock:
        stream.write(content)
        stream.flush()


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _limit_memory(size: int) -> None:
    """Limits the private memory of this process (without mapped files), if the system supports it."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (size if hard < 0 else min(size, hard), hard))


def _prefer_for_oom_killer() -> None:
    """Makes Linux's out-of-memory killer prefer this process to all others."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
