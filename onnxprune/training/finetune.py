"""Training of all weights of a model on labels, on the outputs of a teacher, or on both.

With labels the loss is that of the labels. Where there is a teacher, it is the distance from its outputs and from those
of its features that the model still has (Hinton et al., "Distilling the knowledge in a neural network", 2015). Labels
count by the share of the model's loss that the teacher has too, and the teacher by the rest: one that was trained on
these very samples knows their labels, which would only be learnt by heart. The more labels count, the less do features:
they bind a model to how its teacher does it. The weights of the least loss on samples that were held back are the
result, and only where they are surely better than those at the beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration import Samples
from onnxprune.errors import DataError, option
from onnxprune.gradients.single_precision import write_back
from onnxprune.gradients.trainable import Terms, Trainable
from onnxprune.graph.graph import Graph
from onnxprune.losses.functions import FunctionLoss
from onnxprune.losses.label_loss import TARGET
from onnxprune.model.model import Model
from onnxprune.ops.gradients.writer import Writer
from onnxprune.repair.distillation_student import FEATURES, distances, held_back_errors
from onnxprune.repair.distillation_teacher import Teacher, Views, shared_features, views
from onnxprune.repair.training_batches import TrainingBatches, training_batches
from onnxprune.repair.training_loop import RATE, Schedule, TrainingLoop, Weights
from onnxprune.runtime.io_slices import Batch
from onnxprune.runtime.session import local_session
from onnxprune.training.gradual import GradualPruning, Pruner, Ramp
from onnxprune.training.objective import Objective, Run, float_outputs, objective, with_outputs

EPOCHS = 20
"""Passes over the samples by default."""
RATE_OF_LABELS = 1e-3
"""The highest rate of a training on labels, by default: larger steps learn them by heart sooner."""
TEACHER, MOST_LABELS = 0.5, 0.5
"""Weight of the distance from a teacher next to the loss of the labels, where they tell as much; most that these do."""

Judge = Callable[[Weights], NDArray[np.float64]]


@dataclass(frozen=True)
class Training:
    """Record of a training.

    Attributes:
        loss: Name of the loss; ``teacher`` where there are no labels, ``cross-entropy and teacher``, say, with both.
        before: Mean loss of the held-back samples before it: of labels; or the squared error of the outputs, as a share
            of their variance, of a teacher; or both, weighted as they are trained. None where nothing was trained.
        after: The same with the weights that were taken.
        epochs: Epochs that were run.
        best: The epoch whose weights were taken; None where the model was left as it was.
        samples: Samples that it was trained on.
        judges: Held-back samples.
        weights: Weight tensors that were trained.
        untrained: Weight tensors that were not, by the reason.
        skipped: Why nothing was trained; None where something was.
        rate: The highest rate; None where nothing was trained.
        pruned: Share of the weights that became zero meanwhile, or of the channels that went; None without a schedule.
        lost: Steps that left weights as they were, because their gradients were not finite.
    """

    loss: str
    before: float | None = None
    after: float | None = None
    epochs: int = 0
    best: int | None = None
    samples: int = 0
    judges: int = 0
    weights: int = 0
    untrained: Mapping[str, int] = field(default_factory=dict)
    skipped: str | None = None
    rate: float | None = None
    pruned: float | None = None
    lost: int = 0


@dataclass(frozen=True)
class Settings:
    """How long, and with what.

    Attributes:
        epochs: Passes over the samples.
        minutes: Time after which no further epoch begins; None for no limit.
        rate: The highest rate; None for the one that suits how much labels count.
        loss: The loss of the labels, see `functions.as_loss`; None for the one that outputs and labels tell.
        seed: Seed of what is drawn at random.
        memory: Bytes of activations and samples to hold.
        ramp: How much is pruned while the model is trained; None for nothing.
        pruner: What chooses that.
    """

    epochs: int = EPOCHS
    minutes: float | None = None
    rate: float | None = None
    loss: str | FunctionLoss | None = None
    seed: int = 0
    memory: int = 2**31
    ramp: Ramp | None = None
    pruner: Callable[[Model], Pruner] | None = None


def finetune(
    model: Model, teacher: Model | None, learn: Samples, judges: Samples, settings: Settings = Settings()
) -> Training:
    """Trains the weights of a model in place, or leaves them where that makes nothing surely better.

    Args:
        model: The model.
        teacher: A model with the same inputs and outputs; None for labels alone.
        learn: Samples to train on, with labels or without.
        judges: Samples to judge by.
        settings: How.

    Raises:
        InputError: There are neither labels nor a teacher, or labels fit no output.
    """
    both, own = views(teacher or model, model), float_outputs(model)
    both = replace(both, student=with_outputs(both.student, own))
    labels = objective(both, own, learn, judges, settings.loss)
    if labels is None and teacher is None:
        given = "".join(f"; {name!r} is neither an input nor labels" for name in learn.unused)
        hint = f"an array 'labels' in the data, or a teacher: {option('teacher', ...)}"
        raise DataError(f"there are neither labels nor a teacher to learn from{given}", hint)
    targets = None if labels is None else {TARGET: labels.targets}
    varied = labels is None or labels.varied
    batches = training_batches(
        teacher or model, both.student, learn, settings.seed, settings.memory, targets=targets, varied=varied
    )
    name = " and ".join([*([] if labels is None else [labels.name]), *([] if teacher is None else ["teacher"])])
    if not batches.alike:
        return Training(name, skipped="the samples differ in shape")
    task = _Task(both, teacher is not None, labels, batches, judges)
    if not task.trained.parameters:
        why = next(iter(task.trained.untrained), "no weight can be trained")
        return Training(name, untrained=task.trained.untrained, skipped=why)
    return _trained(model, task, name, learn.parts, settings)


def _trained(model: Model, task: _Task, name: str, samples: int, settings: Settings) -> Training:
    pruner = None if settings.pruner is None else settings.pruner(model)
    pruning = None if pruner is None or settings.ramp is None else GradualPruning(pruner, settings.ramp)
    rate = task.rate if settings.rate is None else settings.rate
    schedule = Schedule(settings.epochs, settings.minutes, rate)
    loop = TrainingLoop(task.trained, task.batches, task.given, schedule, pruning)
    found = loop.run_judged(task.judge())
    pruned = None
    if found.weights is not None and pruner is not None:
        pruned = pruner.finish(model, found.weights)
    elif found.weights is not None:
        write_back(model, found.weights)
    count = max(task.judges, 1) if task.labelled else 1
    return Training(
        name,
        found.before / count,
        found.after / count,
        found.epochs,
        found.best,
        samples,
        task.judges,
        len(loop.start),
        task.trained.untrained,
        rate=rate,
        pruned=pruned,
        lost=found.lost,
    )


class _Task:
    """What a model is trained for.

    Attributes:
        trained: The model with its loss.
        batches: The samples.
        labelled: Whether there are labels.
        judges: How many samples were held back.
    """

    def __init__(
        self, both: Views, taught: bool, labels: Objective | None, batches: TrainingBatches, judges: Samples
    ) -> None:
        self._labels, self.batches = labels, batches
        self.labelled, self.judges = labels is not None, judges.parts
        self._held = list(judges.in_batches(1).silent().batches())
        self._label_weight, self._teacher_weight = float(labels is not None), float(taught)
        self._by_labels = float(not taught)  # how far labels decide: 1 where they count for as much as they may
        if labels is not None and taught:
            share = label_share(labels, both, self._held)
            self._label_weight, self._teacher_weight = share, TEACHER * (1 - share)
            self._by_labels = share / MOST_LABELS
        batch = next(batches.plain())
        features = features_left(both, _inputs(batch)) if self._by_labels < 1 else []
        self._both = both = replace(both, features=features)
        self._teacher = Teacher(both, map(_inputs, batches.plain())) if taught else None
        plain = local_session(both.student)
        given = self._given(batch, lambda inputs: plain.run(self._read, inputs))
        targets = {name: array for name, array in given.items() if name not in _inputs(batch)}
        names = list(dict.fromkeys([*both.outputs, *self._read]))
        self.trained = Trainable(both.student, _inputs(batch), targets, self._terms(batch), names)

    @property
    def rate(self) -> float:
        """The highest rate that suits: between that of a teacher and that of labels, as these count."""
        return float(RATE * (RATE_OF_LABELS / RATE) ** self._by_labels)

    @property
    def _read(self) -> Sequence[str]:
        """Names of the outputs that the loss of the labels reads."""
        return () if self._labels is None else self._labels.outputs

    def given(self, feeds: Batch, weights: Weights) -> dict[str, NDArray[Any]]:
        """What a step is given of a batch."""
        return self._given(feeds, lambda inputs: self.trained.outputs(inputs, weights, self._read))

    def _given(self, feeds: Batch, run: Run) -> dict[str, NDArray[Any]]:
        found = dict(feeds if self._labels is None else self._labels.given(feeds, run))
        if self._teacher is not None:
            found |= self._teacher.targets(_inputs(feeds)).feeds()
        return found

    def judge(self) -> Judge:
        """What measures the loss of each held-back sample."""
        labels, teacher, trained = self._labels, self._teacher, self.trained
        parts: list[tuple[float, Judge]] = []
        if labels is not None:
            run = partial(trained.outputs, names=labels.outputs)
            parts.append((self._label_weight, lambda w: label_losses(labels, self._held, lambda one: run(one, w))))
        if teacher is not None:
            held = [(one, teacher.outputs(one)) for one in self._held]
            count = len(held) if self.labelled else 1  # errors are shares of the sum over all samples, losses are not
            parts.append((count * self._teacher_weight, partial(held_back_errors, trained, self._both, held)))
        return lambda weights: np.sum([weight * losses(weights) for weight, losses in parts], axis=0)

    def _terms(self, batch: Batch) -> Callable[[Graph, Writer], Terms]:
        """Writes the loss."""

        def terms(graph: Graph, write: Writer) -> Terms:
            found: list[tuple[str, float]] = []
            if self._labels is not None:
                found += [(name, self._label_weight * w) for name, w in self._labels.write(graph, write, batch)]
            if self._teacher is not None:
                targets, sizes = self._teacher.targets(_inputs(batch)), self._teacher.feature_sizes
                features = FEATURES * (1 - self._by_labels)
                taught = distances(graph, write, self._both, targets, sizes, features)
                found += [(name, self._teacher_weight * w) for name, w in taught]
            return found

        return terms


def label_losses(labels: Objective, held: Sequence[Batch], run: Run) -> NDArray[np.float64]:
    """The loss of each held-back sample."""
    return np.array([labels.of(run(one), i) for i, one in enumerate(held)])


def label_share(labels: Objective, both: Views, held: Sequence[Batch]) -> float:
    """The loss of the teacher on the held-back samples, as a share of the model's; half at most.

    A teacher that is no better than the model still tells what is not to be forgotten.
    """
    losses = []
    for model in (both.teacher, both.student):
        session = local_session(with_outputs(model, labels.outputs))
        losses.append(label_losses(labels, held, partial(session.run, labels.outputs)).mean())
    taught, own = losses
    return float(np.clip(taught / own, 0.0, MOST_LABELS)) if own > 0 and np.isfinite(taught) else MOST_LABELS


def features_left(both: Views, feeds: Batch) -> list[str]:
    """Features that a model still has of its teacher: of the same name and shape, and of about the same values."""
    names = shared_features(both.teacher, both.student)
    wanted, found = (
        local_session(with_outputs(model, names)).run(names, feeds) for model in (both.teacher, both.student)
    )
    pairs = zip(names, wanted, found, strict=True)
    return [name for name, w, f in pairs if w.shape == f.shape and np.square(w - f).mean() < w.var()]


def _inputs(feeds: Batch) -> Mapping[str, NDArray[Any]]:
    """A batch without the targets of its labels."""
    return {name: array for name, array in feeds.items() if name != TARGET}
