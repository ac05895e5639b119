"""Repair by distillation: all weights are trained together so that the outputs come nearer to the original's.

No label is needed: the original's outputs and features are the targets (Hinton et al., "Distilling the knowledge in a
neural network", 2015; Romero et al., "FitNets", ICLR 2015). What layer-wise refits leave is an error of the outputs
that no layer alone can take away. The state of the least error on samples that were held back is the result, and only
where it is surely better than the model as it was; else that one stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration import Samples
from onnxprune.errors import RunError
from onnxprune.gradients.single_precision import write_back
from onnxprune.gradients.trainable import Trainable
from onnxprune.model.model import Model
from onnxprune.repair.calibrated import JUDGE_SHARE, MOST_JUDGES
from onnxprune.repair.distillation_student import held_back_errors, student
from onnxprune.repair.distillation_teacher import Teacher, Views, views
from onnxprune.repair.kept_indices import KeptIndices
from onnxprune.repair.training_batches import TrainingBatches, training_batches
from onnxprune.repair.training_loop import RATE, Schedule, TrainingLoop, Weights
from onnxprune.runtime.io_slices import WHOLE, Batch, IoSlices

Array = NDArray[Any]
Floats = NDArray[np.float32]
EPOCHS = 40
"""Epochs by default."""
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

    @property
    def schedule(self) -> Schedule:
        """How long, and how fast."""
        return Schedule(self.epochs, self.minutes, self.rate)


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
        lost: Steps that left weights as they were, because their gradients were not finite.
    """

    before: float | None = None
    after: float | None = None
    epochs: int = 0
    best: int | None = None
    weights: int = 0
    untrained: Mapping[str, int] = field(default_factory=dict)
    judges: int = 0
    skipped: str | None = None
    lost: int = 0


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
    batches = training_batches(
        original, both.student, samples, settings.seed, settings.memory, io_slices=settings.io_slices
    )
    if not batches.alike:
        return Distillation(skipped="the samples differ in shape")
    teacher = Teacher(both, batches.plain())
    batch = next(batches.plain())
    trained = student(both, settings.io_slices.feeds(batch), teacher.targets(batch), teacher.feature_sizes)
    if not trained.parameters:
        why = next(iter(trained.untrained), "no weight can be trained")
        return Distillation(untrained=trained.untrained, skipped=why)
    return _Run(both, teacher, trained, batches, settings)


class _Run:
    """One training."""

    def __init__(
        self, both: Views, teacher: Teacher, trained: Trainable, batches: TrainingBatches, settings: Settings
    ) -> None:
        self._both, self._teacher, self._trained, self._io_slices = both, teacher, trained, settings.io_slices
        self._loop = TrainingLoop(trained, batches, self._given, settings.schedule)

    def train(self, pruned: Model, epochs: int) -> None:
        """Trains for some of the epochs, and writes the weights into the pruned model."""
        write_back(pruned, self._loop.run(epochs))

    def train_judged(self, pruned: Model, judges: Samples) -> Distillation:
        """Trains, and writes the weights of the least error on held-back samples into the pruned model."""
        given = self._io_slices.feeds
        held = [(given(feeds), self._teacher.outputs(feeds)) for feeds in judges.in_batches(1).silent().batches()]
        found = self._loop.run_judged(lambda weights: held_back_errors(self._trained, self._both, held, weights))
        if found.weights is not None:
            write_back(pruned, found.weights)
        return Distillation(
            found.before,
            found.after,
            found.epochs,
            found.best,
            len(self._loop.start),
            self._trained.untrained,
            len(held),
            lost=found.lost,
        )

    def _given(self, feeds: Batch, weights: Weights) -> Mapping[str, Array]:
        """What a step is given of a batch."""
        return {**self._io_slices.feeds(feeds), **self._teacher.targets(feeds).feeds()}
