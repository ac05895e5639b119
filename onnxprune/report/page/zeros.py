"""The weights that a pattern set to zero: how large those are that stay, and what the pattern looks like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.coupling.coupling import analyze
from onnxprune.graph.graph import Graph
from onnxprune.layers.real_values import real_values
from onnxprune.model.model import Model
from onnxprune.report.page.content import PageZeros

BINS, CORNER, MOST = 24, 32, 60
"""Bars of a histogram, rows and columns of the pattern that are shown, and how many weights."""


def page_zeros(model: Model, zeroed: Mapping[str, Mapping[str, Any]]) -> list[PageZeros]:
    """The zeroed weights of a model, as far as a page shows them, by their real values.

    Args:
        model: The result.
        zeroed: Entry of each weight in the plan.
    """
    ties = analyze(Graph(model.proto)).ties
    found: list[PageZeros] = []
    for value in ties.graph.constants():
        entry = zeroed.get(value.name)
        if entry is None or value.key != value.name or len(found) == MOST:
            continue
        array = real_values(model, value, ties.quantised, ties.packed).array()
        found.append(PageZeros(value.name, list(array.shape), str(entry["pattern"]), *_seen(array)))
    return found


def _seen(array: NDArray[Any]) -> tuple[float, list[int], list[str]]:
    """Share of zeros, histogram of the others by magnitude, and the first rows and columns as digits 0 and 1."""
    values = np.abs(array.astype(np.float64))
    values = values[np.isfinite(values) & (values > 0)]
    counts, _ = np.histogram(values, bins=BINS, range=(0.0, float(values.max(initial=1e-30))))
    corner = array.reshape(*(array.shape[:2] if array.ndim > 1 else (1, array.size)), -1)[:CORNER, :CORNER, 0]
    rows = ["".join("1" if value else "0" for value in row) for row in corner.tolist()]
    return float((array == 0).mean()), counts.tolist(), rows
