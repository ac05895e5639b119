"""Tables of costs and drift before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from onnxprune.common.text import count, duration, percent, plural, short
from onnxprune.report.entries import Count
from onnxprune.report.report import LatencyReport
from onnxprune.report.tables import Part, number, table
from onnxprune.verification.drift import Drift
from onnxprune.verification.latency import Latency

OUTPUTS = 5
"""Outputs whose drift is shown."""


def costs(rows: Sequence[Sequence[str]]) -> Table:
    """A table with the columns before, after and share left."""
    return table(["", ">before", ">after", ">left"], rows)


def cost_rows(params: Count, macs: Count, nbytes: Count) -> list[list[str]]:
    """The rows of parameters, MACs and bytes."""
    return [row("parameters", params), row("MACs", macs), row("bytes", nbytes, "B")]


def latency_rows(latency: Latency | LatencyReport | None) -> list[list[str]]:
    """The rows of elapsed time and processor time of a run."""
    if latency is None:
        return []
    before, after, threads = latency.before, latency.after, latency.threads
    how = "default threads" if threads == 0 else plural(threads, "thread")
    return [
        [title, duration(old), duration(new), percent(new, old) if old > 0 else "-"]
        for title, old, new in (
            (f"time of a run, {how}", before.wall, after.wall),
            ("processor time", before.cpu, after.cpu),
        )
    ]


def row(title: str, pair: Count, unit: str = "") -> list[str]:
    """A row of such a table."""
    shown = ["unknown" if n is None else count(n, unit) for n in (pair.before, pair.after)]
    known = pair.before is not None and pair.after is not None
    return [title, *shown, percent(pair.after or 0, pair.before or 0) if known else "-"]


def drifts(drift: Mapping[str, Drift], on: str) -> list[Part]:
    """How far each output moved on some inputs, the furthest first; of classes, how many are equal."""
    distances = {name: d for name, d in drift.items() if d.equal is None}
    order = sorted(distances, key=lambda name: -(drift[name].rel_rms or 0.0))
    rows = [
        [short(name), *(number(value) for value in (drift[name].max_abs, drift[name].rel_rms, drift[name].cosine))]
        for name in order[:OUTPUTS]
    ]
    shares = sorted((d.equal, name) for name, d in drift.items() if d.equal is not None)
    equal = [[short(name), percent(share, 1)] for share, name in shares[:OUTPUTS]]
    parts: list[Part] = []
    if rows:
        parts.append(table([f"drift of output on {on}", ">max abs", ">rel rms", ">cosine"], rows, len(order)))
    if equal:
        parts.append(table([f"classes of output on {on}", ">equal"], equal, len(shares)))
    return parts
