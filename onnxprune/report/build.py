"""Builds the report of a run from the results of its stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from onnxprune.cost.measure import Cost
from onnxprune.coupling.coupling import Coupling
from onnxprune.planning.plan import Plan
from onnxprune.report.entries import BlockReport, Count
from onnxprune.report.metric import MAX_DROP, GateReport, drop_line
from onnxprune.report.report import GroupReport, Report
from onnxprune.verification.check import Verification

REASONS = 5
"""Number of reasons given for an unpruned model."""


def build(
    coupling: Coupling,
    plan: Plan,
    before: Cost,
    after: Cost,
    verified: Verification,
    seconds: Mapping[str, float],
    options: dict[str, Any] | None,
) -> Report:
    """Builds the fields of the report that every run has.

    Args:
        coupling: The analysis of the original.
        plan: What was taken.
        before: Cost of the original.
        after: Cost of the result.
        verified: What the runtime check found.
        seconds: Time of each stage.
        options: What was asked, see `Options.to_dict`; None where a plan was applied.
    """
    known = {f.name for f in fields(GroupReport)}
    groups = [GroupReport(**{k: v for k, v in entry.items() if k in known}) for entry in plan.groups]
    open_to = ("exact", "mixing") if plan.mixing else ("exact",)
    units = sum(g.channels for g in groups if g.grade in open_to)
    removed = sum(len(g.removed) for g in groups)
    return Report(
        params=Count(before.params, after.params),
        macs=Count(before.macs, after.macs),
        bytes=Count(before.bytes, after.bytes),
        channels=Count(units, units - removed),
        drift=dict(verified.drift),
        verified=verified.verified,
        unverified_because=verified.reason,
        options=options,
        groups=groups,
        blocks=[_block(entry) for entry in plan.depth],
        zeroed={name: z["ratio"] for name, z in plan.zeroed.items()},
        dense={},
        whole_because=None if plan.changes_model else whole_because(coupling),
        mixing=plan.mixing,
        interface={
            name: {axis: len(lost) for axis, lost in axes.items()} for name, axes in plan.interface.items() if axes
        },
        seconds=rounded(seconds),
    )


def _block(entry: Mapping[str, Any]) -> BlockReport:
    """What is said of an entry of a plan's depth."""
    return BlockReport(entry["sum"], list(entry.get("nodes", [])), entry.get("damage"), list(entry.get("ends", [])))


def rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    """Time by stage, to a tenth of a millisecond."""
    return {stage: round(time, 4) for stage, time in seconds.items()}


def gate_lines(gates: Mapping[str, GateReport]) -> list[str]:
    """A line on every gate that is missed."""
    lines = []
    for name, gate in gates.items():
        if name == MAX_DROP:
            lines += [] if gate.met else [drop_line(gate)]
            continue
        asked = f"{'at most' if name.startswith('drift') else 'at least'} {gate.asked:g} asked"
        measured = "cannot be measured" if gate.measured is None else f"is missed: {gate.measured:.3g} measured"
        if not gate.met:
            lines.append(f"gate {name} {measured} on {gate.on}, {asked}")
    return lines


def whole_because(coupling: Coupling) -> list[str]:
    """Why nothing was taken: the reasons that hold most channels, the commonest first."""
    if any(not g.reasons for g in coupling.groups):
        return ["what was asked for takes no whole unit of any group that is left open"]
    ranked = reasons([(g.reasons, g.units) for g in coupling.groups])
    return [reason for reason, _ in ranked[:REASONS]] or ["no weight has an axis that could be pruned"]


def reasons(groups: Sequence[tuple[Sequence[str], int]]) -> list[tuple[str, int]]:
    """Reasons with the channels that each holds, the commonest first; of equal ones the first that occurs.

    Args:
        groups: Reasons and channels of each group.
    """
    counts: dict[str, int] = {}
    for given, units in groups:
        for reason in given:
            counts[reason] = counts.get(reason, 0) + units
    return sorted(counts.items(), key=lambda item: -item[1])
