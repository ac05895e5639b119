"""Warnings that follow from the report of a run."""

from __future__ import annotations

from onnxprune._text import percent, plural
from onnxprune.report.build import gate_lines
from onnxprune.report.report import EVEN, Report
from onnxprune.verification.decisions import NORMAL_95, Estimate

TOLERATED, DOUBT = 0.01, 1.28
"""A report warns where accuracy is lost beyond the first by so many standard errors: by chance once in ten times."""
ERROR_WARNING = 0.5
"""From this squared error of outputs that choose no class on, as a share of their variance, a report warns."""
SHORTEST = 1e-4
"""Seconds of a run below which the time of the call itself dominates, and no warning follows from its latency."""
LEAST_SAVED, FAST_ENOUGH = 0.05, 0.5
"""A warning follows where this share of the MACs went, and the time fell by less than the other share of that."""


def warnings(report: Report) -> list[str]:
    """Warnings that follow from the report of a run."""
    lines = []
    if not report.verified:
        lines.append(f"not verified: {report.unverified_because}")
    for name, target in report.targets.items():
        if not target.met:
            left = "what is left cannot be counted" if target.left is None else f"{target.left:,.0f} left"
            lines.append(f"target {name} is missed: {left}, {target.asked:,.0f} asked; no group may lose more")
    lines += gate_lines(report.gates)
    if report.storage is not None and report.storage.sparse:
        lines.append(
            "weights are stored as sparse tensors: onnxruntime opens the file, OpenVINO, MNN, ncnn, tract, onnx2torch "
            "and others do not"
        )
    return [*lines, *_inaccurate(report), *_slow(report)]


def _inaccurate(report: Report) -> list[str]:
    """A warning where held-out samples say that accuracy is lost, or that outputs are others."""
    found = report.calibration
    if found is None:
        return []
    if found.decisions is not None:
        lost = found.decisions.lost
        error = (lost.high - lost.low) / (2 * NORMAL_95)
        if lost.mean - DOUBT * error <= TOLERATED:
            return []
        return [f"accuracy is lost: {interval(lost)} on {found.on}"]
    if found.relative_error is None or found.relative_error > ERROR_WARNING:
        share = "not finite" if found.relative_error is None else f"{100 * found.relative_error:.0f}% of their variance"
        return [f"the outputs are others than before: squared error {share} on {found.on}"]
    return []


def _slow(report: Report) -> list[str]:
    """A warning where the time fell by much less than the MACs."""
    found, macs = report.latency, report.macs
    if found is None or not macs.before or macs.after is None or found.before.wall < SHORTEST:
        return []
    left = macs.after / macs.before
    if left > 1 - LEAST_SAVED or 1 - found.ratio >= FAST_ENOUGH * (1 - left):
        return []
    text = f"a run takes {percent(found.ratio, 1)} of the time at {percent(left, 1)} of the MACs"
    if found.uneven:
        text += (
            f": {found.uneven} of the {plural(found.layers, 'layer')} that have fewer channels now have a number of "
            f"them that is no multiple of {EVEN}; --round-to {EVEN} keeps multiples"
        )
    return [text]


def interval(estimate: Estimate) -> str:
    """A mean in percent with its interval of 95%."""
    low, high = f"{100 * estimate.low:.1f}", f"{100 * estimate.high:.1f}%"
    return f"{100 * estimate.mean:.1f}% ({low} to {high})"
