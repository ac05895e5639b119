"""Whether several samples can be run at once: a declared batch axis need not work, or may mix the samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import RunError
from onnxprune.runtime.process import Session
from onnxprune.runtime.session import Feeds

MAX_ERROR = 0.05
"""Largest relative difference of outputs that counts as rounding. Dynamic quantisation, whose scales depend on all
samples of a batch, stays below it."""


def why_not_joined(session: Session, joined: Feeds, singles: Sequence[Feeds]) -> str | None:
    """Compares a batch of samples with runs of each sample by itself.

    Args:
        session: The model.
        joined: Several samples.
        singles: The same samples, one by one.

    Returns:
        Why the samples must be run one by one; None if they need not, or cannot be either.

    Raises:
        RunError: onnxruntime crashes or exceeds a limit.
    """
    failure: RunError | None = None
    try:
        together = session.run(None, joined)
    except RunError as error:
        if error.fatal:
            raise
        failure = error
    try:
        apart = [session.run(None, feeds) for feeds in singles]
    except RunError as error:
        if error.fatal:
            raise
        return None
    if failure is not None:
        return f"a batch of {len(singles)} fails: {failure.message}"
    for name, output, parts in zip(session.outputs, together, zip(*apart, strict=True), strict=True):
        if not _agree(output, parts):
            return f"a batch of {len(singles)} has another output '{name}' than its samples"
    return None


def _agree(joined: Any, parts: Sequence[Any]) -> bool:
    """Whether an output of a batch is that of its samples, joined along any axis, or the same constant for all."""
    if not all(isinstance(array, np.ndarray) for array in (joined, *parts)):
        return True  # sequences and maps
    if all(part.shape == joined.shape and _near(joined, part) for part in parts):
        return True
    return any(
        _near(joined, np.concatenate(parts, axis=axis))
        for axis in range(joined.ndim)
        if _lengths_fit([part.shape for part in parts], joined.shape, axis)
    )


def _lengths_fit(parts: Sequence[tuple[int, ...]], joined: tuple[int, ...], axis: int) -> bool:
    """Whether shapes, joined along an axis, give another one."""
    if any(len(shape) != len(joined) for shape in parts):
        return False
    others = {(*shape[:axis], *shape[axis + 1 :]) for shape in (*parts, joined)}
    return len(others) == 1 and sum(shape[axis] for shape in parts) == joined[axis]


def _near(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Whether floats differ by rounding only; integers may be class ids, whose difference means nothing."""
    if a.dtype.kind != "f":
        return True
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return False
    x, y = (np.where(np.isfinite(array), array, 0).astype(np.float64) for array in (a, b))
    return float(np.linalg.norm(x - y)) <= MAX_ERROR * float(np.linalg.norm(y))
