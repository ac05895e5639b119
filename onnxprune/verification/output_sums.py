"""Sums over batches of the outputs of two models: how far they are apart, and how often they choose the same class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import InputError
from onnxprune.verification.drift import Drift, is_classes, is_numeric


class OutputSums:
    """Sums over batches of one output, from which drift, cosine and agreement are computed."""

    def __init__(self, name: str, *, classified: bool, axis: int | None = None) -> None:
        """Begins without a sample.

        Args:
            name: Name of the output.
            classified: Whether it chooses classes, whose agreement is asked for.
            axis: Axis of its classes; None for the likeliest.
        """
        self._name, self._classified, self._axis, self._comparable = name, classified, axis, True
        self._seen = False
        self._gap = self._before = self._after = self._both = 0.0
        self._same = self._classes = 0
        self._furthest = 0.0
        self._equal = self._entries = 0
        self._choices = False
        self._numbers = self._finite = 0

    def add(self, a: NDArray[Any], b: NDArray[Any]) -> None:
        """Adds the outputs of both models for a batch."""
        self._comparable &= a.shape == b.shape
        if not self._comparable:
            return
        if self._classified:
            same = chosen_classes(a, self._name, self._axis) == chosen_classes(b, self._name, self._axis)
            self._same, self._classes = self._same + int(np.sum(same)), self._classes + same.size
        if is_classes(a) and is_classes(b):
            self._choices, self._equal, self._entries = True, self._equal + int((a == b).sum()), self._entries + a.size
        if is_numeric(a) and is_numeric(b):
            self._seen = True
            x, y = _flat(a), _flat(b)
            finite = np.isfinite(x)
            self._comparable &= np.array_equal(x[~finite], y[~finite], equal_nan=True) and np.isfinite(y[finite]).all()
            self._numbers, self._finite = self._numbers + x.size, self._finite + int(finite.sum())
            x, y = x[finite], y[finite]
            self._gap += float(np.square(x - y).sum())
            self._furthest = max(self._furthest, float(np.abs(x - y).max(initial=0.0)))
            self._before, self._after = self._before + float(x @ x), self._after + float(y @ y)
            self._both += float(x @ y)

    def drift(self) -> Drift:
        """Returns how far the outputs are apart over all batches."""
        if self._comparable and self._choices:
            return Drift(None, None, None, equal=self._equal / self._entries if self._entries else 1.0)
        found = self.measures()
        if not self._comparable or not self._seen or self._unknown:
            return Drift(None, None, None)
        return Drift(self._furthest, found["drift"], found["cosine"])

    @property
    def _unknown(self) -> bool:
        """Whether no number of all is finite, so that there is nothing to compare."""
        return self._numbers > 0 and not self._finite

    def measures(self) -> dict[str, float | None]:
        """Returns drift, cosine and agreement; None for a measure that is not defined."""
        if not self._comparable or self._unknown:
            return {"drift": None, "cosine": None, "agreement": None}
        gap, before, after = self._gap, self._before, self._after
        drift = float(np.sqrt(gap / before)) if before else (None if gap else 0.0)
        cosine = max(-1.0, min(1.0, self._both / float(np.sqrt(before * after)))) if before and after else None
        return {
            "drift": drift,
            "cosine": 1.0 if gap == 0 else cosine,
            "agreement": self._same / self._classes if self._classes else None,
        }


def chosen_classes(array: NDArray[Any], name: str, axis: int | None = None) -> NDArray[Any]:
    """Returns the classes that an output chooses: the index of the largest score, or values that are not scores.

    Args:
        array: Values of the output, samples along its first axis.
        name: Name of the output.
        axis: Axis of the classes; None for the likeliest.

    Raises:
        InputError: There is only one score per sample.
    """
    if array.dtype.kind in "biuOUS":
        return array
    result: NDArray[Any] = array.argmax(axis=class_axis(array.shape, name, axis))
    return result


def class_axis_if_any(dims: Sequence[int | None]) -> int | None:
    """Returns the class axis of an output: the last axis, or, for images, the shorter one of axis 1 and the last axis.

    An axis that is the only one longer than 1 is that of the classes, wherever it is: a pooled map has axes of 1 behind
    them. None where there is only one score per sample.
    """
    longer = [axis for axis, length in enumerate(dims) if axis and length != 1]
    if len(longer) == 1:
        return longer[0]
    first, last = (dims[1], dims[-1]) if len(dims) >= 4 else (None, None)
    axis = 1 if first is not None and last is not None and first < last else len(dims) - 1
    return axis if dims and dims[axis] != 1 else None


def class_axis(dims: Sequence[int | None], name: str, known: int | None = None) -> int:
    """Returns the class axis of an output that a gate on agreement compares.

    Args:
        dims: Lengths of its axes.
        name: Name of the output.
        known: The axis where the graph tells it; None for the likeliest.

    Raises:
        InputError: There is only one score per sample.
    """
    axis = class_axis_if_any(dims) if known is None else known % len(dims)
    if axis is None or dims[axis] == 1:
        raise InputError(
            f"gate agreement: output {name!r} gives one score a sample, so nothing is chosen by it",
            "ask for drift or cosine",
        )
    return axis


def _flat(array: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the flattened numbers as float64, complex numbers as two each."""
    if array.dtype.kind == "c":
        return array.astype(np.complex128).ravel().view(np.float64)
    return array.astype(np.float64).ravel()
