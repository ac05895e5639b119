"""The stage of timing: what a run of the model takes before and after."""

from __future__ import annotations

from dataclasses import replace

from onnxprune.graph.graph import Graph
from onnxprune.layers.find import linear_layers, matched
from onnxprune.model.model import Model
from onnxprune.options import Checks
from onnxprune.pipeline.original import Original
from onnxprune.report.report import EVEN, LatencyReport, Report
from onnxprune.runtime.io_slices import IoSlices
from onnxprune.verification.check import time_models


def with_latency(report: Report, original: Original, pruned: Model, checks: Checks, io_slices: IoSlices) -> Report:
    """The report with the latency of both models, or with the reason why it could not be measured."""
    found = time_models(original.source, pruned, input_shapes=checks.input_shapes or None, io_slices=io_slices)
    if isinstance(found, str):
        return replace(report, untimed_because=found)
    narrower, uneven = narrowed_layers(original.load(), pruned)
    return replace(
        report,
        latency=LatencyReport(
            found.before, found.after, found.ratio, found.runs, found.threads, layers=narrower, uneven=uneven
        ),
    )


def narrowed_layers(original: Model, pruned: Model) -> tuple[int, int]:
    """How many linear layers have fewer output features than before, and how many of these are no multiple of `EVEN`.

    A layer that had no such multiple before is not counted as uneven.
    """
    pairs = matched(linear_layers(Graph(original.proto)), linear_layers(Graph(pruned.proto)))
    widths = [(a.features[1], b.features[1]) for a, b in pairs if b.features[1] < a.features[1]]
    return len(widths), sum(after % EVEN > 0 and before % EVEN == 0 for before, after in widths)
