"""Whether calibration samples look like what the model was trained on, whatever their labels.

A BatchNormalization keeps the mean and the variance that its input had in training. Where those of the samples are far
from them at the first one, the samples are hardly preprocessed as in training.

Where BatchNormalization nodes were merged into the layers before them, the biases of these layers still are of the size
of their other features in training: where samples are much smaller, the features hardly vary beside the biases, and
where they are much larger, without the biases, features after a ReLU are positive as a rule. So samples are compared
with the same samples at other scales. A shift of the samples, or another order of the channels, is not seen.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration import Samples
from onnxprune.calibration.plausibility import Plausibility
from onnxprune.cost.measure import counted_shapes, measure
from onnxprune.errors import RunError
from onnxprune.graph.graph import Graph
from onnxprune.importance.untrained import untrained
from onnxprune.layers.batch_norm import normalizations
from onnxprune.model.inputs import fed_inputs
from onnxprune.model.model import Model
from onnxprune.pipeline.data import CalibrationSplit
from onnxprune.repair.batch_norm import channel_statistics
from onnxprune.report.report import ScaleMismatch, TrainingMismatch
from onnxprune.runtime.partition import CannotCut
from onnxprune.runtime.session import local_session
from onnxprune.runtime.staged_run import StagedRun

FEWEST = 8
"""Samples from which on their statistics are compared with those of training."""
SCALES = tuple(4.0**power for power in range(-4, 5))
"""Factors at which samples are compared with themselves."""
MOST_SCALED, FEWEST_SCALED = 16, 4
"""How many samples, at most and at least."""
MACS, MAX_MACS = 10_000_000_000, 200_000_000_000
"""Multiply-accumulates that the comparison may take; with the fewest samples it may take the second."""
MAX_FEATURES = 64_000_000
"""No comparison where a sample has more features."""


def training_mismatch(original: Model, data: CalibrationSplit) -> TrainingMismatch | None:
    """How far the samples are from training at the first BatchNormalization; None where none tells."""
    nodes, samples = normalizations(Graph(original.proto)), _looked_at(data)
    if not nodes or samples is None:
        return None
    try:
        with StagedRun(original, samples, [[nodes[0].x.name]]) as run:
            seen = run.step()[nodes[0].x.name]
            if any(array.ndim < 2 for array in seen):
                return None
            mean, variance = channel_statistics(seen)
    except CannotCut:
        return None
    trained, spread = (original.array(t).astype(np.float64) for t in (nodes[0].mean, nodes[0].variance))
    spread = np.maximum(spread, 1e-12)
    if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
        return None
    divergence = 0.5 * (variance / spread + (mean - trained) ** 2 / spread - 1 - np.log(variance / spread))
    return TrainingMismatch(nodes[0].name, float(np.median(divergence)))


def scale_mismatch(original: Model, data: CalibrationSplit) -> ScaleMismatch | None:
    """The scale of the samples that suits the weights best; None where it cannot be told.

    That is where a BatchNormalization tells more, the model has another input besides one of floats, no layer, weights
    that look as they were drawn, or the comparison costs too much.
    """
    inputs, samples = fed_inputs(original.proto.graph), _looked_at(data)
    if samples is None or len(inputs) != 1 or normalizations(Graph(original.proto)):
        return None
    name = inputs[0].name
    try:
        plausibility = Plausibility(original, local_session)
        few = _few(original, plausibility, samples.silent().in_batches(1))
        if not few or few[0][name].dtype.kind != "f":
            return None
        found = {
            scale: plausibility.deviation([{name: feeds[name] * feeds[name].dtype.type(scale)} for feeds in few])
            for scale in SCALES
        }
    except RunError:
        return None
    best = min(found, key=lambda scale: (found[scale], abs(np.log(scale))))
    if found[best] <= 0 or (best != 1.0 and untrained(original).looks_so):
        return None
    return ScaleMismatch(best, found[1.0], found[best])


def _few(model: Model, plausibility: Plausibility, samples: Samples) -> list[Mapping[str, NDArray[Any]]]:
    """The first samples, as many as the comparison may take; none where too few."""
    first = next(samples.batches())
    given = {name: array.shape for name, array in first.items()}
    shapes, macs = counted_shapes(model, given), measure(model, given).macs
    size = samples.size(first)
    features = sum(int(np.prod(shapes.get(name, ()))) for name in plausibility.features)
    if macs is None or features > MAX_FEATURES * size or macs * len(SCALES) * FEWEST_SCALED > MAX_MACS * size:
        return []
    count = min(MOST_SCALED, max(FEWEST_SCALED, MACS * size // (len(SCALES) * max(macs, 1))))
    return list(itertools.islice(samples.batches(), -(-count // size)))


def _looked_at(data: CalibrationSplit) -> Samples | None:
    """The samples to look at: those held out, if there are enough; None where there are too few."""
    for samples in (data.held, data.fit):
        if isinstance(samples, Samples) and (samples.count is None or samples.count >= FEWEST):
            return samples
    return None
