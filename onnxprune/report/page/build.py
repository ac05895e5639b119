"""Builds the pages of the verbs from their reports."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from types import MappingProxyType

import numpy as np

from onnxprune import __version__
from onnxprune.common.text import percent, plain_percent, printable
from onnxprune.coupling.coupling import Coupling
from onnxprune.model.model import Model
from onnxprune.planning.plan import Plan
from onnxprune.report.metric import is_share
from onnxprune.report.page.choice import Scenario, page_choice
from onnxprune.report.page.content import Page, PageCurve, PageLayer, PageVariant, sections
from onnxprune.report.page.layers import NodeTimes, page_groups, page_layers, rounded
from onnxprune.report.page.zeros import page_zeros
from onnxprune.report.report import Report
from onnxprune.report.sensitivity import SensitivityReport
from onnxprune.report.sweep import COSTS, LOSSES, SweepReport
from onnxprune.report.tables import Part, table

DEPENDENCIES = ("onnx", "onnxruntime", "numpy")
"""Packages whose versions results may depend on."""
OUTPUTS = "outputs"
"""What curves are of that groups can be compared by."""
COLOURED = 0.5
"""The share whose damage colours a group, where nothing was removed."""


def plain_page(title: str, command: str, parts: Sequence[Part]) -> Page:
    """A page of tables and paragraphs alone.

    Args:
        title: What it is about.
        command: The command that made it.
        parts: What a terminal shows.
    """
    found = {"onnxprune": __version__, "Python": platform.python_version()}
    found |= {name: metadata.version(name) for name in DEPENDENCIES}
    return Page(title, command, found, sections(parts))


def inspection_page(
    title: str, command: str, parts: Sequence[Part], coupling: Coupling, scenario: Scenario | None = None
) -> Page:
    """The page of an analysis; see `run_page`."""
    return _with_layers(plain_page(title, command, parts), coupling, {}, {}, {}, scenario)


def run_page(
    title: str,
    command: str,
    parts: Sequence[Part],
    coupling: Coupling,
    plan: Plan,
    report: Report,
    scenario: Scenario | None = None,
    model: Model | None = None,
    times: NodeTimes = MappingProxyType({}),
) -> Page:
    """The page of a run.

    Args:
        title: What it is about.
        command: The command that made it.
        parts: What a terminal shows.
        coupling: The analysis of the original.
        plan: What was taken.
        report: The report of the run.
        scenario: What the page predicts for other shares; None for nothing.
        model: The result, whose zeros are shown; None for none.
        times: Milliseconds of each node before and after, by its first output.
    """
    removed = {g.name: len(g.removed) for g in report.groups}
    units = {g.name: g.channels for g in report.groups}
    curves = report.damage_curves
    damage = {g.name: g.damage for g in report.groups}
    if curves is not None and curves.of == OUTPUTS:
        for name, curve in curves.groups.items():
            at = float(np.interp(removed.get(name, 0), [0, *curve.removed], [0.0, *curve.damage]))
            damage[name] = at if damage.get(name) is None else damage[name]
    page = plain_page(title, command, [*parts, *worst_samples(report)])
    page = _with_layers(page, coupling, plan.removed, removed, damage, scenario, times)
    if model is not None and plan.zeroed:
        page = replace(page, zeros=page_zeros(model, plan.zeroed))
    if curves is None:
        return page
    positions = {g.name: i for i, g in enumerate(coupling.groups)}
    drawn = [
        PageCurve(positions[name], [n / units[name] for n in c.removed], list(c.damage), [False] * len(c.removed))
        for name, c in curves.groups.items()
    ]
    of = "the outputs" if curves.of == OUTPUTS else "the layers that read the group"
    return replace(page, curves=drawn, curves_of=of, curves_add=curves.of == OUTPUTS)


def sensitivity_page(
    title: str,
    command: str,
    parts: Sequence[Part],
    coupling: Coupling,
    report: SensitivityReport,
    scenario: Scenario | None = None,
) -> Page:
    """The page of a sensitivity report; see `run_page`."""
    half = {g.group: next((p.damage for p in g.points if p.share == COLOURED), None) for g in report.groups}
    damage = half if report.compared else {}
    page = _with_layers(plain_page(title, command, parts), coupling, {}, {}, damage, scenario)
    positions = {g.name: i for i, g in enumerate(coupling.groups)}
    drawn = [
        PageCurve(
            positions[g.group],
            [p.removed / g.channels for p in g.points],
            [p.damage for p in g.points],
            [p.measured for p in g.points],
        )
        for g in report.groups
    ]
    samples = f"{report.samples} " if report.samples else ""
    of = f"the outputs on {samples}{report.on}, {report.repair}" if report.compared else "the weights alone"
    return replace(page, curves=drawn, curves_of=of, curves_add=report.compared)


def sweep_page(title: str, command: str, parts: Sequence[Part], report: SweepReport) -> Page:
    """The page of a sweep; see `plain_page`."""
    metric = next((v.metric_name for v in report.variants if v.metric_name is not None), "")
    words = {"drop": f"lost of {metric}", "choices": "of the choices changed", "error": "error", "drift": "drift"}
    points = []
    for v in report.variants:
        cost, loss = COSTS[report.cost](v), LOSSES[report.loss](v)
        if v.failed is None and cost is not None and loss is not None:
            points.append(PageVariant(v.name, cost, loss, v.name in report.front))
    as_share = report.loss != "drop" or is_share(metric)
    page = replace(plain_page(title, command, parts), variants=points, cost=report.cost)
    return replace(page, loss=words[report.loss], loss_in_percent=as_share)


def _with_layers(
    page: Page,
    coupling: Coupling,
    slices: dict[str, dict[str, list[int]]],
    removed: dict[str, int],
    damage: dict[str, float | None],
    scenario: Scenario | None,
    times: NodeTimes = MappingProxyType({}),
) -> Page:
    layers, groups = page_layers(coupling, slices, times), page_groups(coupling, removed, damage)
    choice = None if scenario is None else page_choice(coupling, scenario)
    page = replace(page, layers=layers, groups=groups, choice=choice)
    return replace(page, other_times=_other_times(layers, times)) if times else page


def _other_times(layers: Sequence[PageLayer], times: NodeTimes) -> list[float]:
    """The times that belong to no layer."""
    return rounded(
        sum(pair[i] for pair in times.values()) - sum(layer.times[i] for layer in layers if layer.times) for i in (0, 1)
    )


def worst_samples(report: Report) -> list[Part]:
    """For each output its agreement and the samples on which it moved most; nothing without data."""
    outputs = {} if report.calibration is None else report.calibration.outputs
    rows = [
        [
            printable(name),
            "-" if found.agreement is None else percent(found.agreement, 1),
            ", ".join(f"{one.sample} ({plain_percent(one.error)})" for one in found.worst) or "-",
        ]
        for name, found in outputs.items()
    ]
    if not rows:
        return []
    about = "The samples on which outputs moved most: position in the data, from 0, and relative RMS of the difference."
    return [about, table(["output", ">same choices", "samples"], rows)]
