"""Repair by distillation: all weights are trained together so that the outputs come nearer to the original's.

No label is needed: the original's outputs and features are the targets (Hinton et al., "Distilling the knowledge in a
neural network", 2015; Romero et al., "FitNets", ICLR 2015). What layer-wise refits leave is an error of the outputs
that no layer alone can take away. The state of the least error on samples that were held back is the result, and only
where it is surely better than the model as it was; else that one stays.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration import Samples
from onnxprune.calibration.disk_cache import DiskCache
from onnxprune.calibration.signature import signature_of
from onnxprune.errors import RunError
from onnxprune.gradients.optimizer import RelativeAdam, rate_at
from onnxprune.gradients.trainable import Trainable, bytes_of_batch, write_back
from onnxprune.graph.graph import Graph
from onnxprune.graph.shape_inference import infer
from onnxprune.model.model import Model
from onnxprune.progress import step
from onnxprune.repair.augmentation import Augmentation
from onnxprune.repair.calibrated import JUDGE_SHARE, MOST_JUDGES, is_better
from onnxprune.repair.distillation_student import student
from onnxprune.repair.distillation_teacher import Teacher, Views, views
from onnxprune.repair.kept_indices import KeptIndices
from onnxprune.repair.training_batches import TrainingBatches
from onnxprune.runtime.io_slices import WHOLE, Batch, IoSlices
from onnxprune.verification.output_error import Errors

logger = logging.getLogger(__name__)

Array = NDArray[Any]
Floats = NDArray[np.float32]
Held = tuple[Batch, list[Array], list[Array]]
"""A held-back sample, and what the original and the pruned model before the training make of it."""

EPOCHS = 40
"""Epochs by default."""
RATE = 1e-3
"""The highest rate, as a share of the size of the weights."""
BATCH = 32
"""Samples a step of the optimizer at most."""
FEWEST_STEPS = 8
"""Steps an epoch, at least, where there are as many samples."""
FEWEST = 4
"""With fewer samples than this nothing is trained."""


@dataclass(frozen=True)
class Settings:
    """How long, and with what.

    Attributes:
        epochs: Passes over the samples.
        minutes: Time after which no further epoch begins; None for no limit.
        seed: Seed of what is drawn at random.
        memory: Bytes of activations and samples to hold.
        io_slices: What inputs and outputs of the pruned model lost.
        rate: The highest rate.
    """

    epochs: int = EPOCHS
    minutes: float | None = None
    seed: int = 0
    memory: int = 2**31
    io_slices: IoSlices = WHOLE
    rate: float = RATE


@dataclass(frozen=True)
class Distillation:
    """Record of a distillation.

    Attributes:
        before: Squared error of the outputs on the held-back samples before it, as a share of their variance.
        after: The same of the model that it left.
        epochs: Epochs that were run.
        best: The epoch whose weights were taken; None where the model was left as it was.
        weights: Weight tensors that were trained.
        untrained: Weight tensors that were not, by the reason.
        judges: Held-back samples.
        skipped: Why nothing was trained; None where something was.
    """

    before: float | None = None
    after: float | None = None
    epochs: int = 0
    best: int | None = None
    weights: int = 0
    untrained: Mapping[str, int] = field(default_factory=dict)
    judges: int = 0
    skipped: str | None = None


def divided(samples: Samples) -> tuple[Samples, Samples] | None:
    """Samples to train on and samples to hold back; None where there are too few."""
    if samples.parts < FEWEST:
        return None
    return samples.split(min(JUDGE_SHARE, MOST_JUDGES / samples.parts))


def repair(
    original: Model, pruned: Model, kept: KeptIndices, learn: Samples, judges: Samples, settings: Settings = Settings()
) -> Distillation:
    """Trains the weights of a pruned model in place, or leaves them where that makes nothing surely better.

    Args:
        original: The model before pruning.
        pruned: The model after it, with layers that were refitted on the samples to train on.
        kept: What the pruned model has of the original's values.
        learn: Samples to train on.
        judges: Samples that were held back from the refit too.
        settings: How.
    """
    try:
        run = _run(original, pruned, kept, learn, settings)
        return run if isinstance(run, Distillation) else run.train_judged(pruned, judges)
    except RunError as error:
        return Distillation(skipped=f"onnxruntime does not run the gradients: {error.message}")


def repeat(
    original: Model, pruned: Model, kept: KeptIndices, samples: Samples, epochs: int, settings: Settings = Settings()
) -> None:
    """Trains the weights of a pruned model in place, as many epochs as were best before.

    Args:
        original: The model before pruning.
        pruned: The model after it.
        kept: What the pruned model has of the original's values.
        samples: Samples to train on.
        epochs: Epochs of those in the settings after which to stop.
        settings: How.
    """
    run = _run(original, pruned, kept, samples, settings)
    if not isinstance(run, Distillation):
        run.train(pruned, epochs)


def _run(
    original: Model, pruned: Model, kept: KeptIndices, samples: Samples, settings: Settings
) -> _Run | Distillation:
    """A training, ready to begin, or the record that says why there is none."""
    both = views(original, pruned, kept, settings.io_slices)
    graph = Graph(original.proto)
    infer(graph)
    augmentation = Augmentation(original, graph, samples.in_batches(1), settings.seed)
    size = max(1, min(BATCH, samples.parts // FEWEST_STEPS))
    first = settings.io_slices.feeds(next(samples.in_batches(1).silent().batches()))
    most = max(1, settings.memory // 2 // bytes_of_batch(both.student, first))
    store = DiskCache(signature_of(original.proto), settings.memory // 4)
    batches = TrainingBatches(samples, store, augmentation, size, most, settings.seed)
    if not batches.alike:
        return Distillation(skipped="the samples differ in shape")
    teacher = Teacher(both, batches.plain())
    batch = next(batches.plain())
    trained = student(both, settings.io_slices.feeds(batch), teacher.targets(batch), teacher.feature_sizes)
    if not trained.parameters:
        untrained = _counted(trained.reasons)
        return Distillation(untrained=untrained, skipped=next(iter(untrained), "no weight can be trained"))
    return _Run(both, teacher, trained, batches, settings)


def _counted(reasons: Mapping[str, str]) -> dict[str, int]:
    return dict(Counter(reasons.values()).most_common())


class _Run:
    """One training."""

    def __init__(
        self, both: Views, teacher: Teacher, student: Trainable, batches: TrainingBatches, settings: Settings
    ) -> None:
        self._both, self._teacher, self._student = both, teacher, student
        self._batches, self._settings = batches, settings
        self._start = {name: p.array for name, p in student.parameters.items()}
        self._optimizer = RelativeAdam(self._start, {name: p.size for name, p in student.parameters.items()})

    def train(self, pruned: Model, epochs: int) -> None:
        """Trains for some of the epochs, and writes the weights into the pruned model."""
        for epoch in range(epochs):
            self._epoch(epoch)
            step(f"epoch {epoch + 1}, all samples", epoch + 1, epochs)
        write_back(pruned, self._optimizer.weights)

    def train_judged(self, pruned: Model, judges: Samples) -> Distillation:
        """Trains, and writes the weights of the least error on held-back samples into the pruned model."""
        held = [
            (feeds, self._teacher.outputs(feeds), self._outputs(feeds, self._start))
            for feeds in judges.in_batches(1).silent().batches()
        ]
        best: dict[str, Floats] | None = None
        before = after = float(self._errors(held, self._start)[:, 0].sum())
        done, taken, begin = 0, None, time.monotonic()
        for epoch in range(self._settings.epochs):
            loss, done = self._epoch(epoch), epoch + 1
            errors = self._errors(held, self._optimizer.weights)
            error = float(errors[:, 1].sum())
            logger.info("epoch %d: loss %.4g, held-back error %.4g (%.4g at first)", done, loss, error, before)
            step(f"epoch {done}, error {error / max(before, 1e-30):.0%}", done, self._settings.epochs)
            if error < after and is_better(*errors.T):
                best, after, taken = {n: w.copy() for n, w in self._optimizer.weights.items()}, error, done
            if self._settings.minutes is not None and time.monotonic() - begin > 60 * self._settings.minutes:
                break
        if best is not None:
            write_back(pruned, best)
        return Distillation(before, after, done, taken, len(self._start), _counted(self._student.reasons), len(held))

    def _epoch(self, epoch: int) -> float:
        """One pass over the samples; the mean loss."""
        steps, losses = self._settings.epochs * self._batches.steps, []
        for i, group in enumerate(self._batches.epoch(epoch)):
            total: dict[str, Floats] = {}
            for feeds in group:
                given = self._settings.io_slices.feeds(feeds)
                loss, gradients = self._student.step(
                    {**given, **self._teacher.targets(feeds).feeds()}, self._optimizer.weights
                )
                losses.append(loss)
                total = {name: g + total[name] if total else g for name, g in gradients.items()}
            self._optimizer.step(total, rate_at(epoch * self._batches.steps + i, steps, self._settings.rate))
        return float(np.mean(losses))

    def _outputs(self, feeds: Batch, weights: Mapping[str, Floats]) -> list[Array]:
        return self._student.outputs(self._settings.io_slices.feeds(feeds), weights)

    def _errors(self, held: Sequence[Held], weights: Mapping[str, Floats]) -> NDArray[np.float64]:
        """Squared errors on the held-back samples, before the training and with some weights; shape (samples, 2)."""
        errors = Errors(2, self._both.components)
        for feeds, wanted, start in held:
            errors.add(wanted, [start, self._outputs(feeds, weights)])
        return errors.by_batch()
