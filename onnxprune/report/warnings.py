"""Warnings that follow from the report of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from onnxprune.common.text import duration, percent, plain_percent, plural, printable, short
from onnxprune.errors import GIVE_DATA, Words, option, source_of
from onnxprune.options import LATENCY
from onnxprune.report.build import gate_lines
from onnxprune.report.report import EVEN, InputReport, Report
from onnxprune.verification.decisions import Estimate

ERROR_WARNING = 0.03
"""From this squared error of outputs that choose no class on, as a share of their variance, a report warns.

A regression explains about so much less of what it predicts: three points of 100."""
UNMOVED = 1e-3
"""Drift, or share of other classes, below which outputs are the same but for rounding."""
FAR_FROM_TRAINING = 0.25
"""Divergence in nats from which on samples are hardly those of training: it is below 0.1 for samples of the data that a
model was trained on, and 0.5 where their scale is half as large or they miss their mean."""
WRONG_SCALE = 1.35
"""From this quotient of a `ScaleMismatch` on, samples hardly have the scale of training. It is below 1.2 for samples of
the data that a model was trained on, and 1.4 to 10 where values of 0 to 1 are fed for 0 to 255, or the other way."""
SHORTEST = 1e-4
"""Seconds of a run below which the time of the call itself dominates, and no warning follows from its latency."""
LEAST_SAVED, FAST_ENOUGH = 0.05, 0.5
"""A warning follows where this share of the MACs went, and the time fell by less than the other share of that."""


def warnings(report: Report, events: Sequence[str] = ()) -> list[str]:
    """Warnings that follow from the report of a run.

    Args:
        report: The report.
        events: What else happened on the way that a user must know, a line each.
    """
    lines = list(events)
    if not report.verified and "verify" not in report.skipped:
        lines.append(f"not verified: {source_of(report.unverified_because)}")
    for name, target in report.targets.items():
        if not target.met and name == LATENCY:
            left = "-" if target.left is None else duration(target.left / 1e3)
            lines.append(f"target latency is missed: {left} left, {duration(target.asked / 1e3)} asked")
        elif not target.met:
            left = "what is left cannot be counted" if target.left is None else f"{target.left:,.0f} left"
            why = "no group may lose more" if target.predicted is None else f"{target.predicted:,.0f} were predicted"
            lines.append(f"target {name} is missed: {left}, {target.asked:,.0f} asked; {why}")
    lines += gate_lines(report.gates)
    if report.storage is not None and report.storage.sparse:
        lines.append(
            "weights are stored as sparse tensors: onnxruntime opens the file, OpenVINO, MNN, ncnn, tract, onnx2torch "
            "and others do not"
        )
    lines += [*_doubtful_samples(report), *_inaccurate(report), *_slow(report)]
    return [Words(line) for line in lines]


def reached_limits(reached: Sequence[str]) -> list[str]:
    """A warning of each limit of onnxruntime that was reached, once."""
    consequence = "what needed that run was left out, so the result may depend on this limit"
    return [f"{line}; {consequence}" for line in dict.fromkeys(reached)]


def _doubtful_samples(report: Report) -> list[str]:
    """Warnings of calibration samples that cannot be what they are meant to be."""
    found = report.calibration
    if found is None:
        return []
    lines = _doubtful_inputs(found.inputs, found.unused)
    if found.labels is not None:
        lines.append(found.labels)
    if not found.held_out:
        lines.append("too few samples to hold any back: errors are of samples that were learned from")
    if found.mismatch is not None and found.mismatch.divergence > FAR_FROM_TRAINING:
        lines.append(
            f"running statistics of {short(found.mismatch.node)!r} are far from what it reads here (divergence "
            f"{found.mismatch.divergence:.2g}): {_preprocessed(found.inputs)}"
        )
    if found.scale is not None and found.scale.given > WRONG_SCALE * found.scale.best:
        factor = found.scale.factor
        other = f"{max(factor, 1 / factor):.0f} times as {'large' if factor > 1 else 'small'}"
        lines.append(
            f"values {other} suit the weights better "
            f"(median |mean| / deviation of all features {found.scale.best:.2g}, of these samples "
            f"{found.scale.given:.2g}): {_preprocessed(found.inputs)}"
        )
    return [f"calibration data: {line}" for line in lines]


def doubtful_inputs(inputs: Mapping[str, InputReport], unused: Sequence[str]) -> list[str]:
    """Warnings of samples that nothing can be learnt from, and of arrays that nothing reads."""
    return [f"calibration data: {line}" for line in _doubtful_inputs(inputs, unused)]


def _doubtful_inputs(inputs: Mapping[str, InputReport], unused: Sequence[str]) -> list[str]:
    lines = [f"array {printable(name)!r} is neither an input nor labels, and is not used" for name in unused]
    for name, seen in inputs.items():
        if seen.broken:
            what = f"{plural(seen.broken, 'sample')} of {seen.samples}"
            lines.append(f"input {printable(name)!r} has values that are not finite in {what}")
    if inputs and all(seen.alike and seen.samples > 1 for seen in inputs.values()):
        lines.append("all samples are equal")
    return lines


def _preprocessed(inputs: Mapping[str, InputReport]) -> str:
    """A question, and what the samples hold."""
    ranges = "; ".join(_range(name, seen) for name, seen in inputs.items())
    return f"are the samples preprocessed as in training? {ranges}"


def _range(name: str, seen: InputReport) -> str:
    numbers = [(word, getattr(seen, word)) for word in ("low", "high", "mean", "deviation")]
    return f"{printable(name)}: " + ", ".join(f"{word} {n:.3g}" for word, n in numbers if n is not None)


def _inaccurate(report: Report) -> list[str]:
    """A warning where held-out samples say that accuracy is lost, or that outputs are others."""
    found = report.calibration
    if found is None:
        return _blind(report)
    lost, learned = None if found.decisions is None else found.decisions.lost, found.learned
    if report.metric is not None and report.metric.name.partition(":")[0] in ("top1", "top5"):
        lost, learned = report.metric.drop or lost, None
    if lost is not None and lost.beyond_doubt:
        return [f"accuracy is lost: {interval(lost)} on {found.on}"]
    if learned is not None and learned.beyond_doubt:
        return [f"accuracy is lost: {interval(learned)} even on samples that were learned from"]
    if lost is not None:
        return []
    if found.relative_error is None or found.relative_error > ERROR_WARNING:
        return [f"the outputs are others than before: squared error {error_share(found.relative_error)} on {found.on}"]
    return []


def error_share(error: float | None) -> str:
    """A squared error of the outputs, relative to their variance, in words; None where it is not finite."""
    if error is None or not math.isfinite(error):
        return "not finite"
    return f"{plain_percent(error)} of their variance"


def _blind(report: Report) -> list[str]:
    """A warning where outputs moved that do not survive pruning without samples, as a rule."""
    moved = [
        1 - d.equal if d.equal is not None else d.rel_rms
        for name, d in report.drift.items()
        if name in report.many_positions
    ]
    if all(error is not None and error < UNMOVED for error in moved):
        return []
    names = ", ".join(map(short, report.many_positions))
    has = "has" if len(report.many_positions) == 1 else "have"
    return [
        f"accuracy unknown, and at risk: {names} {has} values for many positions of a sample (a detector, a map, a "
        f"sequence); pruned without samples, such a model may find nothing any more: {GIVE_DATA}"
    ]


def _slow(report: Report) -> list[str]:
    """A warning where the time fell by much less than the MACs, unless a time was asked for."""
    found, macs = report.latency, report.macs
    if (
        LATENCY in report.targets
        or found is None
        or not macs.before
        or macs.after is None
        or found.before.wall < SHORTEST
    ):
        return []
    left = macs.after / macs.before
    if left > 1 - LEAST_SAVED or 1 - found.ratio >= FAST_ENOUGH * (1 - left):
        return []
    text = f"a run takes {percent(found.ratio, 1)} of the time at {percent(left, 1)} of the MACs"
    if found.uneven:
        text += (
            f": {found.uneven} of the {plural(found.layers, 'layer')} that have fewer channels now have a number of "
            f"them that is no multiple of {EVEN}; {option('round_to', EVEN)} keeps multiples"
        )
    return [f"{text}; {option('target', {'latency': 0.6})} prunes to a time"]


def interval(estimate: Estimate) -> str:
    """A mean in percent with its interval of 95%."""
    low, high = f"{100 * estimate.low:.1f}", f"{100 * estimate.high:.1f}%"
    return f"{100 * estimate.mean:.1f}% ({low} to {high})"
