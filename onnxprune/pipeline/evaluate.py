"""Evaluates the pruned model on held-out samples."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from onnxprune.calibration import Samples
from onnxprune.model.model import Model
from onnxprune.model.tensors import FLOATS
from onnxprune.pipeline.data import CalibrationSplit, _Synthetic
from onnxprune.report.report import CalibrationReport
from onnxprune.runtime.io_slices import IoSlices
from onnxprune.runtime.session import session
from onnxprune.verification.as_array import as_array
from onnxprune.verification.check import Drift
from onnxprune.verification.comparable_outputs import class_scores, outputs_without_scores, with_scores
from onnxprune.verification.decisions import Decisions, DecisionSums, Estimate
from onnxprune.verification.detections import DetectionSums
from onnxprune.verification.neighbours import NeighbourSums
from onnxprune.verification.output_error import Errors, side_by_side
from onnxprune.verification.output_sums import OutputSums
from onnxprune.verification.output_values import OutputValues
from onnxprune.verification.sample_errors import OutputReport, SampleErrors

LARGE = 0.05
"""Where held-out samples do not rule out that so much accuracy is lost, those that were learned from are looked at."""


@dataclass(frozen=True)
class Evaluation:
    """What held-out samples say of a pruned model.

    Attributes:
        report: For the report.
        drift: How far each output moved on them.
    """

    report: CalibrationReport
    drift: dict[str, Drift]


def evaluate(
    original: Model, pruned: Model, data: CalibrationSplit, io_slices: IoSlices, *, learned: bool = False
) -> Evaluation:
    """Evaluates the pruned model on held-out samples: errors of the outputs, and choices.

    Of several outputs that choose classes, the one that is expected to lose most is reported; of several that hold
    embeddings, the one that keeps the fewest neighbours.

    Args:
        original: The model before pruning.
        pruned: The model after it.
        data: The samples.
        io_slices: What its inputs and outputs lost.
        learned: Whether samples that were learned from are looked at where the others are too few to tell.
    """
    error, detected = _at_positions(original, pruned, data.held, io_slices)
    names, scores = [o.name for o in original.proto.graph.output], class_scores(original)
    sums = [OutputSums(name, classified=False) for name in names]
    choices = [DecisionSums(name, scores=name in scores, axis=scores.get(name)) for name in names]
    errors = {name: SampleErrors() for name in names}
    embedded = {name: NeighbourSums(name) for name in outputs_without_scores(original)}
    for pairs in _outputs(original, pruned, data.held, io_slices, names):
        for name, total, choice, (a, b) in zip(names, sums, choices, pairs, strict=True):
            total.add(a, b)
            choice.add(a, b)
            errors[name].add(a, b)
            if name in embedded:
                embedded[name].add(a, b)
    chosen = {name: choice.decisions() for name, choice in zip(names, choices, strict=True)}
    drift = {name: total.drift() for name, total in zip(names, sums, strict=True)}
    for output in original.proto.graph.output:  # of one that holds the classes, its scores were compared
        decided = chosen[output.name]
        if output.name in scores and decided is not None and output.type.tensor_type.elem_type not in FLOATS:
            drift[output.name] = Drift(None, None, None, decided.agreement.mean)
    chosen |= detected
    found = [d for d in chosen.values() if d is not None]
    worst = max(found, key=lambda d: d.lost.mean, default=None)
    vectors = [n for n in (e.neighbours() for e in embedded.values()) if n is not None and chosen.get(n.output) is None]
    furthest = min(vectors, key=lambda n: n.same.mean, default=None)
    agreement = {name: d.agreement.mean for name, d in chosen.items() if d is not None}
    outputs = {name: OutputReport(agreement.get(name), e.worst(data.held.positions)) for name, e in errors.items()}
    more = _learned(original, pruned, data, io_slices, worst) if learned and worst is not None else None
    report = CalibrationReport(
        data.held.count, data.held_out, error, decisions=worst, learned=more, neighbours=furthest, outputs=outputs
    )
    return Evaluation(report, drift)


def _outputs(
    original: Model, pruned: Model, samples: Samples | _Synthetic, io_slices: IoSlices, names: Sequence[str]
) -> Iterator[list[tuple[NDArray[Any], NDArray[Any]]]]:
    """Some outputs of both models, choices as the scores that they were made by, batch by batch."""
    fed, read = itertools.tee(samples.batches())  # in one pass: a reader may have no two at a time
    every = [o.name for o in original.proto.graph.output]
    before = session(with_scores(original)).each(fed)
    after = session(with_scores(pruned)).each(io_slices.feeds(feeds) for feeds in read)
    for wanted, made in zip(before, after, strict=True):
        both = dict(zip(every, zip(io_slices.arrays(every, wanted), made, strict=True), strict=True))
        yield [(as_array(a), as_array(b)) for a, b in (both[name] for name in names)]


def _learned(
    original: Model, pruned: Model, data: CalibrationSplit, io_slices: IoSlices, held: Decisions
) -> Estimate | None:
    """The loss of an output on samples that were learned from; None where the held-out ones tell enough."""
    if not data.held_out or held.lost.beyond_doubt or held.lost.high <= LARGE:
        return None
    if held.positions or held.by_class:
        found = _at_positions(original, pruned, data.fit, io_slices)[1].get(held.output)
    else:
        scores = class_scores(original)
        choice = DecisionSums(held.output, scores=held.output in scores, axis=scores.get(held.output))
        for ((a, b),) in _outputs(original, pruned, data.fit, io_slices, [held.output]):
            choice.add(a, b)
        found = choice.decisions()
    return None if found is None else found.lost


def _at_positions(
    original: Model, pruned: Model, samples: Samples | _Synthetic, io_slices: IoSlices
) -> tuple[float, dict[str, Decisions | None]]:
    """The error of the outputs, weighted as the repair does, and what those find that decide at many positions."""
    outputs = side_by_side([original, pruned], samples.batches(), io_slices, unsquash=True)
    values, errors = OutputValues(outputs.components), Errors(1)
    detections = DetectionSums(outputs.components or ())
    for whole, part in outputs.batches:
        wanted, made = values.reference(whole), values.of(part)
        errors.add_values(wanted, [made])
        if outputs.components is not None:
            detections.add(wanted, made)
    return errors.shares()[0], dict(detections.decisions())
