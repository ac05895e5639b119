"""Repair with calibration data, where every choice is judged on samples that no candidate was fitted to.

The candidates are the pruned model as it is and stages that build on each other: a start that is repaired on synthetic
inputs (where there are few samples), the layer-wise refit, the joint refit, and new running statistics; with few
samples also points on the line between the start and each stage. All of them are made from a part of the samples and
compared on the rest: in turns for each fold where there are few (cross-validation; Stone, "Cross-validatory choice and
assessment of statistical predictions", 1974), once where there are many. A candidate replaces the model as it is only
where its outputs are nearer to the original's by more than chance explains.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxprune.calibration import Samples
from onnxprune.calibration.batch_size import small_batches
from onnxprune.calibration.synthetic import Feeds
from onnxprune.common.progress import part
from onnxprune.model.model import Model
from onnxprune.repair import data_free, joint, layerwise
from onnxprune.repair.batch_norm import reestimate
from onnxprune.repair.interpolation import interpolate
from onnxprune.repair.kept_indices import KeptIndices
from onnxprune.repair.layerwise import Fitter, Refit
from onnxprune.repair.paired_test import is_better
from onnxprune.runtime.io_slices import WHOLE, IoSlices
from onnxprune.statistics.moments import REPAIR_ROWS, Rows
from onnxprune.verification.output_error import Errors, measured

logger = logging.getLogger(__name__)

SYNTHETIC_BELOW = 64
"""With fewer samples than this, a start that is repaired on synthetic inputs is tried."""
FOLDS, FOLDS_BELOW = 3, 32
"""Folds of the cross-validation, and the number of samples from which on one split serves instead."""
JUDGE_SHARE, MOST_JUDGES = 0.2, 64
"""The part of a single split that judges, and how many samples it has at most."""
LAYERWISE_WORK = 0.35
"""Share of the layer-wise refit in the work of both, for the estimate of the remaining time."""
FINAL_BELOW = 256
"""With fewer samples than this, the chosen stages are run once more on all of them."""
SHARES_BELOW, SHARES = 64, (0.5,)
"""With fewer samples than this, these shares of every stage's change of the weights are candidates too."""
BATCHES, LARGEST_BATCH = 10, 32
"""Batches that samples are divided into, where that is possible: layers hold out whole batches."""

Share = float
Candidate = tuple[str, Share]
"""A stage, and the share of the way from the start to it."""


@dataclass(frozen=True)
class Settings:
    """What all stages are given.

    Attributes:
        seed: Seed of what is sampled.
        memory: Bytes of activations to hold, of both models together.
        io_slices: What inputs and outputs of the pruned model lost.
        fitter: What fits the layers; by default ridge least squares, and joint refits follow.
        rows: How many positions are sampled of a layer.
    """

    seed: int = 0
    memory: int = 2**31
    io_slices: IoSlices = WHOLE
    fitter: Fitter | None = None
    rows: Rows = REPAIR_ROWS


@dataclass
class _Trial:
    """Errors of candidates beside those of the model as it is, on samples that none of them was fitted to."""

    errors: dict[Candidate, Errors] = field(default_factory=dict)

    def add(self, candidate: Candidate, found: Errors) -> None:
        if candidate in self.errors:
            self.errors[candidate].extend(found)
        else:
            self.errors[candidate] = found

    def best(self) -> Candidate | None:
        """The candidate of the least error that is surely better than the model as it is; None where there is none."""
        found: Candidate | None = None
        least = np.inf
        for candidate, errors in self.errors.items():
            before, after = errors.by_batch().T
            if after.sum() < least and is_better(before, after):
                found, least = candidate, after.sum()
        return found


def repair(
    original: Model,
    pruned: Model,
    kept: KeptIndices,
    samples: Samples,
    settings: Settings,
    *,
    fallback: Model | None = None,
    synthetic: Callable[[], Sequence[Feeds]] | None = None,
) -> list[Refit]:
    """Repairs a pruned model in place, or leaves it as it is where no candidate is surely better.

    Args:
        original: The model before pruning.
        pruned: The model after it.
        kept: What the pruned model has of the original's values.
        samples: Calibration samples.
        settings: How.
        fallback: The model that stands where no candidate is better; by default the pruned model as it is.
        synthetic: Makes inputs for a start that is repaired without data; None where there is to be none.

    Returns:
        What became of each layer; of stages that were not taken, that it was left as it was.
    """
    count = samples.parts
    done: list[Refit] = []
    if synthetic is not None and count < SYNTHETIC_BELOW:
        done = _start(original, pruned, kept, samples, settings, synthetic)
    start = pruned.copy()
    baseline = start if fallback is None else fallback
    trial, best = _judged(original, baseline, start, pruned, kept, samples, settings)
    choice = trial.best()
    _log(trial, choice)
    if choice is None:
        pruned.proto.CopyFrom(baseline.proto)
        return [*done, *itertools.chain.from_iterable(map(_left, best.refits.values()))]
    refits = best.refits
    if count < FINAL_BELOW:
        folds = len(_folds(samples))
        with part(folds / (folds + 1), 1.0):
            refits = refits | _run(original, pruned, start, kept, samples, settings, choice)
    else:
        pruned.proto.CopyFrom(best.model.proto)
    return [*done, *_reported(refits, choice)]


@dataclass
class _Best:
    """Result of the last fold.

    Attributes:
        model: A copy of the best candidate, where it is to be the result.
        refits: Records of each stage, by the stage's name.
    """

    model: Model
    refits: dict[str, list[Refit]] = field(default_factory=dict)


def _start(
    original: Model,
    pruned: Model,
    kept: KeptIndices,
    samples: Samples,
    settings: Settings,
    synthetic: Callable[[], Sequence[Feeds]],
) -> list[Refit]:
    """Repairs a model without the samples, and undoes it unless they say that it is better."""
    plain = pruned.copy()
    done = data_free.repair(
        original, pruned, kept, synthetic(), seed=settings.seed, memory=settings.memory, io_slices=settings.io_slices
    )
    judges = samples.in_batches(1)
    before, after = measured(original, [plain, pruned], judges, settings.io_slices, unsquash=True).by_batch().T
    if after.sum() < before.sum():  # it was judged on synthetic inputs already
        logger.info("squared error: %.3g, %.3g after a repair on synthetic inputs", before.sum(), after.sum())
        return done
    pruned.proto.CopyFrom(plain.proto)
    return _left(done)


def _judged(
    original: Model,
    baseline: Model,
    start: Model,
    pruned: Model,
    kept: KeptIndices,
    samples: Samples,
    settings: Settings,
) -> tuple[_Trial, _Best]:
    """Makes all candidates from a part of the samples and measures them on the others, fold by fold."""
    trial, best = _Trial(), _Best(start)
    shares = SHARES if samples.parts < SHARES_BELOW and settings.fitter is None else ()
    folds = _folds(samples)
    runs = len(folds) + (samples.parts < FINAL_BELOW)
    for number, (learn, judges) in enumerate(folds):
        pruned.proto.CopyFrom(start.proto)
        with part(number / runs, (number + 1) / runs):
            for stage, refits in _stages(original, pruned, kept, learn, settings):
                best.refits[stage] = refits
                for share in (*shares, 1.0):
                    model = pruned if share == 1 else interpolate(start, pruned, share)
                    models = [baseline, model]
                    found = measured(original, models, judges.in_batches(1), settings.io_slices, unsquash=True)
                    trial.add((stage, share), found)
                    if samples.parts >= FINAL_BELOW and trial.best() == (stage, share):
                        best.model = model.copy()
    return trial, best


def _folds(samples: Samples) -> list[tuple[Samples, Samples]]:
    """Samples to fit and samples to judge, once or in turns; nothing where there is one sample only."""
    if samples.parts < 2:
        return []
    if samples.parts < FOLDS_BELOW:
        return samples.folds(FOLDS)
    return [samples.split(min(JUDGE_SHARE, MOST_JUDGES / samples.parts))]


def _stages(
    original: Model, pruned: Model, kept: KeptIndices, samples: Samples, settings: Settings
) -> Generator[tuple[str, list[Refit]], None, None]:
    """Refits a model in place, stage by stage; yields the stage's name and what became of each layer."""
    batches, alone = _in_batches(original, samples), settings.fitter is not None
    with part(0.0, 1.0 if alone else LAYERWISE_WORK):
        refits = _layer_by_layer(original, pruned, kept, batches, settings, rough=not alone)
    yield "layer-wise refit", refits
    if not alone:
        with part(LAYERWISE_WORK, 1.0):
            refits = joint.repair(
                original,
                pruned,
                kept,
                batches,
                seed=settings.seed,
                memory=settings.memory,
                io_slices=settings.io_slices,
            )
        yield "joint refit", refits
    if reestimate(original, pruned, kept, batches, settings.io_slices):
        yield "new running statistics", []


def refit_layers(
    original: Model, pruned: Model, kept: KeptIndices, samples: Samples, settings: Settings
) -> list[Refit]:
    """The first stage alone: refits a model in place, layer by layer, and judges nothing."""
    return _layer_by_layer(original, pruned, kept, _in_batches(original, samples), settings, rough=False)


def _layer_by_layer(
    original: Model, pruned: Model, kept: KeptIndices, batches: Samples, settings: Settings, *, rough: bool
) -> list[Refit]:
    """The layer-wise refit with what the run asks for."""
    return layerwise.repair(
        original,
        pruned,
        kept,
        batches,
        sum(1 for _ in batches),
        seed=settings.seed,
        memory=settings.memory,
        io_slices=settings.io_slices,
        fitter=settings.fitter,
        rows=settings.rows,
        rough=rough,
    )


def _in_batches(original: Model, samples: Samples) -> Samples:
    return small_batches(original, samples.in_batches(max(1, min(LARGEST_BATCH, samples.parts // BATCHES))))


def _run(
    original: Model,
    pruned: Model,
    start: Model,
    kept: KeptIndices,
    samples: Samples,
    settings: Settings,
    choice: Candidate,
) -> dict[str, list[Refit]]:
    """Refits a model in place up to the chosen stage, on all samples; what each stage did."""
    pruned.proto.CopyFrom(start.proto)
    refits: dict[str, list[Refit]] = {}
    stages = _stages(original, pruned, kept, samples, settings)
    for stage, done in stages:
        refits[stage] = done
        if stage == choice[0]:
            break
    stages.close()
    if choice[1] < 1:
        pruned.proto.CopyFrom(interpolate(start, pruned, choice[1]).proto)
    return refits


def _reported(refits: Mapping[str, list[Refit]], choice: Candidate) -> Iterator[Refit]:
    """The refits of the stages up to the chosen one; those of later ones were taken back."""
    taken = True
    for stage, done in refits.items():
        yield from (replace(r, share=choice[1]) for r in done) if taken else _left(done)
        taken = taken and stage != choice[0]


def _left(refits: Sequence[Refit]) -> list[Refit]:
    """What the report says of layers whose refit was taken back."""
    return [replace(r, penalty=None, after=r.before) for r in refits]


def _log(trial: _Trial, choice: Candidate | None) -> None:
    if not trial.errors:
        logger.info("no sample is left to judge a refit by; none is made")
        return
    errors = {name: errors.shares() for name, errors in trial.errors.items()}
    logger.info(
        "squared error of the outputs on samples that no candidate has seen: %.3g as it is, %s; taken: %s",
        next(iter(errors.values()))[0],
        ", ".join(f"{after:.3g} {_named(name)}" for name, (_, after) in errors.items()),
        "none" if choice is None else _named(choice),
    )


def _named(candidate: Candidate) -> str:
    stage, share = candidate
    return stage if share == 1 else f"{share:g} of the {stage}"
