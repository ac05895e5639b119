"""What holds during a run: limits on onnxruntime, and sums that do not depend on the number of threads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from threadpoolctl import threadpool_limits

from onnxprune.errors import InputError, RunError
from onnxprune.runtime.process import limited


@contextlib.contextmanager
def steady(seconds: float | None = None, memory: int | None = None) -> Iterator[None]:
    """Within the block, matrix products and factorisations of numpy run on one thread.

    BLAS splits sums between its threads, so what it finds depends on how many there are: on the machine, and on who
    set ``OPENBLAS_NUM_THREADS``. What was decided by such sums would differ from one machine to the next. The matrices
    here are small enough that one thread costs little, while several that wait for each other can cost a lot.

    Args:
        seconds: The longest that one load or run of a model in onnxruntime may take.
        memory: Bytes that onnxruntime may hold.

    Raises:
        InputError: In place of a `RunError` that nobody inside could make anything of.
    """
    with threadpool_limits(1, user_api="blas"), limited(seconds, memory):
        try:
            yield
        except RunError as error:
            raise InputError(f"onnxruntime does not run the model: {error}", error.hint) from error
