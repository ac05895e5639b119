"""The verb ``sensitivity``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxprune.cli import parsing
from onnxprune.cli.command import Command, option
from onnxprune.cli.output import announcing, draw, print_json
from onnxprune.cli.page import html_option, page_path, scenario_of, write
from onnxprune.cli.paths import writable, written

WHAT, DATA, WORDS = "What", "Data and repair", "Output"


@click.command(cls=Command, forms=["onnxprune sensitivity MODEL [options]"])
@click.argument("model")
@option(WHAT, "--only", multiple=True, metavar="REGEX", help="Only groups with such a name; repeatable")
@option(WHAT, "--ignore", multiple=True, metavar="REGEX", help="Leave such groups aside; repeatable")
@option(WHAT, "--mixing", is_flag=True, help="Groups of grade mixing too")
@option(WHAT, "--attention", default="heads", metavar="KIND", help="heads or dims, as for pruning  [heads]")
@option(WHAT, "--shrink", multiple=True, metavar="REGEX", help="As for pruning; repeatable")
@option(WHAT, "--importance", metavar="NAME", help="What is removed first, as for pruning  [obs with data]")
@option(DATA, "--calib", metavar="WHAT", help="Data, labelled or not, as for pruning  [synthetic inputs]")
@option(DATA, "--samples", type=int, metavar="N", help="Use at most N samples  [1024]")
@option(DATA, "--metric", metavar="NAME", help="top1, top5, mse, psnr, auc, module:function  [top1 with labels]")
@option(DATA, "--repair", default="auto", metavar="MODE", help="none, calibrated, data-free  [as for pruning]")
@option(DATA, "--times", metavar="FILE", help="What onnxprune measure wrote: adds the share of the time")
@option(DATA, "--input-shape", multiple=True, metavar="NAME:1,3,8,8", help="Shape to run at; repeatable")
@option(DATA, "--seed", type=int, default=0, metavar="N", help="Seed of anything random  [0]")
@option(WORDS, "--scheduler", metavar="WHERE", help="Dask workers try them: tcp://HOST:8786, local, local:N")
@option(WORDS, "-o", "--output", metavar="FILE", help="Write everything as JSON")
@option(WORDS, "--csv", "csv_file", metavar="FILE", help="Write the rows as CSV, for a spreadsheet")
@html_option(WORDS)
@option(WORDS, "--json", "as_json", is_flag=True, help="Everything as JSON instead of tables")
@option(WORDS, "--progress/--no-progress", default=None, help="Show how far it is  [on a terminal]")
def sensitivity(
    model: str,
    only: tuple[str, ...],
    ignore: tuple[str, ...],
    mixing: bool,
    attention: str,
    shrink: tuple[str, ...],
    importance: str | None,
    calib: str | None,
    samples: int | None,
    metric: str | None,
    repair: str,
    times: str | None,
    input_shape: tuple[str, ...],
    seed: int,
    output: str | None,
    csv_file: str | None,
    html: str | None,
    as_json: bool,
    progress: bool | None,
    scheduler: str | None,
) -> None:
    """Shows what each group of coupled channels costs and saves when it is pruned alone.

    A row a group, in execution order: how many layers share it, its part of the model, and the damage at the outputs
    when 10, 25, 50, 75 and 90% of it are removed and what follows is refitted, on held-out samples. Nothing is pruned.
    """
    shapes = parsing.shapes(input_shape)
    reads = [model, *parsing.data_files(calib), *([times] if times else [])]
    files = [None if name is None else Path(name) for name in (output, csv_file)]
    for path in files:
        if path is not None:
            writable(path, *reads)
    page = page_path(html, *reads)
    from onnxprune import api
    from onnxprune.options import Options
    from onnxprune.pipeline.latency import read_times
    from onnxprune.pipeline.sensitivity import sensitivity as examine
    from onnxprune.report.page.build import sensitivity_page
    from onnxprune.report.sensitivity import tables
    from onnxprune.runtime.distributed.connect import connected

    asked: dict[str, Any] = {
        "calib": calib,
        "samples": samples,
        "importance": importance,
        "repair": repair,
        "metric": metric,
        "only": only,
        "ignore": ignore,
        "mixing": mixing,
        "attention": attention,
        "shrink": shrink,
        "input_shapes": shapes,
        "seed": seed,
    }
    with announcing(as_json, progress) as stage, connected(scheduler) as client:
        report = examine(model, times=times, progress=stage, client=client, **asked)
    parts = tables(report)
    if page is not None:
        options = Options.of(0.0, **asked)
        analysis = api.analyze(model, options=options)
        other = scenario_of(model, analysis, options, None if times is None else read_times(times, analysis))
        write(page, lambda command: sensitivity_page(model, command, parts, analysis.coupling, report, other))
    with written(files[0], report.to_json() + "\n"), written(files[1], report.to_csv()):
        if as_json:
            print_json(report.to_dict())
        else:
            draw(parts)
