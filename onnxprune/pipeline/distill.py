"""The distilled repair: layers are refitted, and then all weights are trained on the outputs of the original."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

from onnxprune.calibration import Samples
from onnxprune.common.progress import part
from onnxprune.options import Repair
from onnxprune.pipeline.refit import RepairJob, refit
from onnxprune.repair import distilled
from onnxprune.repair.calibrated import FINAL_BELOW
from onnxprune.repair.distilled import Distillation
from onnxprune.repair.layerwise import Refit

Stage = Callable[[str], AbstractContextManager[None]]
"""Times a stage, by its name."""


def refit_and_train(job: RepairJob, asked: Repair, stage: Stage) -> tuple[list[Refit], Distillation | None]:
    """Repairs a pruned model in place, by the method that was asked for.

    A training is judged on samples that neither it nor the refit before it has seen. Where it is taken back, the layers
    are refitted on all samples; where there are few, the training that was best is repeated on all of them.

    Args:
        job: The models and the data.
        asked: The method, and how long to train.
        stage: Times a stage.

    Returns:
        A record of each refitted layer, and of the training; None where none was asked for.

    Raises:
        InputError: See `refit`.
    """
    parts = None
    if asked.trains:
        assert job.data is not None and isinstance(job.data.fit, Samples)
        parts = distilled.divided(job.data.fit)
    if parts is None or job.data is None:
        with stage("repair"):
            done = refit(job)
        few = Distillation(skipped="there are too few samples to hold some back") if asked.trains else None
        return done, few
    learn, judges = parts
    settings = distilled.Settings(asked.epochs, asked.minutes, job.seed, job.memory, job.io_slices)
    start = job.pruned.copy()
    with stage("repair"):
        done = refit(replace(job, data=replace(job.data, fit=learn)))
    repeats = (job.data.fit.parts if isinstance(job.data.fit, Samples) else 0) < FINAL_BELOW
    with stage("distill"):
        with part(0.0, 0.5 if repeats else 1.0):
            found = distilled.repair(job.original, job.pruned, job.kept, learn, judges, settings)
        if found.best is None or repeats:
            job.pruned.proto.CopyFrom(start.proto)
            with part(0.5, 0.7):
                done = refit(job)
        if found.best is not None and repeats and isinstance(job.data.fit, Samples):
            with part(0.7, 1.0):
                distilled.repeat(job.original, job.pruned, job.kept, job.data.fit, found.best, settings)
    return done, found
