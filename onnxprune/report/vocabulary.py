"""What a smaller vocabulary did, as data and as lines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from onnxprune.common.text import plural, printable
from onnxprune.report.entries import Count
from onnxprune.report.json_data import JsonValue
from onnxprune.verification.drift import Drift


@dataclass(frozen=True)
class VocabularyReport(JsonValue):
    """What a smaller vocabulary did.

    Attributes:
        tokens: Ids before and after.
        params: Parameters before and after.
        bytes: Size of the model before and after.
        tables: Tables that lost rows.
        inputs: Inputs that hold ids.
        outputs: Outputs with a value for each id.
        remap: ``inside`` where the graph still takes the old ids, ``outside`` where it takes the new ones.
        logits: ``kept`` where outputs have a value for each kept id, ``all`` where for each old one.
        unknown: The old id that dropped ones are taken for; None where nothing is.
        dropped_share: Share of the ids in the text to check with that are dropped; None without one.
        drift: How far each output moved on kept ids, by name.
        verified: Whether both models ran on the same ids.
        unverified_because: Why they did not.
        notes: What was written beside the model, a line each.
    """

    tokens: Count
    params: Count
    bytes: Count
    tables: list[str]
    inputs: list[str]
    outputs: list[str]
    remap: str
    logits: str
    unknown: int | None
    dropped_share: float | None
    drift: dict[str, Drift] = field(default_factory=dict)
    verified: bool = False
    unverified_because: str | None = None
    notes: list[str] = field(default_factory=list)


def vocabulary_lines(report: VocabularyReport, model: str, output: str) -> list[Any]:
    """The report as lines for a terminal."""
    counts = [("ids", report.tokens), ("parameters", report.params), ("bytes", report.bytes)]
    lines = [f"{printable(model)} -> {printable(output)}"]
    lines += [f"{name:11s} {count.before or 0:>14,} -> {count.after or 0:,}" for name, count in counts]
    lines.append(f"tables: {', '.join(map(printable, report.tables))}")
    if report.remap == "inside":
        lines.append(f"the graph takes the old ids; dropped ones are taken for {report.unknown}")
    else:
        lines.append("the graph takes new ids: the map beside the model has them")
    if report.outputs:
        places = "in their old places" if report.logits == "all" else "in the order of the kept ids"
        lines.append(f"{', '.join(map(printable, report.outputs))}: values {places}")
    if report.dropped_share is not None:
        lines.append(f"of the text to check with, {100 * report.dropped_share:.3g}% of the ids are dropped")
    lines += report.notes
    worst = max((d.rel_rms or 0.0 for d in report.drift.values()), default=0.0)
    lines.append(
        f"Verified: on kept ids {plural(len(report.drift), 'output')} as before (relative RMS {worst:.1e} at most)"
        if report.verified
        else f"not verified: {report.unverified_because}"
    )
    return ["\n".join(lines)]
