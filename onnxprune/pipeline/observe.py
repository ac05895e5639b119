"""Stages that run the model on data before anything is removed: moments and damage curves."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from onnxprune.calibration import Samples
from onnxprune.calibration.batch_size import small_batches
from onnxprune.cost.measure import mainly_convolutions, measure
from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Group
from onnxprune.errors import GIVE_DATA, InputError, option
from onnxprune.extensions.points import Criterion, as_criterion
from onnxprune.importance import damage_curves
from onnxprune.importance.experts import score_experts
from onnxprune.importance.magnitude import Scores
from onnxprune.importance.obs import Curve
from onnxprune.layers.find import linear_layers
from onnxprune.model.model import Model
from onnxprune.options import Calibration, Channels
from onnxprune.options.criteria import BY_WEIGHTS
from onnxprune.pipeline.data import CalibrationSplit, FirstBatches, SyntheticFeeds, _divided, _Synthetic
from onnxprune.repair.batch_norm import aligned
from onnxprune.runtime.io_slices import WHOLE, IoSlices
from onnxprune.runtime.partition import CannotCut
from onnxprune.statistics.moments import Batches, Moments, observe
from onnxprune.statistics.moments_file import read, write
from onnxprune.statistics.weight_gradients import GradientData

MEASURED_SHARE, MEASURED, MEASURED_MACS = 0.25, (32, 96), 1e12
"""Share of the samples to fit on that the heights of damage curves are measured with, how many at least and at most,
and the multiplications that all these runs together may take."""


@contextmanager
def scoring_context(
    model: Model,
    data: CalibrationSplit | None,
    criterion: Criterion,
    synthetic_feeds: SyntheticFeeds,
    *,
    stats: str | os.PathLike[str] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> Iterator[tuple[Model, CalibrationSplit | None, Criterion]]:
    """Model, data and criterion to score with; synthetic inputs substitute for missing data.

    Convolutions look at small patches, which synthetic inputs get right; models that consist mainly of matrix products
    are scored by their weights alone, see `repair.data_free`. Normalizations have, while this lasts, the statistics
    of the synthetic inputs.

    Raises:
        InputError: Inputs are to be made, and cannot be: a shape is not known, say.
    """
    if data is not None or stats is not None or criterion.needs == "weights":
        yield model, data, criterion
        return
    if not mainly_convolutions(model, input_shapes):
        yield model, None, as_criterion(BY_WEIGHTS)
        return
    samples = _Synthetic(synthetic_feeds())
    with aligned(model, model.copy(), samples) as reference:
        yield reference, CalibrationSplit(samples, samples), criterion


def check_stats(calibration: Calibration) -> None:
    """Raises InputError where statistics are to be read from a file that does not exist."""
    stats = calibration.stats
    if stats is not None and calibration.data is None and not os.path.exists(stats):
        raise InputError(f"there are no statistics in {os.fspath(stats)!r} and no data to make them from", GIVE_DATA)


def moments(
    model: Model,
    coupling: Coupling,
    data: CalibrationSplit | None,
    *,
    stats: str | os.PathLike[str] | None = None,
    seed: int = 0,
    memory: int = 2**30,
    io_slices: IoSlices = WHOLE,
) -> dict[str, Moments]:
    """Moments of the inputs of the linear layers, on samples other than those that damage is measured on.

    Args:
        model: The model to look at.
        coupling: Its analysis.
        data: Calibration data; None where there are statistics only.
        stats: Where it names a file that exists, the moments are those in it; one that does not is written.
        seed: Seed of the samples.
        memory: Bytes of activations to hold.
        io_slices: What inputs of the model lost already.

    Raises:
        InputError: The statistics do not fit the model, or it cannot be run in pieces.
    """
    layers = linear_layers(coupling.graph)
    stored = None if stats is None else Path(stats)
    if stored is not None and stored.exists():
        return read(stored, model, layers)
    assert data is not None
    learned_from, _ = _divided(_in_small_batches(model, data.fit, io_slices), MEASURED_SHARE)
    batches, count = io_slices.batches(learned_from), sum(1 for _ in learned_from.batches())
    with _in_pieces():
        found = observe(model, layers, batches, count=count, seed=seed, memory=memory)
    if stored is not None:
        write(stored, model, layers, found)
        return read(stored, model, layers)
    return found


def with_experts(
    model: Model,
    coupling: Coupling,
    groups: Sequence[Group],
    scores: Sequence[Scores],
    data: CalibrationSplit | None,
    io_slices: IoSlices = WHOLE,
) -> list[Scores]:
    """The scores with those of whole experts from data, see `importance.experts`; without data all as they are.

    Raises:
        InputError: The model cannot be run in pieces.
    """
    if data is None or not (coupling.ties.experts or coupling.ties.searches):
        return list(scores)
    learned_from, _ = _divided(data.fit, MEASURED_SHARE)
    with _in_pieces():
        return score_experts(model, coupling, groups, scores, io_slices.batches(learned_from))


@contextmanager
def _in_pieces() -> Iterator[None]:
    """Says so where a model cannot be run in pieces."""
    try:
        yield
    except CannotCut as e:
        raise InputError(f"the model cannot be run in pieces: {e}", f"leave {option('calib')} away") from e


def gradient_data(data: CalibrationSplit | None, seed: int, io_slices: IoSlices = WHOLE) -> GradientData | None:
    """What gradients are taken of, sample by sample; labels only where every batch is one sample."""
    if data is None:
        return None
    fit = data.fit
    samples = fit.in_batches(1).silent() if isinstance(fit, Samples) else fit
    return GradientData(io_slices.batches(samples), fit.parts, fit.labels, seed)


def curves(
    model: Model,
    coupling: Coupling,
    groups: Sequence[Group],
    data: CalibrationSplit | None,
    input_moments: Mapping[str, Moments],
    fallback: Sequence[Scores],
    channels: Channels,
    *,
    input_shapes: Mapping[str, Sequence[int]],
    memory: int,
    io_slices: IoSlices = WHOLE,
) -> list[Curve]:
    """The damage curve of each group, see `damage_curves`; heights only where groups are weighed against each other."""
    layers = linear_layers(coupling.graph)
    keep = [g.units - g.most(channels.min_channels) for g in groups]
    batches: Batches = ()
    if data is not None and channels.compares_groups:
        runs = len(groups) * len(damage_curves.PROBES)
        batches = fresh_samples(model, data, runs=runs, input_shapes=input_shapes, io_slices=io_slices)
    return damage_curves.curves(model, coupling, groups, layers, input_moments, fallback, keep, batches, memory=memory)


def fresh_samples(
    model: Model,
    data: CalibrationSplit,
    *,
    runs: int,
    input_shapes: Mapping[str, Sequence[int]],
    io_slices: IoSlices = WHOLE,
) -> Batches:
    """Samples that the moments were not computed from, few enough to run the model on them `runs` times."""
    _, left = _divided(_in_small_batches(model, data.fit, io_slices), MEASURED_SHARE)
    macs = measure(model, io_slices.shapes(input_shapes)).macs or 0
    enough = np.clip(MEASURED_MACS / max(macs * runs, 1), *MEASURED)
    return io_slices.batches(FirstBatches(left, int(enough)))


def _in_small_batches(model: Model, samples: Samples | _Synthetic, io_slices: IoSlices) -> Samples | _Synthetic:
    return small_batches(model, samples, io_slices) if isinstance(samples, Samples) else samples
