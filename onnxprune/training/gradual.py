"""Pruning while a model is trained: zeros or channels that become more along a schedule.

The share that is pruned after step k of n is ``end + (start - end) (1 - k/n)^3`` (Zhu and Gupta, "To prune, or not to
prune", 2017), or rises in a straight line. What is pruned is multiplied by zero while its weights are kept beneath, so
that it can come back as long as the schedule runs; then it stays. Scores are magnitudes, another criterion of weights,
or movement: how far the loss pushed a weight away from zero, summed over the steps (Sanh et al., "Movement pruning",
NeurIPS 2020).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxprune import sparsity
from onnxprune.common.math import share as count_of
from onnxprune.coupling.coupling import Coupling, analyze
from onnxprune.coupling.groups import Grade, Group
from onnxprune.edit.remove import remove
from onnxprune.errors import InputError, option
from onnxprune.extensions.patterns import Pattern
from onnxprune.extensions.points import Criterion
from onnxprune.gradients.single_precision import write_back
from onnxprune.graph.graph import Graph
from onnxprune.graph.operators import WeightLayout
from onnxprune.importance.element_scores import element_scores
from onnxprune.importance.gates import Gates, unit_masks
from onnxprune.importance.score import score
from onnxprune.layers.real_weights import RealWeights
from onnxprune.model.model import Model

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Weights = Mapping[str, Floats]

EXPONENTS = {"cubic": 3, "linear": 1}
"""Schedules by name: the power of what is left of the steps."""
RISE = 2 / 3
"""Share of the training in which the schedule runs; the rest is trained with what is left."""


@dataclass(frozen=True)
class Ramp:
    """How much is pruned, and when.

    Attributes:
        kind: Name of the schedule.
        start: Share that is pruned before the first step of the training.
        end: Share at the end of the schedule.
        steps: In how many steps it is reached.
    """

    kind: str
    start: float
    end: float
    steps: int

    def share(self, step: int) -> float:
        """The share that is pruned after a step of the schedule."""
        rest: float = (1 - step / self.steps) ** EXPONENTS[self.kind]
        return self.end + (self.start - self.end) * rest


class Pruner(Protocol):
    """Chooses what is pruned of a model that is trained."""

    def observe(self, weights: Weights, gradients: Weights) -> None:
        """Learns from a step of the training."""
        ...

    def masks(self, weights: Weights, share: float, progress: float) -> dict[str, Mask]:
        """What is zero, by the name of the weight.

        Args:
            weights: The weights.
            share: The share that is to be pruned.
            progress: How much of the schedule is done, from 0 to 1.
        """
        ...

    def finish(self, model: Model, weights: Weights) -> float:
        """Stores the weights in the model, in place, without what is pruned; returns the share that was pruned."""
        ...

    def state(self) -> Any:
        """What it has learnt and chosen, storable, for `restore`."""
        ...

    def restore(self, state: Any) -> None:
        """Goes on from a state of a pruner of the same model."""
        ...


class ZeroPruner:
    """Sets weights to zero in a pattern."""

    def __init__(self, model: Model, pattern: Pattern, criterion: Criterion | None) -> None:
        """Finds the weights that take the pattern.

        Args:
            model: The model.
            pattern: The pattern; its share is that of the schedule.
            criterion: What scores the elements; None for movement.
        """
        coupling = analyze(Graph(RealWeights(model).model.proto))
        self._layouts: dict[str, WeightLayout | None] = {
            w.value.name: w.layout
            for w in sparsity.weights(coupling)
            if w.value.key == w.value.name and (pattern.elementwise or (w.layout is not None and not w.recurrent))
        }
        self._pattern, self._criterion = pattern, criterion
        self._moved: dict[str, NDArray[np.float64]] = {}
        self._zero: dict[str, Mask] = {}

    def observe(self, weights: Weights, gradients: Weights) -> None:
        """See `Pruner`."""
        if self._criterion is None:
            _move(self._moved, weights, gradients, self._layouts)

    def masks(self, weights: Weights, share: float, progress: float) -> dict[str, Mask]:
        """See `Pruner`."""
        self._zero = {}
        for name, layout in self._layouts.items():
            if name in weights:
                self._zero[name] = self._mask(self._scores(name, weights[name]), layout, share, progress)
        return self._zero

    def _scores(self, name: str, weight: Floats) -> NDArray[Any]:
        if self._criterion is not None:
            return element_scores(self._criterion, weight)
        moved = self._moved.get(name)
        return np.abs(weight) if moved is None else moved - moved.min()

    def _mask(self, scores: NDArray[Any], layout: WeightLayout | None, share: float, progress: float) -> Mask:
        """The mask of the pattern; of one that has no share, the least part of it while the schedule runs."""
        if self._pattern.takes_share:
            return self._pattern.with_share(share).mask(scores, layout)
        whole = self._pattern.mask(scores, layout)
        order = np.flatnonzero(whole)[np.argsort(scores[whole], kind="stable")]
        part = np.zeros(scores.size, dtype=bool)
        part[order[: count_of(progress, len(order))]] = True
        return part.reshape(scores.shape)

    def state(self) -> Any:
        """See `Pruner`."""
        return self._moved, self._zero

    def restore(self, state: Any) -> None:
        """See `Pruner`."""
        self._moved, self._zero = state

    def finish(self, model: Model, weights: Weights) -> float:
        """See `Pruner`."""
        write_back(model, weights)
        return sum(int(m.sum()) for m in self._zero.values()) / max(sum(m.size for m in self._zero.values()), 1)


class ChannelPruner:
    """Removes channels: while the model is trained all weights that they own are zero, which is the same."""

    def __init__(self, model: Model, criterion: Criterion | None, seed: int) -> None:
        """Finds the groups that can be pruned exactly.

        Args:
            model: The model, which holds the weights that are scored from then on.
            criterion: What scores the channels; None for movement.
            seed: Seed of a criterion that draws.

        Raises:
            InputError: There are none, or weights are quantised.
        """
        if RealWeights(model).found:
            raise InputError(
                "channels of quantised weights do not go while they are trained",
                f"prune the model, then train what is left without {option('schedule')}",
            )
        self._model, self._criterion, self._seed = model, criterion, seed
        self._coupling: Coupling = analyze(Graph(model.proto))
        self._groups: list[Group] = [g for g in self._coupling.groups if g.grade is Grade.EXACT]
        if not self._groups:
            raise InputError("no channels of the model may be pruned", "onnxprune inspect shows why")
        self._gates = Gates(model, self._coupling, self._groups)
        self._moved: dict[str, NDArray[np.float64]] = {}
        self._gone: list[NDArray[np.int64]] = [np.zeros(0, np.int64) for _ in self._groups]

    def observe(self, weights: Weights, gradients: Weights) -> None:
        """See `Pruner`."""
        if self._criterion is None:
            _move(self._moved, weights, gradients, self._gates.weights)

    def masks(self, weights: Weights, share: float, progress: float) -> dict[str, Mask]:
        """See `Pruner`."""
        scores = self._scores(weights)
        self._gone = [
            np.argsort(s, kind="stable")[: min(count_of(share, g.units), g.most())]
            for g, s in zip(self._groups, scores, strict=True)
        ]
        return unit_masks(self._groups, self._gone, {name: array.shape for name, array in weights.items()})

    def _scores(self, weights: Weights) -> Sequence[NDArray[np.float64]]:
        known = self._gates.sums(self._moved) if self._criterion is None else [None] * len(self._groups)
        if any(one is None for one in known):
            write_back(self._model, weights)
            by_weights = score(self._model, self._coupling, self._groups, self._criterion or "l2", seed=self._seed)
            return [w if one is None else one for one, w in zip(known, by_weights, strict=True)]
        return [one for one in known if one is not None]

    def state(self) -> Any:
        """See `Pruner`."""
        return self._moved, self._gone

    def restore(self, state: Any) -> None:
        """See `Pruner`."""
        self._moved, self._gone = state

    def finish(self, model: Model, weights: Weights) -> float:
        """See `Pruner`."""
        write_back(model, weights)
        removed = np.zeros(len(self._coupling.channel), dtype=bool)
        for group, gone in zip(self._groups, self._gone, strict=True):
            removed[group.channels[gone]] = True
        remove(model, self._coupling, removed)
        return sum(map(len, self._gone)) / sum(g.units for g in self._groups)


def _move(
    moved: dict[str, NDArray[np.float64]], weights: Weights, gradients: Weights, names: Mapping[str, Any]
) -> None:
    """Adds how far a step pushes weights away from zero."""
    for name, gradient in gradients.items():
        if name in names and np.isfinite(gradient).all():
            push = -gradient.astype(np.float64) * weights[name]
            moved[name] = moved[name] + push if name in moved else push


class GradualPruning:
    """A pruner that follows a schedule through a training.

    Attributes:
        complete: Whether the end of the schedule is reached.
    """

    def __init__(self, pruner: Pruner, ramp: Ramp) -> None:
        self._pruner, self._ramp = pruner, ramp
        self._done = -1
        self._zero: dict[str, Mask] = {}

    @property
    def complete(self) -> bool:
        """Whether the end of the schedule is reached."""
        return self._done >= self._ramp.steps

    def advance(self, done: float, weights: Weights) -> None:
        """Prunes what is due after a share of the training."""
        due = min(self._ramp.steps, int(done / RISE * self._ramp.steps + 1e-9))
        if due > self._done:
            self._done = due
            self._zero = self._pruner.masks(weights, self._ramp.share(due), due / self._ramp.steps)

    def masked(self, arrays: Weights) -> dict[str, Floats]:
        """Weights, or their gradients, with zeros where they are pruned."""
        return {name: np.where(self._zero[name], 0, a) if name in self._zero else a for name, a in arrays.items()}

    def observe(self, weights: Weights, gradients: Weights) -> None:
        """Learns from a step of the training, until the schedule has ended."""
        if not self.complete:
            self._pruner.observe(weights, gradients)

    def state(self) -> Any:
        """See `training_loop.PruningWhileTraining`."""
        return self._done, self._zero, self._pruner.state()

    def restore(self, state: Any) -> None:
        """See `training_loop.PruningWhileTraining`."""
        self._done, self._zero, pruner = state
        self._pruner.restore(pruner)
