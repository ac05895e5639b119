"""What a run did, as data: the JSON report. `terminal` draws it as tables."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from onnxprune.cost.measure import Cost
from onnxprune.coupling.coupling import Coupling
from onnxprune.options import Options
from onnxprune.planning.plan import Plan
from onnxprune.verification.check import Verification


def build(
    coupling: Coupling,
    plan: Plan,
    before: Cost,
    after: Cost,
    verified: Verification,
    seconds: dict[str, float],
    options: Options | None,
) -> dict[str, Any]:
    """The report; strict JSON data, null for what cannot be counted.

    Args:
        coupling: The analysis of the original.
        plan: What was taken.
        before: Cost of the original.
        after: Cost of the result.
        verified: What the runtime check found.
        seconds: Time of each stage.
        options: What was asked; None where a plan was applied.
    """
    groups = [{k: v for k, v in entry.items() if k != "scores"} for entry in plan.groups]
    open_to = ("exact", "mixing") if plan.mixing else ("exact",)
    units = sum(g["channels"] for g in groups if g["grade"] in open_to)
    taken = sum(len(g["removed"]) for g in groups)
    report: dict[str, Any] = clean(
        {
            "params": {"before": before.params, "after": after.params},
            "macs": {"before": before.macs, "after": after.macs},
            "bytes": {"before": before.bytes, "after": after.bytes},
            "drift": {name: asdict(d) for name, d in verified.drift.items()},
            "verified": verified.verified,
            "unverified_because": verified.reason,
            "channels": {"before": units, "after": units - taken},
            "zeroed": {name: z["ratio"] for name, z in plan.zeroed.items()},
            "dense": {},
            "permuted": None,
            "storage": None,
            "mixing": plan.mixing,
            "interface": {
                name: {axis: len(lost) for axis, lost in axes.items()} for name, axes in plan.interface.items() if axes
            },
            "options": None if options is None else asked(options),
            "whole_because": whole_because(coupling) if not (plan.removed or plan.permuted or plan.zeroed) else None,
            "groups": groups,
            "targets": {},
            "gates": {},
            "search": None,
            "repair": None,
            "unrepaired_because": None,
            "calibration": None,
            "seconds": {k: round(v, 4) for k, v in seconds.items()},
        }
    )
    return report


def asked(options: Options) -> dict[str, Any]:
    """The options under their names on the command line."""
    data = {f.name: getattr(options, f.name) for f in fields(options)}
    calib, stats, pattern, _ = (data.pop(name) for name in ("calib", "stats", "pattern", "across"))
    named = calib if calib is None or isinstance(calib, str) else type(calib).__name__
    across = bool(options.across) or (options.spreads_zeros and not options.channels)
    return {
        "global": across,
        **data,
        "pattern": pattern if isinstance(pattern, str) else list(pattern),
        "importance": options.criterion if options.channels else options.chooses_zeros,
        "calib": named,
        "stats": None if stats is None else os.fspath(stats),
        "only": list(options.only),
        "ignore": list(options.ignore),
        "shrink": list(options.shrink),
        "target": dict(options.target),
        "gate": dict(options.gate),
        "input_shapes": {name: list(shape) for name, shape in options.input_shapes.items()},
    }


def gate_lines(gates: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line on every gate that is missed."""
    lines = []
    for name, gate in gates.items():
        asked = f"{'at most' if name.startswith('drift') else 'at least'} {gate['asked']:g} asked"
        measured = "cannot be measured" if gate["measured"] is None else f"is missed: {gate['measured']:.3g} measured"
        if not gate["met"]:
            lines.append(f"gate {name} {measured} on {gate['on']}, {asked}")
    return lines


def whole_because(coupling: Coupling) -> list[str]:
    """Why nothing was taken: the commonest reasons that groups are pinned for."""
    counts: dict[str, int] = {}
    for group in coupling.groups:
        for reason in group.reasons:
            counts[reason] = counts.get(reason, 0) + group.units
    if any(not g.reasons for g in coupling.groups):
        return ["what was asked for takes no whole unit of any group that is left open"]
    return sorted(counts, key=lambda r: -counts[r])[:5] or ["no weight has an axis that could be pruned"]


def clean(data: Any) -> Any:
    """The data with null for numbers that JSON lacks."""
    if isinstance(data, dict):
        return {k: clean(v) for k, v in data.items()}
    if isinstance(data, list):
        return [clean(v) for v in data]
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return data
