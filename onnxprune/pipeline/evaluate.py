"""Evaluates the pruned model on held-out samples."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from onnxprune.model.model import Model
from onnxprune.model.tensors import FLOATS
from onnxprune.pipeline.data import CalibrationSplit
from onnxprune.report.report import CalibrationReport
from onnxprune.runtime.io_slices import IoSlices
from onnxprune.runtime.session import session
from onnxprune.verification.as_array import as_array
from onnxprune.verification.check import Drift
from onnxprune.verification.comparable_outputs import class_scores, outputs_without_scores, with_scores
from onnxprune.verification.decisions import Decisions, DecisionSums
from onnxprune.verification.detections import DetectionSums
from onnxprune.verification.neighbours import NeighbourSums
from onnxprune.verification.output_error import Errors, side_by_side
from onnxprune.verification.output_sums import OutputSums
from onnxprune.verification.output_values import OutputValues
from onnxprune.verification.sample_errors import OutputReport, SampleErrors


@dataclass(frozen=True)
class Evaluation:
    """What held-out samples say of a pruned model.

    Attributes:
        report: For the report.
        drift: How far each output moved on them.
    """

    report: CalibrationReport
    drift: dict[str, Drift]


def evaluate(original: Model, pruned: Model, data: CalibrationSplit, io_slices: IoSlices) -> Evaluation:
    """Evaluates the pruned model on held-out samples: errors of the outputs, and choices.

    Of several outputs that choose classes, the one that is expected to lose most is reported; of several that hold
    embeddings, the one that keeps the fewest neighbours.
    """
    error, detected = _at_positions(original, pruned, data, io_slices)
    names, scores = [o.name for o in original.proto.graph.output], class_scores(original)
    sums = [OutputSums(name, classified=False) for name in names]
    choices = [DecisionSums(name, scores=name in scores, axis=scores.get(name)) for name in names]
    errors = {name: SampleErrors() for name in names}
    embedded = {name: NeighbourSums(name) for name in outputs_without_scores(original)}
    fed, read = itertools.tee(data.held.batches())  # in one pass: a reader may have no two at a time
    before = session(with_scores(original)).each(fed)
    after = session(with_scores(pruned)).each(io_slices.feeds(feeds) for feeds in read)
    for wanted, made in zip(before, after, strict=True):
        pairs = [(as_array(a), as_array(b)) for a, b in zip(io_slices.arrays(names, wanted), made, strict=True)]
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
    report = CalibrationReport(
        data.held.count, data.held_out, error, decisions=worst, neighbours=furthest, outputs=outputs
    )
    return Evaluation(report, drift)


def _at_positions(
    original: Model, pruned: Model, data: CalibrationSplit, io_slices: IoSlices
) -> tuple[float, dict[str, Decisions | None]]:
    """The error of the outputs, weighted as the repair does, and what those find that decide at many positions."""
    outputs = side_by_side([original, pruned], data.held.batches(), io_slices, unsquash=True)
    values, errors = OutputValues(outputs.components), Errors(1)
    detections = DetectionSums(outputs.components or ())
    for whole, part in outputs.batches:
        wanted, made = values.reference(whole), values.of(part)
        errors.add_values(wanted, [made])
        if outputs.components is not None:
            detections.add(wanted, made)
    return errors.shares()[0], dict(detections.decisions())
