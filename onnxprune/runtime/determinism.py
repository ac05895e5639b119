"""Conditions of a run: limits on onnxruntime, and sums that do not depend on the number of threads."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from threadpoolctl import ThreadpoolController

from onnxprune.common.time_limit import time_limit
from onnxprune.errors import InputError, RunError
from onnxprune.options import Resources
from onnxprune.runtime.limits import limited


class _SingleThreadedBlas:
    """Runs BLAS on one thread from the first call of `begin` to the last one of `end`.

    Most BLAS libraries have one number of threads for the whole process, so runs that overlap in several threads
    count: the first one sets it, and the last one to end restores what was there before. Libraries that count threads
    for each calling thread (MKL, OpenBLAS over OpenMP) are set and restored in every run.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active = 0
        self._before: dict[str, int] = {}

    def begin(self) -> dict[str, int]:
        """Sets one thread; the numbers of threads before, by library, for `end`."""
        with self._lock:
            libraries = _blas_libraries()
            before = {library.filepath: library.num_threads for library in libraries}
            if not self._active:
                self._before = before
            self._active += 1
            for library in libraries:
                _set_threads(library, 1)
        return before

    def end(self, before: Mapping[str, int]) -> None:
        """Restores numbers of threads, unless another run still needs one thread."""
        with self._lock:
            self._active -= 1
            for library in _blas_libraries():
                if _counts_by_thread(library):
                    _set_threads(library, before.get(library.filepath, 1))
                elif not self._active and library.filepath in self._before:
                    _set_threads(library, self._before[library.filepath])


def _blas_libraries() -> list[Any]:
    found: list[Any] = ThreadpoolController().select(user_api="blas").lib_controllers
    return found


def _set_threads(library: Any, count: int) -> None:
    """Sets the number of threads, also where another thread than this one was the last to set it.

    Recent versions of threadpoolctl (3.8, say) ignore such a call for OpenBLAS: the run would silently use several.
    """
    getattr(library, "_real_set_num_threads", library.set_num_threads)(count)


def _counts_by_thread(library: Any) -> bool:
    return library.internal_api == "mkl" or (
        library.internal_api == "openblas" and getattr(library, "threading_layer", None) == "openmp"
    )


_single_threaded_blas = _SingleThreadedBlas()


def single_threaded_blas() -> None:
    """Sets BLAS to one thread for calls from this thread, where a library counts threads for each calling thread."""
    for library in filter(_counts_by_thread, _blas_libraries()):
        _set_threads(library, 1)


@contextlib.contextmanager
def limited_run(resources: Resources) -> Iterator[None]:
    """A `deterministic_run` within the limits of a run on its own time too."""
    with time_limit(resources.time_limit), deterministic_run(resources.run_seconds, resources.run_memory):
        yield


@contextlib.contextmanager
def deterministic_run(seconds: float | None = None, memory: int | None = None) -> Iterator[None]:
    """Within the block, BLAS runs on one thread, and onnxruntime within limits.

    BLAS splits sums between its threads, so results depend on how many there are: on the machine, and on
    ``OPENBLAS_NUM_THREADS``. Decisions made from such sums would differ from one machine to the next. The matrices
    here are small enough that one thread costs little, while several that wait for each other can cost a lot.

    Args:
        seconds: The longest that one load or run of a model in onnxruntime may take.
        memory: Bytes that onnxruntime may hold.

    Raises:
        InputError: In place of a `RunError` that nothing inside the block handled.
    """
    before = _single_threaded_blas.begin()
    try:
        with limited(seconds, memory):
            yield
    except RunError as error:
        raise InputError(f"onnxruntime does not run the model: {error}", error.hint) from error
    finally:
        _single_threaded_blas.end(before)
