"""The report as tables and lines for people to read."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from onnxprune._text import count, duration, percent, plural, printable, short
from onnxprune.report.build import gate_lines
from onnxprune.report.groups import elements

Part = Table | str
"""What a report is made of: tables, and paragraphs of text."""

DRIFT_WARNING = 0.5
"""From this relative drift of an output on (rel_rms) a report warns."""
ROWS = 20
OUTPUTS = 5
MOST_SHRUNK = 6
REASONS = 3
MEMBERS = 4
REASON = 120


def text(parts: Iterable[Part], *, width: int | None = None, colour: bool = False) -> str:
    """Draws the parts, an empty line between them.

    Args:
        parts: What to draw.
        width: Columns of the terminal; None never wraps.
        colour: Whether to write ANSI colours.
    """
    out = io.StringIO()
    console = Console(
        file=out,
        width=width or 100_000,
        force_terminal=colour,
        no_color=not colour,
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
    )
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str) and width is None)
        console.print()
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").split("\n"))


def run(report: Mapping[str, Any], extra: Sequence[Sequence[str]] = ()) -> list[Part]:
    """The report of a run.

    Args:
        report: The report as data, with the names `model` and `output` (None after a dry run).
        extra: Rows for the end of the table: title, before, after, share that is left.
    """
    output = report.get("output")
    parts: list[Part] = [
        f"{printable(report['model'])} -> {printable(output)}"
        if output is not None
        else f"{printable(report['model'])} (no model is written)"
    ]
    parts.append(costs(report, extra))
    parts += [*meaning(report), *reordered(report), *stored(report)]
    if report["drift"]:
        parts.append(drifts(report["drift"]))
    if report["gates"]:
        parts.append(gates(report["gates"]))
    if output is None:
        parts.append(taken(report["groups"]))
    if _lost_channels(report) or not report["zeroed"]:
        parts.append(rest(report["groups"], report["mixing"]))
    checked = "verified in onnxruntime" if report["verified"] else f"NOT verified: {report['unverified_because']}"
    seconds = report["seconds"]
    stages = ", ".join(f"{name} {duration(s)}" for name, s in seconds.items())
    parts.append(f"{printable(checked)}\n{duration(sum(seconds.values()))}: {stages}")
    return [p for p in parts if p]


def reordered(report: Mapping[str, Any]) -> list[Part]:
    """What another order of channels is good for."""
    moved = report["permuted"]
    if moved is None:
        return []
    if not moved["groups"]:
        return [f"No channels moved: {printable(moved['whole_because'] or 'no order that was found keeps more')}"]
    return [
        f"{plural(len(moved['groups']), 'group')} of channels in another order: the pattern keeps "
        f"{percent(moved['after'], 1)} of the magnitude, not {percent(moved['before'], 1)}"
    ]


def stored(report: Mapping[str, Any]) -> list[Part]:
    """What sparse tensors save, and what compression would."""
    storage = report["storage"]
    if storage is None:
        return []
    sizes, lines = list(storage["sparse"].values()), []
    if sizes:
        before, after = (sum(size[key] for size in sizes) for key in ("before", "after"))
        lines.append(
            f"{plural(len(sizes), 'weight')} stored as sparse tensors: {count(after, 'B')} in place of "
            f"{count(before, 'B')}"
        )
    if storage["dense_because"] is not None:
        lines.append(f"{'The rest is' if sizes else 'All is'} stored dense: {printable(storage['dense_because'])}")
    return ["\n".join([*lines, f"gzip makes {count(storage['gzip'], 'B')} of the file"])]


def costs(report: Mapping[str, Any], extra: Sequence[Sequence[str]] = ()) -> Table:
    """Before and after: parameters, MACs, bytes, and channels where there are any."""
    rows = [_row("parameters", report["params"]), _row("MACs", report["macs"]), _row("bytes", report["bytes"], "B")]
    if report.get("channels", {}).get("before") and (_lost_channels(report) or not report["zeroed"]):
        rows.append(_row("prunable channels", report["channels"]))
    return table(["", ">before", ">after", ">left"], [*rows, *extra])


def _row(title: str, pair: Mapping[str, int | None], unit: str = "") -> list[str]:
    before, after = pair["before"], pair["after"]
    shown = ["unknown" if n is None else count(n, unit) for n in (before, after)]
    return [title, *shown, "-" if before is None or after is None else percent(after, before)]


def meaning(report: Mapping[str, Any]) -> list[Part]:
    """What was asked for, in terms of what it took."""
    asked = report["options"]
    if report["whole_because"] is not None:
        reasons = [printable(reason) for reason in report["whole_because"]]
        return ["Nothing was pruned; the result is the model as it was.\n" + "\n".join(f"- {r}" for r in reasons)]
    shares = [
        f"{_lost(report[key])} of the {name}"
        for key, name in (("channels", "prunable channels"), ("params", "parameters"), ("macs", "MACs"))
        if _lost(report[key])
    ]
    if report["search"] is not None:
        trials = report["search"]["trials"]
        how = (
            f"{plural(len(trials), 'model')} tried; the smallest within the gates is that of "
            f"{_asked(report['search']['found'])}, which"
        )
    elif asked is None:
        how = "the plan"
    elif asked["ratio"] is not None:
        how = f"ratio {asked['ratio']:g}{' across all groups' if asked['global'] else ''}"
    else:
        how = _asked(asked)
    took = [f"{how} took {', '.join(shares)}"] if _lost_channels(report) or not report["zeroed"] else []
    return [*took, *shrunk(report["interface"]), *zeros(report), *learned(report)]


def zeros(report: Mapping[str, Any]) -> list[Part]:
    """How much is zero, and which weights were to be and are not."""
    zeroed, lines = list(report["zeroed"].values()), []
    if zeroed:
        low, high = f"{100 * min(zeroed):.0f}%", f"{100 * max(zeroed):.0f}%"
        share = low if low == high else f"{low} to {high}"
        lines.append(
            f"{share} of the elements of {plural(len(zeroed), 'weight')} are zero now. Zeros alone make "
            "neither the file smaller nor a run faster: that takes compression, or kernels that skip them."
        )
    for why in dict.fromkeys(report["dense"].values()):
        names = [name for name, reason in report["dense"].items() if reason == why]
        lines.append(
            f"- {plural(len(names), 'weight')} without zeros ({short(names[0])}"
            f"{', ...' if len(names) > 1 else ''}): {printable(why)}"
        )
    return ["\n".join(lines)] if lines else []


def _lost_channels(report: Mapping[str, Any]) -> bool:
    return any(g["removed"] for g in report["groups"])


def _asked(amount: Mapping[str, Any]) -> str:
    """Ratio or target in words."""
    if amount.get("ratio") is not None:
        return f"ratio {amount['ratio']:.3g}"
    return "target " + ", ".join(
        f"{name}={value if isinstance(value, str) else format(value, '.4g')}"
        for name, value in amount["target"].items()
    )


def shrunk(interface: Mapping[str, Mapping[str, int]]) -> list[Part]:
    """Graph inputs and outputs that are smaller now."""
    lines = [
        f"- {printable(name)}: axis {axis} by {lost}" for name, axes in interface.items() for axis, lost in axes.items()
    ]
    more = [f"- and {len(lines) - MOST_SHRUNK} more"] if len(lines) > MOST_SHRUNK else []
    return ["\n".join(["Inputs and outputs that are smaller now:", *lines[:MOST_SHRUNK], *more])] if lines else []


def learned(report: Mapping[str, Any]) -> list[Part]:
    """What calibration data did, and what the samples held back say of it."""
    seen, layers = report["calibration"], report["repair"]
    words = []
    if report["unrepaired_because"] is not None:
        words.append(f"Not repaired: {printable(report['unrepaired_because'])}")
    if layers is not None:
        better = [r for r in layers if r["penalty"] is not None]
        words.append(f"{len(better)} of {plural(len(layers), 'layer')} refitted, the rest left as they were")
    if seen is None:
        return ["\n".join(words)] if words else []
    error = seen["relative_error"]
    told = "not finite" if error is None else f"{100 * error:.2g}% of their variance"
    where = (
        "samples held back"
        if seen.get("held_out", True)
        else "the samples that were learned from (too few to hold any back)"
    )
    words.append(f"squared error of the outputs on {where}: {told}")
    for name in ("top1", "top5"):
        if seen.get(name) and seen[name]["before"] is not None:
            words.append(f"{name} there: {seen[name]['before']:.3f} before, {seen[name]['after']:.3f} after")
    return ["\n".join(words)]


def _lost(pair: Mapping[str, int | None]) -> str:
    before, after = pair["before"], pair["after"]
    return percent(before - after, before) if before and after is not None else ""


def drifts(drift: Mapping[str, Mapping[str, float | None]]) -> Table:
    """How far each output moved, the furthest first."""
    order = sorted(drift, key=lambda name: -(drift[name]["rel_rms"] or 0.0))
    rows = [
        [short(name), *(_number(drift[name][key]) for key in ("max_abs", "rel_rms", "cosine"))]
        for name in order[:OUTPUTS]
    ]
    return table(["drift of output", ">max abs", ">rel rms", ">cosine"], rows, len(order))


def gates(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """What each gate asks, and whether it is met."""
    rows = [
        [
            short(name),
            f"{'<=' if name.startswith('drift') else '>='} {gate['asked']:g}",
            _number(gate["measured"]),
            "met" if gate["met"] else "MISSED",
            gate["on"],
        ]
        for name, gate in found.items()
    ]
    return table(["gate", ">asked", ">measured", "", "on"], rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def taken(groups: Sequence[Mapping[str, Any]]) -> Part:
    """What each group loses, the widest first."""
    losing = sorted((g for g in groups if g["removed"]), key=lambda g: -g["channels"])
    if not losing:
        return ""
    rows = [
        [short(g["name"]), str(g["channels"]), str(len(g["removed"])), str(g["channels"] - len(g["removed"]))]
        for g in losing[:ROWS]
    ]
    return table(["group", ">channels", ">go", ">stay"], rows, len(losing))


def rest(groups: Sequence[Mapping[str, Any]], mixing: bool) -> str:
    """How many groups were pruned, and why the others were not."""
    pruned = sum(bool(g["removed"]) for g in groups)
    closed = [g for g in groups if g["grade"] == "mixing" and not mixing]
    pinned = [g for g in groups if g["grade"] == "pinned"]
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


def _commonest(groups: Sequence[Mapping[str, Any]]) -> str:
    ranked = reasons(groups)
    shown = "; ".join(short(reason, REASON) for reason, _ in ranked[:REASONS])
    return shown + (f"; and {len(ranked) - REASONS} more" if len(ranked) > REASONS else "")


def reasons(groups: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """Why groups are not free, with the channels that each reason holds, the commonest first."""
    counts: dict[str, int] = {}
    for group in groups:
        for reason in group["pinned"]:
            counts[reason] = counts.get(reason, 0) + group["channels"]
    return sorted(counts.items(), key=lambda item: -item[1])


def warnings(report: Mapping[str, Any]) -> list[str]:
    """What nobody should overlook in the report of a run."""
    lines = []
    if not report["verified"]:
        lines.append(f"not verified: {report['unverified_because']}")
    for name, target in report["targets"].items():
        if not target["met"]:
            lines.append(
                f"target {name} is missed: {target['left']:,.0f} left, {target['asked']:,.0f} asked; "
                "no group may lose more"
            )
    lines += gate_lines(report["gates"])
    far = {
        name: d["rel_rms"]
        for name, d in report["drift"].items()
        if d["rel_rms"] is not None and d["rel_rms"] > DRIFT_WARNING
    }
    if far:
        worst = max(far, key=lambda name: far[name])
        more = f" (and {plural(len(far) - 1, 'other output')})" if len(far) > 1 else ""
        lines.append(
            f"output {worst!r} moved by {100 * far[worst]:.0f}% of its size{more}: measure the accuracy, "
            "which may be lost"
        )
    return lines


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], total: int = 0) -> Table:
    """A table without lines; a title that starts with ``>`` sets its column flush right."""
    drawn = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for title in columns:
        drawn.add_column(title.lstrip(">"), justify="right" if title.startswith(">") else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    if total > len(rows):
        drawn.add_row(f"... and {total - len(rows)} more")
    return drawn


def inspected(data: Mapping[str, Any]) -> list[Part]:
    """What `inspect` shows of a model: its groups, the free ones first, and why the rest is whole."""
    order = {"exact": 0, "mixing": 1, "pinned": 2}
    groups = sorted(data["groups"], key=lambda g: order[g["grade"]])  # stable: in graph order within a grade
    free = [g for g in groups if g["grade"] != "pinned"]
    totals = ", ".join(f"{n} {grade}" for grade, n in data["channels"].items())
    parts: list[Part] = [f"{printable(data['model'])}: {plural(len(groups), 'group')}, channels: {totals}"]
    if free:
        rows = [
            [short(g["name"]), g["grade"], str(g["channels"]), count(elements(g)), _members(g)] for g in free[:ROWS]
        ]
        parts.append(table(["group", "grade", ">channels", ">elements", "slices (axis)"], rows, len(free)))
    for grade in ("mixing", "pinned"):
        why = reasons([g for g in groups if g["grade"] == grade])
        if why:
            rows = [[short(reason, REASON), str(n)] for reason, n in why[:ROWS]]
            parts.append(table([f"why {grade}", ">channels"], rows, len(why)))
    return parts if groups else [*parts, "No weight has an axis that could be pruned."]


def _members(group: Mapping[str, Any]) -> str:
    shown = [f"{short(m['name'])}({m['axis']})" for m in group["members"][:MEMBERS]]
    more = len(group["members"]) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def compared(data: Mapping[str, Any]) -> list[Part]:
    """What `compare` shows of two models."""
    before, after = data["latency"]["before"], data["latency"]["after"]
    row = ["latency", duration(before), duration(after), percent(after, before)]
    parts: list[Part] = [f"{printable(data['a'])} against {printable(data['b'])}", costs(data, [row])]
    return [*parts, drifts(data["drift"])] if data["drift"] else parts


def operators(data: Sequence[Mapping[str, Any]]) -> list[Part]:
    """The table of operators that have a rule."""
    rows = [[o["operator"], o["domain"] or "ai.onnx", str(o["since"]), printable(o["note"])] for o in data]
    return [table(["operator", "domain", ">since", "how"], rows)]
