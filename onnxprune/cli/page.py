"""The option ``--html`` of the verbs that report: the report as a page."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxprune.cli.command import TYPED, Decorated, option
from onnxprune.cli.paths import writable, written

if TYPE_CHECKING:
    from onnxprune.api import Result
    from onnxprune.engines.times import Times
    from onnxprune.options import Options
    from onnxprune.pipeline.analysis import Analysis
    from onnxprune.report.page.choice import Scenario
    from onnxprune.report.page.content import Page
    from onnxprune.report.page.layers import NodeTimes


def html_option(section: str) -> Callable[[Decorated], Decorated]:
    """Declares the option."""
    return option(section, "--html", metavar="FILE", help="Write the report as a page for a browser")


def page_path(html: str | None, *inputs: str) -> Path | None:
    """The file that was named, if one was.

    Raises:
        InputError: It cannot be written, or is one of the inputs.
    """
    if html is None:
        return None
    path = Path(html)
    writable(path, *inputs)
    return path


def write(path: Path | None, page: Callable[[str], Page]) -> None:
    """Writes a page where one was asked for.

    Args:
        path: Where to; None for nowhere.
        page: Makes it, given the command line as it was typed.
    """
    if path is None:
        return
    from onnxprune.report.page.render import render

    with written(path, render(page(str(click.get_current_context().meta[TYPED])))):
        pass


def scenario_of(model: str, analysis: Analysis, options: Options, times: Times | None = None) -> Scenario | None:
    """What a page predicts of other shares, and the command that makes them."""
    from onnxprune.pipeline.scenario import scenario
    from onnxprune.report.page.choice import RECIPE

    read = {"--calib": options.calibration.data, "--stats": options.calibration.stats}
    given = [word for flag, what in read.items() if isinstance(what, str) for word in (flag, what)]
    command = shlex.join(["onnxprune", model, "--recipe", RECIPE, *given])
    return scenario(analysis, options, command, times)


def write_run(path: Path | None, model: str, output: str | None, result: Result, options: Options) -> None:
    """Writes the page of a run, or of a plan that was applied.

    Args:
        path: Where to; None for nowhere.
        model: File name of the original.
        output: File name of the result; None where there is none.
        result: The result.
        options: The options of the run; of a plan those that would make its groups.
    """
    if path is None:
        return
    from onnxprune import api
    from onnxprune.model.model import Model
    from onnxprune.report import terminal
    from onnxprune.report.page.build import run_page

    report, plan = result.report, result.plan
    analysis = api.analyze(model, options=options)
    title, *parts = terminal.run(report, model, output)
    shown, other = [*parts, *_listed(report.warnings)], scenario_of(model, analysis, options, result.times)
    times = _node_times(model, analysis, result, options) if report.latency is not None else {}
    pruned = Model(result.proto)
    write(
        path,
        lambda command: run_page(
            str(title), command, shown, analysis.coupling, plan, report, other, model=pruned, times=times
        ),
    )


def _node_times(model: str, analysis: Analysis, result: Result, options: Options) -> NodeTimes:
    """The time of each node before and after."""
    from onnxprune.model.model import Model
    from onnxprune.pipeline.analysis import Analysis, load_dense
    from onnxprune.pipeline.node_times import node_times
    from onnxprune.planning.plan import io_slices

    whole = Analysis(load_dense(model), analysis.coupling)
    return node_times(whole, Model(result.proto), options.checks, io_slices(result.plan))


def _listed(warnings: Sequence[str]) -> list[Any]:
    """The warnings, which a terminal shows on stderr, as a paragraph."""
    from onnxprune.errors import on_command_line

    return ["\n".join(["Warnings:", *(f"- {on_command_line(line)}" for line in warnings)])] if warnings else []
