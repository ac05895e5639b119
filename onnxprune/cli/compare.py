"""The verb ``compare``."""

from __future__ import annotations

import click

from onnxprune.cli import parsing
from onnxprune.cli.command import Command, option
from onnxprune.cli.output import announcing, draw, print_json
from onnxprune.cli.paths import read_plan


@click.command(cls=Command, forms=["onnxprune compare A B [options]"])
@click.argument("a")
@click.argument("b")
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
def compare(a: str, b: str, runs: int, input_shape: tuple[str, ...], plan: str | None, as_json: bool) -> None:
    """Shows how far the outputs of model B are from those of A on synthetic inputs, and how long each takes."""
    shapes = parsing.shapes(input_shape)
    from onnxprune.cost.measure import measure
    from onnxprune.model.model import load
    from onnxprune.planning.plan import Plan, io_slices
    from onnxprune.report.compare_tables import ComparisonReport, compared
    from onnxprune.report.entries import Count
    from onnxprune.runtime.io_slices import WHOLE
    from onnxprune.verification import check

    lost_slices = io_slices(Plan.from_json(read_plan(plan))) if plan is not None else WHOLE
    first, second = measure(load(a), shapes), measure(load(b), lost_slices.shapes(shapes))
    with announcing(as_json) as stage:
        stage("run")
        found = check.compare(a, b, input_shapes=shapes, runs=runs, io_slices=lost_slices)
    report = ComparisonReport(
        a,
        b,
        params=Count(first.params, second.params),
        macs=Count(first.macs, second.macs),
        bytes=Count(first.bytes, second.bytes),
        drift=found.drift,
        latency=found.latency,
    )
    if as_json:
        print_json(report.to_dict())
    else:
        draw(compared(report))
