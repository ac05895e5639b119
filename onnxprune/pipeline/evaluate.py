"""Evaluates the pruned model on held-out samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.model.model import Model
from onnxprune.pipeline.data import CalibrationSplit
from onnxprune.report.report import CalibrationReport, Share
from onnxprune.runtime.io_slices import WHOLE, IoSlices
from onnxprune.runtime.session import session
from onnxprune.verification.comparable_outputs import with_scores
from onnxprune.verification.output_error import relative_errors


def judge(original: Model, pruned: Model, data: CalibrationSplit, io_slices: IoSlices) -> CalibrationReport:
    """Evaluates the pruned model on held-out samples: relative squared error and, with labels, top-1 and top-5."""
    (error,) = relative_errors(original, [pruned], data.held.batches(), io_slices)
    labels = data.held.labels
    if labels is None:
        return CalibrationReport(data.held.count, data.held_out, error)
    pairs = [(model, slices.batches(data.held)) for model, slices in ((original, WHOLE), (pruned, io_slices))]
    before, after = ([batch[0] for batch in session(with_scores(m)).each(batches)] for m, batches in pairs)
    tops = [Share(_top(before, labels, k), _top(after, labels, k)) for k in (1, 5)]
    return CalibrationReport(data.held.count, data.held_out, error, *tops)


def _top(scores: Sequence[NDArray[Any]], labels: NDArray[Any], k: int) -> float | None:
    """Share of samples whose label is among the k largest; None where there is no score a class."""
    if not all(batch.ndim for batch in scores):
        return None
    flat = np.concatenate([batch.reshape(len(batch), -1) for batch in scores])
    wanted = np.asarray(labels).reshape(-1)
    if len(flat) != len(wanted) or flat.shape[1] <= k or wanted.dtype.kind not in "iu":
        return None
    best = np.argpartition(-flat, k, axis=1)[:, :k]
    return float((best == wanted[:, None]).any(axis=1).mean())
