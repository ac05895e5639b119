"""Sensitivity of a model to the removal of single groups: as data, as CSV, and as tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnxprune import __version__
from onnxprune.common.text import percent, plain_percent, plural, printable, short
from onnxprune.report.csv_text import csv_text
from onnxprune.report.json_data import JsonValue
from onnxprune.report.metric import number
from onnxprune.report.tables import ROWS, Part, table

NAME = 30
"""Characters of a group's name in the tables."""
SCHEMA = 1
"""Version of the JSON data: keys may be added to it; one that changes its meaning or goes makes it another."""


@dataclass(frozen=True)
class SensitivityPoint:
    """What the removal of a share of one group's channels costs and saves.

    Attributes:
        share: The share that was asked for.
        removed: The channels that it is.
        damage: Squared error of the outputs relative to their variance; None where they are not finite.
        measured: Whether that channels were removed and the model was run; else the damage is predicted.
        agreement: Share of the choices that equal the original's; None where no output chooses, or nothing was run.
        metric: The metric; None where there is none, or nothing was run.
        drop: How much of the metric is lost.
        params: Share of the model's parameters that is saved.
        macs: Share of its MACs; None where they cannot be counted.
        time: Share of its measured time; None without times.
    """

    share: float
    removed: int
    damage: float | None
    measured: bool
    agreement: float | None
    metric: float | None
    drop: float | None
    params: float
    macs: float | None
    time: float | None

    @property
    def gain(self) -> float:
        """The share that is saved: of the time where it is known, else of the MACs, else of the parameters."""
        return next(saved for saved in (self.time, self.macs, self.params) if saved is not None)


@dataclass(frozen=True)
class GroupSensitivity:
    """One group of coupled channels.

    Attributes:
        group: Its name.
        nodes: Names of the nodes that lose weights with it, in execution order.
        layers: How many of them are layers: they read a weight with two axes or more that are longer than 1.
        weights: Names of the constants that it slices.
        channels: How many channels (heads, blocks) it has.
        params: Share of the model's parameters that its channels own, some of them together with other groups.
        macs: The same of the MACs; None where they cannot be counted.
        time: The same of the measured time; None without times.
        points: Damage and saving, by the share that is removed.
        rank: 1 for the group that saves most for its damage when half of it is removed; None where damages of groups
            cannot be compared.
    """

    group: str
    nodes: list[str]
    layers: int
    weights: list[str]
    channels: int
    params: float
    macs: float | None
    time: float | None
    points: list[SensitivityPoint]
    rank: int | None = None


@dataclass(frozen=True)
class PinnedGroup:
    """A group that is not open to pruning.

    Attributes:
        group: Its name.
        channels: How many channels it has.
        because: Why it stays whole.
    """

    group: str
    channels: int
    because: list[str]


@dataclass(frozen=True)
class SensitivityReport(JsonValue):
    """How sensitive a model is to the removal of each of its groups.

    Attributes:
        model: Its file name; None for a model in memory.
        on: What the damage was measured on, in words.
        samples: How many samples these are; 0 where nothing was run.
        held_out: Whether neither the choice of channels nor the repair has seen them.
        repair: How the model is repaired after each removal, in words.
        metric: Name of the metric; None where there is none.
        before: Its value for the original.
        gain: What a gain is a share of: ``time``, ``MACs`` or ``parameters``.
        groups: A row a group that may be pruned, in execution order.
        pinned: The groups that may not.
        notes: What the numbers are worth, a line each.
        seconds: Time by stage.
        schema: Version of the JSON data (`SCHEMA`).
        version: Version of onnxprune that wrote it.
    """

    model: str | None
    on: str
    samples: int
    held_out: bool
    repair: str
    metric: str | None
    before: float | None
    gain: str
    groups: list[GroupSensitivity]
    pinned: list[PinnedGroup]
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    schema: int = SCHEMA
    version: str = __version__

    def __repr__(self) -> str:
        best = next((g for g in self.groups if g.rank == 1), None)
        first = "" if best is None else f", most for its damage: {short(best.group)!r}"
        return f"SensitivityReport({plural(len(self.groups), 'group')} on {self.on}{first})"

    @property
    def compared(self) -> bool:
        """Whether damages of groups can be compared: they are of outputs, and not of weights alone."""
        return any(g.rank is not None for g in self.groups)

    def to_csv(self) -> str:
        """The rows as CSV (RFC 4180): a line a group and share."""
        return csv_text(COLUMNS, _lines(self.groups))


COLUMNS = (
    *("group", "nodes", "channels", "layers", "params", "macs", "time", "rank", "share", "removed", "damage"),
    *("measured", "agreement", "metric", "drop", "params_saved", "macs_saved", "time_saved"),
)


def _lines(groups: Sequence[GroupSensitivity]) -> Iterator[list[Any]]:
    for g in groups:
        head = [g.group, " ".join(g.nodes), g.channels, g.layers, g.params, g.macs, g.time, g.rank]
        for p in g.points:
            seen = [p.agreement, p.metric, p.drop]
            yield [*head, p.share, p.removed, p.damage, int(p.measured), *seen, p.params, p.macs, p.time]


def tables(report: SensitivityReport) -> list[Part]:
    """Tables for a terminal of 80 columns: what each group is, and what its removal costs."""
    groups = report.groups
    head = f"{printable(report.model or 'the model')}: {plural(len(groups), 'group')} may be pruned"
    parts: list[Part] = [head if groups else f"{head}; onnxprune inspect shows why"]
    if not groups:
        return parts
    shown = groups[:ROWS]
    names = distinct([g.group for g in shown], NAME)
    timed, ranked = any(g.time is not None for g in groups), report.compared
    titles = ["group, in execution order", ">channels", ">layers", ">params", ">MACs", *([">time"] if timed else [])]
    rows = [
        [name, str(g.channels), str(g.layers), *_shares(g, timed), *([str(g.rank)] if ranked else [])]
        for name, g in zip(names, shown, strict=True)
    ]
    parts.append(table([*titles, *([">rank"] if ranked else [])], rows, len(groups)))

    def by_share(cell: Callable[[SensitivityPoint], str]) -> Part:
        lines = [[name, *(cell(p) for p in g.points)] for name, g in zip(names, shown, strict=True)]
        return table(["group", *(f">{100 * p.share:g}%" for p in shown[0].points)], lines, len(groups))

    parts += [_damage_title(report), by_share(_damage)]
    if any(p.agreement is not None for g in groups for p in g.points):
        title = f"Choices that equal the original's, on {report.on}:"
        parts += [title, by_share(_agreement)]
    if report.metric is not None:
        name = report.metric
        before = "" if report.before is None else f" (the original: {number(name, report.before)})"
        title = f"{printable(name)} on {report.on}{before}:"
        parts += [title, by_share(lambda p: _metric(name, p))]
    about = [f"Rank 1 saves most {report.gain} for its damage when half of it is removed."] if ranked else []
    return [*parts, "\n".join("- " + printable(line) for line in [*about, *report.notes])]


def distinct(names: Sequence[str], limit: int) -> list[str]:
    """Names for a table, shortened so that no two are alike that were not.

    What all begin with is left out where one is too long; numbers tell those apart that are still alike.

    >>> distinct(["layers.0.attention.bias", "layers.1.attention.bias"], 16)
    ['...0.at...n.bias', '...1.at...n.bias']
    >>> distinct(["a" * 40 + "b" + "c" * 40, "a" * 40 + "d" + "c" * 40], 16)
    ['1 aaaaaa...ccccc', '2 aaaaaa...ccccc']
    """
    shown = [printable(name) for name in names]
    if len(shown) > 1 and max(map(len, shown)) > limit:
        first, last = min(shown), max(shown)
        same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
        common = re.sub(r"[^./:_]*$", "", first[:same])
        shown = [f"...{name[len(common) :]}" if len(common) > len("...") else name for name in shown]
    cut = [short(name, limit) for name in shown]
    if len(set(cut)) == len(set(names)):
        return cut
    width = len(str(len(names)))
    return [f"{i:{width}} {short(name, limit - width - 1)}" for i, name in enumerate(shown, start=1)]


def _damage_title(report: SensitivityReport) -> str:
    if not report.compared:
        return "Share of the squared scores of a group that goes with a share of its channels:"
    samples = f" {report.samples}" if report.samples else ""
    title = f"Damage on{samples} {report.on}, {report.repair}, by the share of channels removed"
    predicted = any(not p.measured for g in report.groups for p in g.points)
    return f"{title} (~: predicted):" if predicted and report.samples else f"{title}:"


def _shares(group: GroupSensitivity, timed: bool) -> list[str]:
    values = [group.params, group.macs, *([group.time] if timed else [])]
    return ["-" if value is None else percent(value, 1) for value in values]


def _damage(point: SensitivityPoint) -> str:
    shown = "-" if point.damage is None else plain_percent(point.damage)
    return shown if point.measured else f"~{shown}"


def _agreement(point: SensitivityPoint) -> str:
    return "-" if point.agreement is None else percent(point.agreement, 1)


def _metric(name: str, point: SensitivityPoint) -> str:
    return "-" if point.metric is None else number(name, point.metric)
