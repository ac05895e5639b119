"""The verb ``sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxprune.cli import parsing
from onnxprune.cli.command import Command, option
from onnxprune.cli.output import announcing, draw, print_json
from onnxprune.cli.page import html_option, page_path, write
from onnxprune.cli.paths import writable
from onnxprune.cli.signals import Terminated
from onnxprune.errors import GateError, VerificationError

if TYPE_CHECKING:
    from onnxprune.report.sweep import SweepReport

WHAT, WHICH, DATA, CHECKS, FILES = "Variants", "Which", "Calibration data and repair", "Check", "Files and words"
SAME = (
    *("global_ranking", "min_channels", "engine", "times", "seed", "only", "ignore", "mixing", "attention", "shrink"),
    *("calib", "samples", "repair", "metric", "max_drop"),
)
"""Options of all variants, under the names and with the values of `prune`."""


@click.command(cls=Command, forms=["onnxprune sweep MODEL --ratio 0.2,0.3,0.5 [options]"])
@click.argument("model")
@option(WHAT, "--ratio", multiple=True, metavar="R,R,...", help="Shares of channels, a variant each; repeatable")
@option(WHAT, "--target", multiple=True, metavar="COST=X,X,...", help="Limits, a variant each; repeatable")
@option(WHAT, "--importance", multiple=True, metavar="NAME,...", help="Criteria to try each with  [that of a run]")
@option(WHICH, "--global/--no-global", "global_ranking", default=None, help="As for pruning  [no]")
@option(WHICH, "--keep", multiple=True, metavar="REGEX=S", help="Share that stays of such groups; repeatable")
@option(WHICH, "--min-channels", type=int, default=1, metavar="N", help="Channels that every group keeps  [1]")
@option(WHICH, "--round-to", default="auto", metavar="N", help="Keep multiples of N, as for pruning  [auto]")
@option(WHICH, "--engine", default="onnxruntime", metavar="NAME", help="As for pruning  [onnxruntime]")
@option(WHICH, "--times", metavar="FILE", help="What measure wrote, for --target latency")
@option(WHICH, "--only", multiple=True, metavar="REGEX", help="Prune what touches these names; repeatable")
@option(WHICH, "--ignore", multiple=True, metavar="REGEX", help="Leave what touches these names; repeatable")
@option(WHICH, "--mixing", is_flag=True, help="Prune groups of grade mixing too")
@option(WHICH, "--attention", default="heads", metavar="KIND", help="heads or dims  [heads]")
@option(WHICH, "--shrink", multiple=True, metavar="REGEX", help="Inputs and outputs that may lose slices")
@option(WHICH, "--seed", type=int, default=0, metavar="N", help="Seed of anything random  [0]")
@option(DATA, "--calib", metavar="WHAT", help="Data, labelled or not, as for pruning")
@option(DATA, "--samples", type=int, metavar="N", help="Use at most N samples  [1024]")
@option(DATA, "--repair", default="auto", metavar="MODE", help="none, data-free, calibrated  [auto]")
@option(DATA, "--repair-samples", type=int, default=256, metavar="N", help="Repair with N of them at most  [256]")
@option(CHECKS, "--metric", metavar="NAME", help="What is measured on held-out samples  [top1 with labels]")
@option(CHECKS, "--max-drop", type=float, metavar="D", help="How much of the metric may be lost: 0.01 is a point")
@option(CHECKS, "--gate", multiple=True, metavar="NAME=X", help="drift, cosine or agreement, as for pruning")
@option(CHECKS, "--no-time", is_flag=True, help="Time nothing: variants are compared by their MACs")
@option(CHECKS, "--input-shape", multiple=True, metavar="NAME:1,3,8,8", help="Shape to run at; repeatable")
@option(FILES, "--scheduler", metavar="WHERE", help="Dask workers make them: tcp://HOST:8786, local, local:N")
@option(FILES, "-o", "--output", metavar="FOLDER", help="Write sweep.json, sweep.csv and models; resume from them")
@option(FILES, "--keep-models", default="front", metavar="WHICH", help="all; front; best within the gates  [front]")
@html_option(FILES)
@option(FILES, "--json", "as_json", is_flag=True, help="Everything as JSON instead of a table")
@option(FILES, "--progress/--no-progress", default=None, help="Show how far it is  [on a terminal]")
@click.pass_context
def sweep(
    ctx: click.Context,
    /,
    model: str,
    ratio: tuple[str, ...],
    target: tuple[str, ...],
    importance: tuple[str, ...],
    output: str | None,
    keep_models: str,
    repair_samples: int,
    html: str | None,
    as_json: bool,
    progress: bool | None,
    scheduler: str | None,
    **given: Any,
) -> None:
    """Makes a pruned model for each amount and criterion, and shows them side by side.

    Analysis, data, times and statistics are shared. The front is what no other variant is better than in accuracy and
    time alike. What an interrupted sweep has done is in its folder; the same command goes on from there. Workers of
    Dask, on any number of machines, make the same models (docs/distributed.md).
    """
    common = {name: given[name] for name in SAME} | {
        "keep": parsing.keep(given["keep"]),
        "gate": parsing.gates(given["gate"]),
        "round_to": parsing.whole_or_word(given["round_to"]),
        "input_shapes": parsing.shapes(given["input_shape"]),
        "time": not given["no_time"],
    }
    reads = [model, *parsing.data_files(given["calib"]), *([given["times"]] if given["times"] else [])]
    page = page_path(html, model, *reads)
    from onnxprune.pipeline.sweep import Sweep, variants
    from onnxprune.runtime.distributed.connect import connected

    asked = variants(parsing.ratios(ratio), parsing.limits(target), parsing.listed(importance), common)
    if output is not None:
        writable(Path(output) / "sweep.json" if Path(output).is_dir() else Path(output), *reads)
    made = Sweep(model, asked, output, keep_models, repair_samples)
    try:
        with announcing(as_json, progress) as stage, connected(scheduler) as client:
            made.run(stage, client)
    except (KeyboardInterrupt, Terminated):
        _show(made.report, page, model, as_json=as_json)
        raise
    _show(made.report, page, model, as_json=as_json)
    ctx.exit(_status(made.report))


def _show(report: SweepReport, page: Path | None, model: str, *, as_json: bool) -> None:
    """The table, or JSON, and the page."""
    from onnxprune.report.page.build import sweep_page
    from onnxprune.report.sweep_tables import tables

    parts = tables(report)
    write(page, lambda command: sweep_page(model, command, parts, report))
    if as_json:
        print_json(report.to_dict())
    else:
        draw(parts)


def _status(report: SweepReport) -> int:
    """The exit code: of the worst that became of a variant; a gate is missed where all variants miss one."""
    if any(v.failed is not None for v in report.variants):
        return VerificationError.exit_code
    if not any(v.writable for v in report.variants):
        return GateError.exit_code
    return int(any(v.missed for v in report.variants))
