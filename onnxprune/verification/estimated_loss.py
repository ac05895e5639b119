"""Accuracy that is lost as far as samples without labels tell: from the probabilities of the original."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from numpy.typing import NDArray

from onnxprune.errors import InputError, option
from onnxprune.model.model import Model
from onnxprune.runtime.io_slices import WHOLE, Batch, IoSlices
from onnxprune.runtime.session import session
from onnxprune.verification.as_array import as_array
from onnxprune.verification.comparable_outputs import class_scores, with_scores
from onnxprune.verification.decisions import Decisions, DecisionSums, Estimate
from onnxprune.verification.metric import LabelledBatches
from onnxprune.verification.metric_loss import MetricLoss, from_estimate


def decision_sums(original: Model) -> dict[str, DecisionSums]:
    """What collects the choices of each output of a model, by its name."""
    scores = class_scores(original)
    names = [o.name for o in original.proto.graph.output]
    return {name: DecisionSums(name, scores=name in scores, axis=scores.get(name)) for name in names}


def scored_outputs(
    original: Model, pruned: Model, batches: Iterable[Batch], io_slices: IoSlices
) -> Iterator[dict[str, tuple[NDArray[Any], NDArray[Any]]]]:
    """The outputs of both models by name, choices as the scores that they were made by, batch by batch."""
    names = [o.name for o in original.proto.graph.output]
    fed, read = itertools.tee(batches)  # in one pass: a reader may have no two at a time
    before = session(with_scores(original)).each(fed)
    after = session(with_scores(pruned)).each(io_slices.feeds(feeds) for feeds in read)
    for wanted, made in zip(before, after, strict=True):
        pairs = zip(io_slices.arrays(names, wanted), made, strict=True)
        yield {name: (as_array(a), as_array(b)) for name, (a, b) in zip(io_slices.left(names), pairs, strict=True)}


class EstimatedLoss:
    """Estimates the accuracy that pruned models lose on some samples.

    Attributes:
        unresolved: What a model that changes nothing on these samples may lose on others.

    Args:
        load: Loads the model before pruning.
        samples: The samples; labels are not used.

    Raises:
        InputError: No output of the model chooses classes.
        RunError: onnxruntime does not take the model or the inputs.
    """

    def __init__(self, load: Callable[[], Model], samples: LabelledBatches) -> None:
        self._load, self._samples = load, samples
        self._count = sum(size for _, size in samples.batches())
        same = self._decisions(load(), WHOLE)
        if same is None:
            raise InputError(
                f"{option('max_drop')}: no output chooses classes, so that no loss of accuracy can be estimated",
                f"name one, as in {option('metric', 'module:function')}, or limit the outputs with "
                f"{option('gate', {'drift': 0.05})}",
            )
        self.unresolved = from_estimate(same.lost, self._count).at_most

    def of(self, pruned: Model, io_slices: IoSlices = WHOLE) -> MetricLoss:
        """Estimates what a pruned model loses: of several outputs that choose classes, the one that loses most.

        Args:
            pruned: The model.
            io_slices: What its inputs and outputs lost.
        """
        found = self._decisions(pruned, io_slices)
        if found is None:
            return MetricLoss("accuracy", True, None, None, None, None, self._count, labelled=False)
        return from_estimate(found.lost, self._count)

    def unchanged(self) -> MetricLoss:
        """What the original loses: nothing."""
        nothing = Estimate(0.0, 0.0, 0.0)
        return MetricLoss("accuracy", True, None, None, nothing, 0.0, self._count, labelled=False)

    def _decisions(self, pruned: Model, io_slices: IoSlices) -> Decisions | None:
        original = self._load()
        choices = decision_sums(original)
        for pairs in scored_outputs(original, pruned, (batch for batch, _ in self._samples.batches()), io_slices):
            for name, (a, b) in pairs.items():
                choices[name].add(a, b)
        found = [d for d in (choice.decisions() for choice in choices.values()) if d is not None]
        return max(found, key=lambda d: d.lost.mean, default=None)
