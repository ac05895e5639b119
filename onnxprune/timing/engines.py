"""What runs a model and tells how long it took: onnxruntime here, or anything that is given a model file."""

from __future__ import annotations

import platform
import re
import shlex
import shutil
import subprocess
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from onnxprune.common.importing import import_object
from onnxprune.engines.profiles import Timer, is_function_name
from onnxprune.errors import InputError, RunError, option
from onnxprune.model.model import Model
from onnxprune.model.save import save
from onnxprune.runtime.io_slices import WHOLE, IoSlices
from onnxprune.runtime.process import Session
from onnxprune.runtime.session import Feeds, runnable
from onnxprune.runtime.worker import CPU
from onnxprune.verification.latency import QUANTILE

PAIRS, SECONDS = 1000, 0.4
"""Runs of a copy and the original at most, and seconds after which no further pair begins."""
FEWEST = 5
PROFILED = 30
"""Runs of a copy under the profiler at most."""


class Engine(Protocol):
    """Times a sliced copy of a model against the original.

    Attributes:
        name: Engine, version and how it runs, for people.
    """

    name: str

    def milliseconds(self) -> float:
        """Time of the original: the median of what was measured with copies, or measured now."""
        ...

    def ratio(self, copy: Model, io_slices: IoSlices, seconds: float = SECONDS) -> float:
        """Time of a copy over that of the original, measured in alternation.

        Args:
            copy: The copy.
            io_slices: What its inputs and outputs lost.
            seconds: Time after which no further pair of runs begins.

        Raises:
            RunError: The copy does not run.
        """
        ...

    def kernels(self, copy: Model, io_slices: IoSlices) -> list[tuple[str, float]]:
        """Name of each kernel's node and its time in milliseconds; empty where the engine does not tell."""
        ...


def device_name() -> str:
    """The processor of this machine, for people."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        return platform.processor() or platform.machine()


class OnnxRuntime:
    """onnxruntime on this machine. With one thread on the CPU times are processor times."""

    def __init__(
        self,
        original: Model,
        feeds: Feeds,
        names: Sequence[str],
        *,
        threads: int = 1,
        providers: Sequence[Any] = (CPU,),
    ) -> None:
        """Loads the original.

        Args:
            original: The model.
            feeds: Inputs to run it with.
            names: Names of its outputs.
            threads: Threads for one operator; 0 for onnxruntime's default.
            providers: Execution providers, by name or with options.

        Raises:
            RunError: onnxruntime rejects the model or a provider.
        """
        import onnxruntime

        self._feeds, self._outputs, self._threads, self._providers = feeds, list(names), threads, tuple(providers)
        self._on_cpu = self._providers == (CPU,)
        with runnable(original) as ready:
            self._original = ready.session(threads=threads, arena=True, providers=self._providers)
        first = self._providers[0] if isinstance(self._providers[0], str) else self._providers[0][0]
        self.name = f"onnxruntime {onnxruntime.__version__}, {first}, " + (
            f"{threads} thread{'s' * (threads != 1)}" if threads else "its own number of threads"
        )
        self._times: list[float] = []

    def milliseconds(self) -> float:
        """See `Engine`."""
        if not self._times:
            self._race(self._original, WHOLE, SECONDS)
        return 1e3 * float(np.median(self._times))

    def ratio(self, copy: Model, io_slices: IoSlices, seconds: float = SECONDS) -> float:
        """See `Engine`."""
        with runnable(copy) as ready:
            session = ready.session(threads=self._threads, arena=True, providers=self._providers)
        before, after = self._race(session, io_slices, seconds)
        return after / before

    def _race(self, other: Session, io_slices: IoSlices, seconds: float) -> tuple[float, float]:
        """Seconds of the original and of another session, in alternation; those of the original are kept."""
        both, outputs = [self._feeds, io_slices.feeds(self._feeds)], io_slices.left(self._outputs)
        self._original.race(other, outputs, both, 1)  # the first run of a session allocates its memory
        times = self._original.race(other, outputs, both, PAIRS, fewest=FEWEST, seconds=seconds)
        measured = [np.quantile(np.array(spent), QUANTILE, axis=0) for spent in times]
        on_processor = self._threads == 1 and self._on_cpu and measured[0][1] > 0  # some clocks are too coarse
        before, after = (float(found[int(on_processor)]) for found in measured)
        self._times.append(before)
        return before, after

    def kernels(self, copy: Model, io_slices: IoSlices) -> list[tuple[str, float]]:
        """See `Engine`."""
        if not self._on_cpu:
            return []  # what an accelerator works on while the profiler's kernel returns is not told
        with runnable(copy) as ready:
            outputs, feeds = io_slices.left(self._outputs), io_slices.feeds(self._feeds)
            found = ready.profile(outputs, feeds, threads=self._threads, runs=PROFILED, seconds=SECONDS)
        return [(name, 1e3 * seconds) for name, seconds in found]


class External:
    """Anything that takes the path of a model file and tells its time in milliseconds.

    Attributes:
        name: For people.
    """

    def __init__(self, original: Model, timer: Callable[[str], float], name: str) -> None:
        """Writes the original.

        Args:
            original: The model.
            timer: From the path of a model file to milliseconds.
            name: For people.
        """
        self.name, self._time = name, timer
        self._folder = Path(tempfile.mkdtemp(prefix="onnxprune-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._path = self._write(original, "original")
        self._times: list[float] = []

    def milliseconds(self) -> float:
        """See `Engine`."""
        if not self._times:
            self._times.append(self._time(self._path))
        return float(np.median(self._times))

    def ratio(self, copy: Model, io_slices: IoSlices, seconds: float = SECONDS) -> float:
        """See `Engine`."""
        path = self._write(copy, "copy")
        end = time.perf_counter() + seconds
        pairs: list[tuple[float, float]] = []
        while not pairs or time.perf_counter() < end:
            pairs.append((self._time(self._path), self._time(path)))
        before, after = (float(np.median(times)) for times in zip(*pairs, strict=True))
        self._times.append(before)
        return after / before

    def kernels(self, copy: Model, io_slices: IoSlices) -> list[tuple[str, float]]:
        """See `Engine`."""
        return []

    def _write(self, model: Model, name: str) -> str:
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        path = folder / "model.onnx"
        save(model, path)
        return str(path)


def timer(engine: Timer) -> tuple[Callable[[str], float], str]:
    """From the path of a model file to milliseconds, and the name of that.

    Raises:
        InputError: The command is empty, or the function cannot be imported.
    """
    if isinstance(engine, str) and not is_function_name(engine):
        return command(engine), engine
    function = import_object(engine) if isinstance(engine, str) else engine
    name = engine if isinstance(engine, str) else str(getattr(engine, "__name__", type(engine).__name__))
    return lambda path: checked(function(path), name), name


def command(line: str) -> Callable[[str], float]:
    """A command line that is given a model file, in place of ``{model}`` or at its end, and prints milliseconds.

    The last number that it prints counts.
    """
    words = shlex.split(line)
    if not words:
        raise InputError("the command that times models is empty", f"say, {option('engine', 'my_timer {model}')}")

    def time(path: str) -> float:
        called = [word.replace("{model}", path) for word in words]
        called += [path] if called == words else []
        try:
            done = subprocess.run(called, capture_output=True, text=True, check=False)
        except OSError as error:
            raise InputError(f"{words[0]} cannot be run: {error.strerror}") from None
        said = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", done.stdout)  # 1,234.5
        numbers = re.findall(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", said)
        if done.returncode or not numbers:
            said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
            raise RunError(f"{words[0]} ended with exit status {done.returncode} and printed no time: {said[:200]}")
        return checked(float(numbers[-1]), words[0])

    return time


def checked(value: object, source: str) -> float:
    """A time in milliseconds.

    Raises:
        RunError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)) or not 0 < value < 1e12:
        raise RunError(f"{source} must give milliseconds, not {value!r}"[:200])
    return float(value)
