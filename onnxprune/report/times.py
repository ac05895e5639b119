"""Measured times as a table: what each group of channels takes."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxprune.common.text import duration, percent, plural, printable, short
from onnxprune.cost.measure import measure
from onnxprune.cost.time_model import latency
from onnxprune.coupling.coupling import Coupling
from onnxprune.engines.times import Times
from onnxprune.errors import Words, on_command_line, option
from onnxprune.model.model import Model
from onnxprune.report.tables import Part, table

SHARES = (0.75, 0.5, 0.25)
"""Shares of the units of a group whose time is shown."""
SHOWN = 12
"""Groups that are shown."""


def summary(times: Times, coupling: Coupling) -> dict[str, Any]:
    """What was measured, and what each group saves by itself when it keeps 75, 50 and 25% of its units.

    Args:
        times: The times.
        coupling: The analysis of the model.
    """
    groups = [g for g in coupling.groups if g.name in times.units]
    shapes = measure(Model(coupling.graph.proto), times.input_shapes, run=True).shapes
    model = latency(coupling, groups, shapes, times)
    nothing = np.zeros(len(groups), dtype=np.int64)
    saved = {
        g.name: [model.saving(nothing, i, round((1 - share) * g.units)) / times.milliseconds for share in SHARES]
        for i, g in enumerate(groups)
    }
    return {
        "engine": times.engine,
        "device": times.device,
        "milliseconds": round(times.milliseconds, 6),
        "measurements": len(times.rows),
        "groups": {
            g.name: {
                "units": g.units,
                "saved": {str(s): round(x, 4) for s, x in zip(SHARES, saved[g.name], strict=True)},
            }
            for g in groups
        },
    }


def tables(times: Times, coupling: Coupling, output: str) -> list[Part]:
    """The same for a terminal, the groups that save most first."""
    found = summary(times, coupling)
    groups = sorted(found["groups"].items(), key=lambda item: -item[1]["saved"]["0.5"])
    rows = [
        [printable(short(name)), str(group["units"]), *(percent(x, 1) for x in group["saved"].values())]
        for name, group in groups[:SHOWN]
    ]
    kept = [f"saved at {100 * share:g}%" for share in SHARES]
    use = on_command_line(Words(f"{option('target', {'latency': 0.6})} {option('times', output)}"))
    rest = f"; {plural(len(groups) - SHOWN, 'further group')} in {output}" if len(groups) > SHOWN else ""
    return [
        f"{duration(times.milliseconds / 1e3)} a run: {printable(times.engine)}\n{printable(times.device)}",
        table(["group", "units", *kept], rows),
        f"What a group saves by itself of the time of the model when it keeps 75, 50 or 25% of its units{rest}",
        f"{plural(len(times.rows), 'measurement')} in {output}, for {use}",
    ]
