"""The verb ``compare``."""

from __future__ import annotations

import click

from onnxprune.cli import parsing
from onnxprune.cli.command import Command, option
from onnxprune.cli.output import announcing, draw, print_json
from onnxprune.cli.page import html_option, page_path, write
from onnxprune.cli.paths import read_plan
from onnxprune.common.text import plural


@click.command(cls=Command, forms=["onnxprune compare A B [C ...] [options]"])
@click.argument("a")
@click.argument("b", nargs=-1, required=True)
@option("Options", "--calib", metavar="WHAT", help="Data to compare outputs on, labelled or not  [synthetic inputs]")
@option("Options", "--samples", type=int, metavar="N", help="Use at most N samples  [all]")
@option("Options", "--metric", metavar="NAME", help="top1, top5, mse, psnr, auc, module:function  [top1 with labels]")
@option(
    "Options",
    "--runs",
    type=click.IntRange(min=1),
    default=20,
    metavar="N",
    help="Timed runs of each model, interleaved  [20]",
)
@option("Options", "--input-shape", multiple=True, metavar="NAME:1,3,8,8", help="Shape to run at; repeatable")
@option("Options", "--plan", metavar="FILE", help="What B lost of inputs and outputs, where --shrink let it")
@option("Options", "--json", "as_json", is_flag=True, help="As JSON")
@html_option("Options")
def compare(
    a: str,
    b: tuple[str, ...],
    calib: str | None,
    samples: int | None,
    metric: str | None,
    runs: int,
    input_shape: tuple[str, ...],
    plan: str | None,
    as_json: bool,
    html: str | None,
) -> None:
    """Shows parameters, MACs, bytes and time of models, and how far their outputs are from those of the first."""
    shapes = parsing.shapes(input_shape)
    page = page_path(html, a, *b, *([] if plan is None else [plan]), *parsing.data_files(calib))
    plan_text = None if plan is None else read_plan(plan)
    from onnxprune.pipeline.compare import compare as compare_models
    from onnxprune.planning.plan import Plan
    from onnxprune.report.comparison import compared
    from onnxprune.report.page.build import plain_page

    with announcing(as_json) as stage:
        stage("run")
        report = compare_models(
            a,
            *b,
            calib=calib,
            samples=samples,
            metric=metric,
            plan=None if plan_text is None else Plan.from_json(plan_text),
            input_shapes=shapes,
            runs=runs,
        )
    title = f"{a} compared with {plural(len(b), 'model')}"
    write(page, lambda command: plain_page(title, command, compared(report)))
    if as_json:
        print_json(report.to_dict())
    else:
        draw(compared(report))
