"""The verb ``verify``."""

from __future__ import annotations

import click

from onnxprune.cli import parsing
from onnxprune.cli.command import Command, option
from onnxprune.cli.output import announcing, draw, print_json
from onnxprune.cli.page import html_option, page_path, write
from onnxprune.cli.paths import read_plan


@click.command(cls=Command, forms=["onnxprune verify ORIGINAL PRUNED --plan P [options]"])
@click.argument("original")
@click.argument("pruned")
@option("Options", "--plan", required=True, metavar="FILE", help="What was taken")
@option(
    "Options",
    "--tolerance",
    type=click.FloatRange(min=0, min_open=True),
    metavar="X",
    help="Relative RMS by which an output may be off  [0.0001]",
)
@option("Options", "--input-shape", multiple=True, metavar="NAME:1,3,8,8", help="Shape to run at; repeatable")
@option("Options", "--seed", type=click.IntRange(min=0), default=0, metavar="N", help="Seed of the inputs  [0]")
@option("Options", "--json", "as_json", is_flag=True, help="As JSON")
@html_option("Options")
def verify(
    original: str,
    pruned: str,
    plan: str,
    tolerance: float | None,
    input_shape: tuple[str, ...],
    seed: int,
    as_json: bool,
    html: str | None,
) -> None:
    """Checks that a pruned model computes what the original computes with all that the plan takes set to zero.

    That holds of models that were pruned with --repair none: what survives is as it was. Exit code 3 where it does not
    hold, or where the models cannot be run here.
    """
    shapes = parsing.shapes(input_shape)
    page = page_path(html, original, pruned, plan)
    plan_text = read_plan(plan)
    from onnxprune import testing
    from onnxprune.errors import VerificationError
    from onnxprune.planning.plan import Plan
    from onnxprune.report.before_after import drifts
    from onnxprune.report.page.build import plain_page
    from onnxprune.report.report import SYNTHETIC
    from onnxprune.runtime.determinism import deterministic_run

    with announcing(as_json) as stage, deterministic_run():
        stage("verify")
        found = testing.equivalence(
            original,
            pruned,
            Plan.from_json(plan_text),
            input_shapes=shapes or None,
            seed=seed,
            tolerance=testing.TOLERANCE if tolerance is None else tolerance,
        )
    how = "equivalent to the masked original" if found.equivalent else f"NOT equivalent: {found.because}"
    parts = [f"{pruned}: {how}", *drifts(found.drift, SYNTHETIC)]
    write(page, lambda command: plain_page(f"{original} and {pruned}", command, parts))
    if as_json:
        print_json({"original": original, "pruned": pruned, "plan": plan, **found.to_dict()})
    elif found.equivalent:
        draw(parts)
    if not found.equivalent:
        raise VerificationError(
            f"{pruned}: {found.because}", "this holds of models that were pruned with --repair none"
        )
