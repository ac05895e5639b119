"""The loop of a training: epochs of steps, and the weights that are the best on samples that were held back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxprune.common.progress import step
from onnxprune.gradients.optimizer import RelativeAdam, rate_at
from onnxprune.gradients.trainable import Trainable
from onnxprune.repair.calibrated import is_better
from onnxprune.repair.training_batches import TrainingBatches
from onnxprune.runtime.io_slices import Batch

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Weights = Mapping[str, Floats]
Errors = Callable[[Weights], NDArray[np.float64]]
"""The error of each held-back sample, with some weights; shape (samples,)."""


@dataclass(frozen=True)
class Schedule:
    """How long, and how fast.

    Attributes:
        epochs: Passes over the samples.
        minutes: Time after which no further epoch begins; None for no limit.
        rate: The highest rate.
    """

    epochs: int
    minutes: float | None
    rate: float


class PruningWhileTraining(Protocol):
    """What sets weights to zero while they are trained (`training.gradual`)."""

    @property
    def complete(self) -> bool:
        """Whether all that is to be pruned is."""
        ...

    def advance(self, done: float, weights: Weights) -> None:
        """Prunes what is due after a share of the training."""
        ...

    def masked(self, arrays: Weights) -> dict[str, Floats]:
        """Weights, or their gradients, with zeros where they are pruned."""
        ...

    def observe(self, weights: Weights, gradients: Weights) -> None:
        """Learns from a step of the training."""
        ...


@dataclass(frozen=True)
class Judged:
    """What held-back samples say of a training.

    Attributes:
        before: Sum of their errors before it.
        after: The same with the weights that are taken.
        epochs: Epochs that were run.
        best: The epoch whose weights are taken; None where none are surely better.
        weights: These weights, by name; None where there are none.
    """

    before: float
    after: float
    epochs: int
    best: int | None
    weights: Weights | None


class TrainingLoop:
    """One training."""

    def __init__(
        self,
        trained: Trainable,
        batches: TrainingBatches,
        given: Callable[[Batch, Weights], Mapping[str, NDArray[Any]]],
        schedule: Schedule,
        pruning: PruningWhileTraining | None = None,
    ) -> None:
        """Begins with the weights of the model.

        Args:
            trained: The model with its loss.
            batches: The samples.
            given: Makes inputs of the model, and of its loss, of a batch, with the weights as they are.
            schedule: How long.
            pruning: What is pruned meanwhile.
        """
        self._pruning = pruning
        self.start: Weights = {name: p.array for name, p in trained.parameters.items()}
        self._trained, self._batches, self._given, self._schedule = trained, batches, given, schedule
        self._optimizer = RelativeAdam(self.start, {name: p.size for name, p in trained.parameters.items()})

    def run(self, epochs: int) -> Weights:
        """Trains for some of the epochs."""
        for epoch in range(epochs):
            self._epoch(epoch)
            step(f"epoch {epoch + 1}, all samples", epoch + 1, epochs)
        return self._weights

    @property
    def _weights(self) -> Weights:
        """The weights as the model has them now."""
        trained = self._optimizer.weights
        return trained if self._pruning is None else self._pruning.masked(trained)

    def run_judged(self, errors: Errors) -> Judged:
        """Trains, and finds the weights of the least error on held-back samples that are surely better.

        Where something is pruned meanwhile, they are those of the least error once all of it is.
        """
        first = errors(self.start)
        before = after = float(first.sum())
        best: Weights | None = None
        done, taken, begin = 0, None, time.monotonic()
        for epoch in range(self._schedule.epochs):
            loss, done = self._epoch(epoch), epoch + 1
            found = errors(self._weights)
            error = float(found.sum())
            logger.info("epoch %d: loss %.4g, held-back error %.4g (%.4g at first)", done, loss, error, before)
            step(f"epoch {done}, error {error / max(before, 1e-30):.0%}", done, self._schedule.epochs)
            improves = error < after and is_better(first, found)
            if self._pruning is not None:
                improves = self._pruning.complete and (best is None or error < after)
            if improves:
                best, after, taken = {n: w.copy() for n, w in self._weights.items()}, error, done
            if self._schedule.minutes is not None and time.monotonic() - begin > 60 * self._schedule.minutes:
                break
        if best is None and self._pruning is not None:
            self._pruning.advance(1.0, self._optimizer.weights)
            best, taken = self._weights, done
            after = float(errors(best).sum())
        return Judged(before, after, done, taken, best)

    def _epoch(self, epoch: int) -> float:
        """One pass over the samples; the mean loss."""
        steps, losses = self._schedule.epochs * self._batches.steps, []
        for i, group in enumerate(self._batches.epoch(epoch)):
            total: dict[str, Floats] = {}
            done = (epoch * self._batches.steps + i) / steps
            if self._pruning is not None:
                self._pruning.advance(done, self._optimizer.weights)
            weights = self._weights
            for feeds in group:
                loss, gradients = self._trained.step(self._given(feeds, weights), weights)
                losses.append(loss)
                total = {name: g + total[name] if total else g for name, g in gradients.items()}
            if self._pruning is not None:
                self._pruning.observe(self._optimizer.weights, total)
                total = self._pruning.masked(total)
            self._optimizer.step(total, rate_at(epoch * self._batches.steps + i, steps, self._schedule.rate))
        return float(np.mean(losses))
