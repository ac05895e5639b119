"""The report of a run as tables and lines for people to read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from rich.table import Table

from onnxprune.common.text import duration, percent, plain_percent, plural, printable, short
from onnxprune.errors import on_command_line
from onnxprune.options import LATENCY
from onnxprune.repair.distilled import Distillation
from onnxprune.repair.layerwise import Refit
from onnxprune.report.before_after import cost_rows, costs, drifts, latency_rows, row
from onnxprune.report.build import reasons
from onnxprune.report.changes import blocks, reordered, stored
from onnxprune.report.entries import Count
from onnxprune.report.metric import MAX_DROP, SURE, GateReport, metric_lines
from onnxprune.report.report import Amount, GroupReport, Report
from onnxprune.report.tables import REASON, ROWS, Part, number, table
from onnxprune.report.warnings import error_share, interval

MOST_SHRUNK = 6
"""Lines on inputs and outputs that are smaller."""
REASONS = 3
"""Reasons for groups that are not pruned."""
CHAIN, GATES = " + ", re.compile(r" (input|state) \d+$")
"""How the records of refits name layers that were refitted together, and matrices of one recurrent layer."""
LEFT_OUT = {
    "repair": "repair",
    "judge": "measurement on held-out samples",
    "store": "sparse storage",
    "gates": "gates",
    "verify": "verification",
    "time": "timing",
}
"""Stages that a dry run leaves out, in words."""
RUNS_AS_BEFORE = "Verified: valid, runs in onnxruntime, with the same inputs and outputs"


def run(report: Report, model: str, output: str | None, extra: Sequence[Sequence[str]] = ()) -> list[Part]:
    """The report of a run.

    Args:
        report: The report.
        model: File name of the original.
        output: File name of the result; None after a dry run.
        extra: Rows for the end of the table: title, before, after, share that is left.
    """
    written = f"-> {printable(output)}" if output is not None else "(no model is written)"
    rows = [*cost_rows(report.params, report.macs, report.bytes), *latency_rows(report.latency)]
    if report.channels.before and _shows_channels(report):
        rows.append(row("prunable channels", report.channels))
    parts: list[Part] = [f"{printable(model)} {written}", costs([*rows, *extra])]
    parts += [*meaning(report), *reordered(report), *stored(report)]
    if not report.skipped:
        parts.append(accuracy(report))
    parts += drifts(report.drift, report.drift_on)
    if report.gates:
        parts.append(gates(report.gates))
    if output is None:
        parts.append(removed(report.groups))
    if _shows_channels(report):
        parts.append(rest(report.groups, report.mixing))
    parts.append("\n".join(printable(on_command_line(note)) for note in report.notes))
    stages = ", ".join(f"{name} {duration(s)}" for name, s in report.seconds.items())
    parts.append(f"{printable(_checked(report))}\n{duration(sum(report.seconds.values()))}: {stages}")
    return [p for p in parts if p]


def _checked(report: Report) -> str:
    """What is known of whether the result is right."""
    if report.skipped:
        *most, last = [LEFT_OUT[stage] for stage in report.skipped]
        listed = f"{', '.join(most)} and {last}" if most else last
        return f"Dry run without {listed}"
    if report.verified:
        gone = ["those that went"] if any(block.ends for block in report.blocks) else []
        but = [*gone, *(["what these lost"] if report.interface else [])]
        return f"{RUNS_AS_BEFORE}{' but for ' if but else ''}{' and '.join(but)}"
    return f"NOT verified: {on_command_line(report.unverified_because or '')}"


def _shows_channels(report: Report) -> bool:
    """Whether the report shows channels: some were removed, or there are no zeros to show instead."""
    return any(g.removed for g in report.groups) or not report.zeroed


def meaning(report: Report) -> list[Part]:
    """The request, and the share of channels, parameters and MACs that it removed."""
    if report.whole_because is not None:
        lines = [f"- {printable(on_command_line(reason))}" for reason in report.whole_because]
        return ["Nothing was pruned; the result is the model as it was.\n" + "\n".join(lines)]
    pairs = ((report.channels, "prunable channels"), (report.params, "parameters"), (report.macs, "MACs"))
    shares = [f"{_lost(pair)} of the {name}" for pair, name in pairs if _lost(pair)]
    took = [f"{_asked_for(report)} took {', '.join(shares)}"] if _shows_channels(report) else []
    return [
        *took,
        *blocks(report),
        *in_time(report),
        *uneven(report),
        *shrunk(report.interface),
        *zeros(report),
        *learned(report),
    ]


def in_time(report: Report) -> list[Part]:
    """A target of latency: what was asked for, predicted and measured."""
    target = report.targets.get(LATENCY)
    if target is None or target.left is None:
        return []
    shown = [f"{duration(target.asked / 1e3)} asked for"]
    if target.predicted is not None:
        shown.append(f"{duration(target.predicted / 1e3)} predicted")
    shown.append(f"{duration(target.left / 1e3)} measured" if target.checked else "not measured here")
    where = f" in {printable(target.engine)}" if target.checked and target.engine else ""
    return [f"latency: {', '.join(shown)}{where}"]


def _asked_for(report: Report) -> str:
    """The request in words."""
    asked = report.options
    if report.search is not None:
        tried = plural(len(report.search.trials), "model")
        return f"{tried} tried; the smallest within the gates is that of {_amount(report.search.found)}, which"
    if asked is None:
        return "the plan"
    if asked["ratio"] == 0 and report.blocks:
        return f"depth {asked['depth']}"
    if asked["ratio"] is not None:
        return f"ratio {asked['ratio']:g}{' across all groups' if _ranked_globally(report) else ''}"
    return _amount(Amount(target=asked["target"]))


def _ranked_globally(report: Report) -> bool:
    return report.resolved is not None and report.resolved.global_ranking


def _amount(amount: Amount) -> str:
    """Ratio or target in lines."""
    if amount.ratio is not None:
        return f"ratio {amount.ratio:.3g}"
    shown = {name: v if isinstance(v, str) else f"{v:.4g}" for name, v in (amount.target or {}).items()}
    return "target " + ", ".join(f"{name}={value}" for name, value in shown.items())


def zeros(report: Report) -> list[Part]:
    """How much is zero, and which weights were to be and are not."""
    zeroed, lines = list(report.zeroed.values()), []
    if zeroed:
        low, high = f"{100 * min(zeroed):.0f}%", f"{100 * max(zeroed):.0f}%"
        share = low if low == high else f"{low} to {high}"
        lines.append(
            f"{share} of the elements of {plural(len(zeroed), 'weight')} are zero now. Zeros alone make "
            "neither the file smaller nor a run faster: that takes compression, or kernels that skip them."
        )
    for why in dict.fromkeys(report.dense.values()):
        names = [name for name, reason in report.dense.items() if reason == why]
        lines.append(
            f"- {plural(len(names), 'weight')} without zeros ({short(names[0])}"
            f"{', ...' if len(names) > 1 else ''}): {printable(on_command_line(why))}"
        )
    return ["\n".join(lines)] if lines else []


def uneven(report: Report) -> list[Part]:
    """What rounding to multiples changed of a ratio, and widths that were to be rounded and are not."""
    if report.options is None:
        return []
    found: list[Part] = []
    if report.rounded:
        (name, (before, after)), *more = report.rounded.items()
        example = f"{short(name)}: {after} units in place of {before}{', ...' if more else ''}"
        found.append(
            f"{plural(len(report.rounded), 'group')} kept another number of channels than the ratio says, for "
            f"multiples of {report.options['round_to']} ({example})"
        )
    if not report.unrounded:
        return found
    (name, axes), *others = report.unrounded.items()
    widths = " by ".join(str(width) for width in axes.values())
    what = "have widths that are no multiples" if others else "has a width that is no multiple"
    example = f"{short(name)}: {widths}{', ...' if others else ''}"
    found.append(
        f"{plural(1 + len(others), 'layer')} that lost channels {what} of {report.options['round_to']} ({example}): "
        "other channels that they hold are kept"
    )
    return found


def shrunk(interface: Mapping[str, Mapping[str, int]]) -> list[Part]:
    """Graph inputs and outputs that are smaller now."""
    lines = [
        f"- {printable(name)}: axis {axis} by {lost}" for name, axes in interface.items() for axis, lost in axes.items()
    ]
    more = [f"- and {len(lines) - MOST_SHRUNK} more"] if len(lines) > MOST_SHRUNK else []
    return ["\n".join(["Inputs and outputs that are smaller now:", *lines[:MOST_SHRUNK], *more])] if lines else []


def learned(report: Report) -> list[Part]:
    """Refitted layers."""
    layers = report.repair
    lines = []
    if report.unrepaired_because is not None:
        lines.append(f"Not repaired: {printable(report.unrepaired_because)}")
    if layers is not None:
        better = refitted(layers)
        lines.append(f"{sum(better.values())} of {plural(len(better), 'layer')} refitted, the rest left as they were")
    if report.distilled is not None:
        lines += trained(report.distilled)
    return ["\n".join(lines)] if lines else []


def trained(found: Distillation) -> list[str]:
    """What a training did."""
    if found.skipped is not None or found.before is None or found.after is None:
        return [f"Not trained: {printable(found.skipped or '')}"]
    what = f"Trained on the outputs of the original for {plural(found.epochs, 'epoch')}"
    on = f"the squared error on {plural(found.judges, 'held-back sample')}"
    if found.best is None:
        lines = [f"{what}, and taken back: {on} did not surely fall"]
    else:
        error = f"{plain_percent(found.before)} to {plain_percent(found.after)} of the variance"
        lines = [f"{what}, of which number {found.best} was best: {on} fell from {error}"]
    lines += [f"- {plural(n, 'weight')} left as they were: {printable(why)}" for why, n in found.untrained.items()]
    if found.lost:
        lines.append(f"- {plural(found.lost, 'step')} left weights as they were: their gradients were not finite")
    return lines


def refitted(records: Sequence[Refit]) -> dict[str, bool]:
    """Whether each layer was refitted, once for all refits of it: alone, in chains, and of its gates."""
    found: dict[str, bool] = {}
    for record in records:
        for layer in record.layer.split(CHAIN):
            name = GATES.sub("", layer)
            found[name] = found.get(name, False) or record.penalty is not None
    return found


def accuracy(report: Report) -> str:
    """What is known of the accuracy, and from what."""
    found = report.calibration
    if found is None:
        return (
            "Accuracy unknown: no samples were given to measure it on (--calib)" if report.whole_because is None else ""
        )
    error = found.relative_error
    infinite = error is None or not math.isfinite(error)
    compared = infinite or any(drift.rel_rms is not None for drift in report.drift.values())
    count = "" if found.samples is None else f"{found.samples} "
    distance = (
        f"squared error of the outputs {error_share(error)}"
        if compared
        else "no output is of numbers that have a distance"
    )
    lines = [f"On {count}{found.on}: {distance}"]
    if found.decisions is not None:
        same, lost = found.decisions.agreement, found.decisions.lost
        found_same = "IoU, mean of the classes," if found.decisions.by_class else "F1"
        what = f"finds the same, {found_same}" if found.decisions.positions else "chooses the same in"
        lines.append(f"- {short(found.decisions.output)} {what} {interval(same)}")
        lines.append(f"- accuracy lost: {interval(lost)}, estimated from the probabilities of the original")
        if found.learned is not None:
            lines.append(f"- on samples that were learned from, which lose less: {interval(found.learned)}")
    if found.neighbours is not None:
        kept = found.neighbours
        lines.append(f"- {short(kept.output)} moved to a cosine of {kept.cosine:.3f}, mean of the samples")
        lines.append(f"- the nearest other sample, by cosine, is the same for {interval(kept.same)}")
    if report.metric is not None:
        lines += [f"- {line}" for line in metric_lines(report.metric)]
    return "\n".join(lines)


def _lost(pair: Count) -> str:
    if pair.before is None or pair.after is None:
        return ""
    return percent(pair.before - pair.after, pair.before)


def gates(found: Mapping[str, GateReport]) -> Table:
    """Limit, measurement and verdict of each gate."""
    rows = [
        [
            short(name),
            f"{'<=' if name.startswith(('drift', MAX_DROP)) else '>='} {gate.asked:g}",
            number(gate.measured) if gate.at_most is None else f"at most {number(gate.at_most)} ({SURE})",
            "met" if gate.met else "MISSED",
            gate.on,
        ]
        for name, gate in found.items()
    ]
    return table(["gate", ">asked", ">measured", "", "on"], rows)


def removed(groups: Sequence[GroupReport]) -> Part:
    """Removed channels by group, in execution order; where there are too many, of the widest groups."""
    losing = [g for g in groups if g.removed]
    widest = sorted(range(len(losing)), key=lambda i: -losing[i].channels)[:ROWS]
    shown = [losing[i] for i in sorted(widest)]
    if not losing:
        return ""
    rows = [[short(g.name), str(g.channels), str(len(g.removed)), str(g.channels - len(g.removed))] for g in shown]
    return table(["group", ">channels", ">removed", ">kept"], rows, len(losing))


def rest(groups: Sequence[GroupReport], mixing: bool) -> str:
    """How many groups were pruned, and why the others were not."""
    pruned = sum(bool(g.removed) for g in groups)
    closed = [g for g in groups if g.grade == "mixing" and not mixing]
    pinned = [g for g in groups if g.grade == "pinned"]
    whole = len(groups) - pruned - len(closed) - len(pinned)
    lines = [
        f"{plural(len(groups), 'group')}: {pruned} pruned, {whole} left whole, {len(closed)} mixing, "
        f"{len(pinned)} pinned"
    ]
    if closed:
        lines.append(f"- mixing: {_commonest(closed)}; --mixing prunes them too")
    if pinned:
        lines.append(f"- pinned: {_commonest(pinned)}")
    return "\n".join(lines)


def _commonest(groups: Sequence[GroupReport]) -> str:
    ranked = reasons([(g.pinned, g.channels) for g in groups])
    shown = "; ".join(short(reason, REASON) for reason, _ in ranked[:REASONS])
    return shown + (f"; and {len(ranked) - REASONS} more" if len(ranked) > REASONS else "")
