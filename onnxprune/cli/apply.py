"""The verb ``apply``."""

from __future__ import annotations

import click

from onnxprune.cli import parsing
from onnxprune.cli.command import Command, option
from onnxprune.cli.output import announcing, save, show
from onnxprune.cli.page import html_option, page_path, write_run
from onnxprune.cli.paths import read_plan, target
from onnxprune.errors import GateError


@click.command(cls=Command, forms=["onnxprune apply PLAN MODEL [options]"])
@click.pass_context
@click.argument("plan")
@click.argument("model")
@option("Options", "-o", "--output", metavar="FILE", help="What to write  [MODEL.pruned.onnx]")
@option("Options", "--force", is_flag=True, help="Replace MODEL.pruned.onnx where it exists")
@option("Options", "--calib", metavar="WHAT", help="Data that the layers that are left are repaired with")
@option("Options", "--samples", type=int, metavar="N", help="Use at most N calibration samples  [1024]")
@option(
    "Options",
    "--repair",
    default="auto",
    metavar="MODE",
    help="none, data-free, calibrated, distilled; auto follows --calib  [auto]",
)
@option("Options", "--epochs", type=int, default=40, metavar="N", help="Train for N epochs in --repair distilled  [40]")
@option("Options", "--minutes", type=float, metavar="M", help="Begin no further epoch after M minutes of training")
@option("Options", "--metric", metavar="NAME", help="What is measured on held-out samples  [top1 with labels]")
@option("Options", "--seed", type=int, default=0, metavar="N", help="Seed of anything random  [0]")
@option("Options", "--strict", is_flag=True, help="Write no model that comes with a warning")
@option(
    "Options", "--time-limit", type=float, metavar="SECONDS", help="End the run, with nothing written, after so long"
)
@option("Options", "--grow-from", metavar="OLD_PLAN", help="Let channels come back that another plan removed")
@option("Options", "--trained", metavar="FILE", help="The model that OLD_PLAN made, whose weights are taken")
@option("Options", "--no-verify", is_flag=True, help="Do not run both models and compare them")
@option(
    "Options", "--input-shape", multiple=True, metavar="NAME:1,3,8,8", help="Shape to run and count MACs at; repeatable"
)
@option("Options", "--json", "as_json", is_flag=True, help="Report as JSON on stdout, words on stderr")
@option("Options", "--data-chunk", hidden=True)
@html_option("Options")
@option("Options", "--quiet", is_flag=True, help="No report; warnings and errors only")
def apply(
    ctx: click.Context,
    plan: str,
    model: str,
    output: str | None,
    force: bool,
    calib: str | None,
    samples: int | None,
    repair: str,
    epochs: int,
    minutes: float | None,
    metric: str | None,
    seed: int,
    strict: bool,
    time_limit: float | None,
    grow_from: str | None,
    trained: str | None,
    no_verify: bool,
    input_shape: tuple[str, ...],
    as_json: bool,
    data_chunk: str | None,
    html: str | None,
    quiet: bool,
) -> None:
    """Applies a plan to the model that it was made for, or to another checkpoint of it."""
    shapes, chunk = parsing.shapes(input_shape), parsing.data_chunk(data_chunk)
    reads = [plan, *(one for one in (grow_from, trained) if one is not None), *parsing.data_files(calib)]
    path = target(model, output, *reads, force=force)
    page = page_path(html, model, *reads)
    written = read_plan(plan)
    from onnxprune.api.checkpoints import growth, run_plan
    from onnxprune.options import Calibration, Checks, Repair, Resources
    from onnxprune.pipeline.apply import Application
    from onnxprune.pipeline.scenario import options_of
    from onnxprune.planning.plan import Plan

    checks = Checks(verify=not no_verify, input_shapes=shapes, metric=metric, strict=strict)
    training, resources = Repair(repair, epochs, minutes), Resources(time_limit=time_limit)
    back = growth(None if grow_from is None else Plan.from_json(read_plan(grow_from)), trained)
    asked = Application(checks, Calibration(calib, samples), training, resources, seed, back)
    parsed = Plan.from_json(written)
    with announcing(quiet or as_json) as stage:
        result = run_plan(parsed, model, asked, progress=stage)
        if result.stopped is None:
            save(result, path, stage, chunk)
    names = {"model": model, "output": str(path) if result.stopped is None else None, "plan": plan}
    if result.stopped is None:
        write_run(page, model, names["output"], result, options_of(parsed, asked))
    show(result.report, names, as_json=as_json, quiet=quiet, strict=strict)
    if result.stopped is not None:
        ctx.exit(GateError.exit_code)
