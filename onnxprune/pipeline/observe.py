"""Stages that run the model on data before anything is removed: moments and damage curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from onnxprune.cost.measure import measure
from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Group
from onnxprune.errors import InputError
from onnxprune.importance import damage_curves
from onnxprune.importance.magnitude import Scores
from onnxprune.importance.obs import Curve
from onnxprune.layers.find import convolutional, linear_layers
from onnxprune.model.model import Model
from onnxprune.options import FROM_DATA, Options
from onnxprune.pipeline.data import CalibrationSplit, SyntheticFeeds, _divided, _First, _Synthetic
from onnxprune.repair.batch_norm import aligned
from onnxprune.runtime.io_slices import WHOLE, IoSlices
from onnxprune.runtime.partition import CannotCut
from onnxprune.statistics.moments import Batches, Moments, observe
from onnxprune.statistics.moments_file import read, write

MEASURED_SHARE, MEASURED, MEASURED_MACS = 0.25, (32, 96), 1e12
"""Share of the samples to fit on that the heights of damage curves are measured with, how many at least and at most,
and the multiplications that all these runs together may take."""


@contextmanager
def scoring_context(
    model: Model, data: CalibrationSplit | None, options: Options, synthetic_feeds: SyntheticFeeds
) -> Iterator[tuple[Model, CalibrationSplit | None, Options]]:
    """What scores are read from: model, data and options; without data made-up inputs take their place.

    Convolutions look at small patches, which made-up inputs get right; models that consist mainly of matrix products
    are scored by their weights alone, see `repair.datafree`. Normalizations have, while this lasts, the statistics
    of what is made up.

    Raises:
        InputError: Inputs are to be made, and cannot be: a shape is not known, say.
    """
    if data is not None or options.stats is not None or options.criterion not in FROM_DATA:
        yield model, data, options
        return
    if not convolutional(model):
        yield model, None, replace(options, importance="l2")
        return
    made = _Synthetic(synthetic_feeds())
    with aligned(model, model.copy(), made) as reference:
        yield reference, CalibrationSplit(made, made), options


def moments(
    model: Model,
    coupling: Coupling,
    data: CalibrationSplit | None,
    options: Options,
    io_slices: IoSlices = WHOLE,
    *,
    first: bool = True,
) -> dict[str, Moments]:
    """Moments of what the product layers read, on the samples that damage is not measured with.

    Args:
        model: The model to look at.
        coupling: Its analysis.
        data: Calibration data; None where there are statistics only.
        options: Where `stats` names a file that exists, the moments are those in it; one that does not is written.
        io_slices: What inputs of the model lost already.
        first: Whether the model is the one that was given, which statistics in a file are of.
    """
    layers = linear_layers(coupling.graph)
    stored = Path(options.stats) if options.stats is not None and first else None
    if stored is not None and stored.exists():
        return read(stored, model, layers)
    assert data is not None
    seen, _ = _divided(data.fit, MEASURED_SHARE)
    try:
        found = observe(
            model,
            layers,
            io_slices.batches(seen),
            count=sum(1 for _ in seen.batches()),
            seed=options.seed,
            memory=options.memory,
        )
    except CannotCut as e:
        raise InputError(f"the model cannot be run in pieces: {e}", "leave --calib away") from e
    if stored is not None:
        write(stored, model, layers, found)
        return read(stored, model, layers)
    return found


def curves(
    model: Model,
    coupling: Coupling,
    groups: Sequence[Group],
    data: CalibrationSplit | None,
    seen: Mapping[str, Moments],
    fallback: Sequence[Scores],
    options: Options,
    io_slices: IoSlices = WHOLE,
) -> list[Curve]:
    """The damage curve of each group, see `damage.curves`; heights only where groups are weighed against each other."""
    layers = linear_layers(coupling.graph)
    keep = [min(options.min_channels, g.units) for g in groups]
    batches: Batches = ()
    if data is not None and (options.target or options.across):
        batches = fresh_samples(model, data, options, io_slices, runs=len(groups) * len(damage_curves.PROBES))
    return damage_curves.curves(model, coupling, groups, layers, seen, fallback, keep, batches, memory=options.memory)


def fresh_samples(model: Model, data: CalibrationSplit, options: Options, io_slices: IoSlices, *, runs: int) -> Batches:
    """Samples that the moments know nothing of, few enough to run the model on them so many times."""
    _, left = _divided(data.fit, MEASURED_SHARE)
    macs = measure(model, io_slices.shapes(options.input_shapes)).macs or 0
    enough = np.clip(MEASURED_MACS / max(macs * runs, 1), *MEASURED)
    return io_slices.batches(_First(left, int(enough)))
