"""Evaluates the pruned model on held-out samples."""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.calibration import Samples
from onnxprune.model.model import Model
from onnxprune.model.tensors import FLOATS
from onnxprune.pipeline.data import CalibrationSplit, _Synthetic
from onnxprune.report.report import CalibrationReport
from onnxprune.runtime.io_slices import IoSlices
from onnxprune.verification.comparable_outputs import class_scores, outputs_without_scores
from onnxprune.verification.decisions import Decisions, Estimate
from onnxprune.verification.detections import DetectionSums
from onnxprune.verification.drift import Drift
from onnxprune.verification.estimated_loss import decision_sums, scored_outputs
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
    sums = {name: OutputSums(name, classified=False) for name in names}
    choices = decision_sums(original)
    errors = {name: SampleErrors() for name in names}
    embedded = {name: NeighbourSums(name) for name in outputs_without_scores(original)}
    for pairs in scored_outputs(original, pruned, data.held.batches(), io_slices):
        for name, (a, b) in pairs.items():
            sums[name].add(a, b)
            choices[name].add(a, b)
            errors[name].add(a, b)
            if name in embedded:
                embedded[name].add(a, b)
    chosen = {name: choice.decisions() for name, choice in choices.items()}
    drift = {name: total.drift() for name, total in sums.items()}
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


def _learned(
    original: Model, pruned: Model, data: CalibrationSplit, io_slices: IoSlices, held: Decisions
) -> Estimate | None:
    """The loss of an output on samples that were learned from; None where the held-out ones tell enough."""
    if not data.held_out or held.lost.beyond_doubt or held.lost.high <= LARGE:
        return None
    if held.positions or held.by_class:
        found = _at_positions(original, pruned, data.fit, io_slices)[1].get(held.output)
    else:
        choice = decision_sums(original)[held.output]
        for pairs in scored_outputs(original, pruned, data.fit.batches(), io_slices):
            choice.add(*pairs[held.output])
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
