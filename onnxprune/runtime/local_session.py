"""Sessions of pieces of models in this process."""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from onnxprune.common.time_limit import starting_threads
from onnxprune.errors import RunError
from onnxprune.runtime import worker
from onnxprune.runtime.limits import max_ahead

IN_FLIGHT = 2**29
"""Maximum size in bytes of the outputs of concurrent batches in this process."""

_handles = itertools.count()


class LocalSession:
    """A model loaded in this process, without the cost of transferring its outputs.

    The outputs of a piece of a model are far larger than those of the whole model; transferring them can take longer
    than computing them. Pieces are run in this process after the whole model has run in the worker without a crash.

    Attributes:
        inputs: Names of the inputs.
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
        """See `Session`."""
        self._handle = next(_handles)
        with _translate_errors():
            self.inputs, _ = worker.load(self._handle, payload, optimize, threads, data_folder, arena=arena)
        weakref.finalize(self, worker.release, self._handle)

    def each(
        self,
        batches: Iterable[Mapping[str, Any]],
        names: Sequence[str] | None = None,
        *,
        ahead: int | None = None,
        memory: int | None = None,
    ) -> Iterator[list[Any]]:
        """Yields the outputs of `run` for each batch, in order.

        Args:
            batches: Inputs by name, one mapping per batch.
            names: Names of the outputs; None for all.
            ahead: Maximum number of batches that are run ahead, by default `max_ahead`; fewer if their outputs exceed
                `memory` bytes.
            memory: By default, and at most, `IN_FLIGHT`.
        """
        room = IN_FLIGHT if memory is None else min(IN_FLIGHT, memory)
        ahead = max_ahead() if ahead is None else ahead
        with ThreadPoolExecutor(ahead) as pool:
            pending: deque[Future[list[Any]]] = deque()
            most = min(ahead, 2)  # until the size of the outputs is known
            for feeds in batches:
                with starting_threads():
                    pending.append(pool.submit(self.run, names, feeds))
                while len(pending) > most:
                    outputs = pending.popleft().result()
                    most = max(1, min(ahead, room // max(sum(getattr(a, "nbytes", 0) for a in outputs), 1)))
                    yield outputs
            while pending:
                yield pending.popleft().result()

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Any]:
        """See `Session.run`."""
        with _translate_errors():
            return worker.run(self._handle, names, dict(feeds))


@contextlib.contextmanager
def _translate_errors() -> Iterator[None]:
    """Converts exceptions of onnxruntime to `RunError`."""
    try:
        yield
    except Exception as error:
        raise RunError(worker.first_line(error)) from error
