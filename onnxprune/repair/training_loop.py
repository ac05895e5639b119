"""The loop of a training: epochs of steps, and the weights that are the best on samples that were held back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxprune.common.checkpoint import MISSING, LongStep
from onnxprune.common.progress import step
from onnxprune.common.storable import storable
from onnxprune.gradients.optimizer import RelativeAdam, rate_at
from onnxprune.gradients.trainable import Trainable
from onnxprune.repair.paired_test import is_better
from onnxprune.repair.training_batches import TrainingBatches
from onnxprune.runtime.io_slices import Batch

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Weights = Mapping[str, Floats]
Errors = Callable[[Weights], NDArray[np.float64]]
"""The error of each held-back sample, with some weights; shape (samples,)."""


RATE = 4e-3
"""The highest rate of a training on the outputs of a teacher, as a share of the size of the weights.

A quarter of it left more error on held-back samples of every net that was made better at all, and three times as much
left some no better than before (`docs/gradients.md`).
"""


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

    def state(self) -> Any:
        """All that it has learnt and pruned, storable, for `restore`."""
        ...

    def restore(self, state: Any) -> None:
        """Goes on from a state of a training of the same model."""
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
        lost: Steps that left weights as they were, because their gradients were not finite.
    """

    before: float
    after: float
    epochs: int
    best: int | None
    weights: Weights | None
    lost: int = 0


@storable
@dataclass(frozen=True)
class _Best:
    """The best of the epochs so far.

    Attributes:
        error: Sum of the errors of the held-back samples.
        epoch: The epoch; None for the weights at the beginning.
        weights: Its weights; None for those.
    """

    error: float
    epoch: int | None = None
    weights: Weights | None = None


B = TypeVar("B", _Best, None)


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
        kept = LongStep("training on all samples")
        begin, _ = self._restored(kept, None)
        for epoch in range(begin, epochs):
            self._epoch(epoch)
            kept.keep(partial(self._state, epoch + 1, None))
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
        kept, begin = LongStep("training"), time.monotonic()
        first = errors(self.start)
        before = float(first.sum())
        done, best = self._restored(kept, _Best(before))
        while done < self._schedule.epochs:
            loss, done = self._epoch(done), done + 1
            found = errors(self._weights)
            error = float(found.sum())
            logger.info("epoch %d: loss %.4g, held-back error %.4g (%.4g at first)", done, loss, error, before)
            improves = error < best.error and is_better(first, found)
            if self._pruning is not None:
                improves = self._pruning.complete and (best.weights is None or error < best.error)
            if improves:
                best = _Best(error, done, {name: w.copy() for name, w in self._weights.items()})
            kept.keep(partial(self._state, done, best))
            step(f"epoch {done}, error {error / max(before, 1e-30):.0%}", done, self._schedule.epochs)
            if self._schedule.minutes is not None and time.monotonic() - begin > 60 * self._schedule.minutes:
                break
        if best.weights is None and self._pruning is not None:
            self._pruning.advance(1.0, self._optimizer.weights)
            best = _Best(float(errors(self._weights).sum()), done, self._weights)
        return Judged(before, best.error, done, best.epoch, best.weights, self._optimizer.lost)

    def _state(self, done: int, best: _Best | None) -> dict[str, Any]:
        """All that later epochs depend on."""
        pruning = None if self._pruning is None else self._pruning.state()
        return {"done": done, "best": best, "optimizer": self._optimizer.state(), "pruning": pruning}

    def _restored(self, kept: LongStep, best: B) -> tuple[int, B]:
        """How many epochs an earlier run has done, and the best of them; here the given one where there is none."""
        state = kept.latest()
        if state is MISSING:
            return 0, best
        self._optimizer.restore(state["optimizer"])
        if self._pruning is not None:
            self._pruning.restore(state["pruning"])
        return state["done"], state["best"]

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
