"""``onnxprune MODEL``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxprune import __version__
from onnxprune.cli import parsing
from onnxprune.cli.command import Command, option, say
from onnxprune.cli.output import announcing, logging_on_stderr, save, show
from onnxprune.cli.page import html_option, page_path, write_run
from onnxprune.cli.paths import target, writable, written
from onnxprune.errors import GateError, InputError

AMOUNT = "How much (--ratio, --target, or --pattern)"
WHICH = "Which"
DATA = "Calibration data and repair"
CHECKS = "Check"
FILES = "Files and words"
NOTES = [
    (
        "Verbs (a file of such a name is ./inspect)",
        [
            ("inspect MODEL", "Groups of channels, and why the rest is pinned"),
            ("sensitivity MODEL", "What each group costs and saves when it is pruned alone"),
            ("sweep MODEL", "Variants side by side: ratios, targets, criteria"),
            ("apply PLAN MODEL", "Take the same from another checkpoint, and repair it with --calib"),
            ("slice PLAN CHECKPOINT", "Take the same from a checkpoint of PyTorch, Keras, ..."),
            ("finetune MODEL --calib D", "Train what is left on labels, or on the original's outputs"),
            ("vocabulary MODEL KEEP", "Drop words of a language model, in embedding and output layer"),
            ("measure MODEL", "Time of the model at many widths, for --target latency"),
            ("compare A B ...", "Size, time, accuracy and drift of models side by side"),
            ("verify A B --plan P", "Whether B computes what A does without all that went"),
            ("ops", "Operators that have a rule"),
        ],
    ),
    (
        "Exit codes",
        [
            ("0", "Done; also when nothing may be pruned, which is said"),
            ("1", "Ran and written, but a target was missed, or a gate with --keep-anyway"),
            ("2", "Usage, input or output"),
            ("3", "The result failed verification; nothing was written"),
            ("4", "Internal error, with its traceback"),
            ("5", "A gate, --max-drop, --strict or --time-limit was missed; nothing was written"),
        ],
    ),
]


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        say(f"onnxprune {__version__}")
        ctx.exit()


@click.command(cls=Command, forms=["onnxprune MODEL --ratio R [options]", "onnxprune VERB ..."], notes=NOTES)
@click.argument("model")
@click.argument("extra", nargs=-1)
@option(AMOUNT, "--ratio", type=float, metavar="R", help="Share of channels that every group loses, 0 <= R < 1")
@option(
    AMOUNT,
    "--pattern",
    multiple=True,
    metavar="KIND",
    help="channels; zeros: weights=R, 2:4, blocks 4x1=R; or both  [channels]",
)
@option(
    AMOUNT,
    "--target",
    multiple=True,
    metavar="COST=X",
    help="What may be left of latency, macs, params, bytes: 0.5, 4ms; repeatable",
)
@option(
    AMOUNT,
    "--global/--no-global",
    "global_ranking",
    default=None,
    help="R is the share of all groups, or of each by itself  [of each; of all for zeros that data choose]",
)
@option(
    AMOUNT, "--keep", multiple=True, metavar="REGEX=S", help="Share that stays of such groups: stem=0.8; repeatable"
)
@option(AMOUNT, "--min-channels", type=int, default=1, metavar="N", help="Channels that every group keeps  [1]")
@option(
    AMOUNT, "--round-to", default="auto", metavar="N", help="Keep multiples of N; auto: what the engine needs  [auto]"
)
@option(
    AMOUNT,
    "--engine",
    default="onnxruntime",
    metavar="WHAT",
    help="openvino, tensorrt, ncnn, ..., or its timer  [onnxruntime]",
)
@option(AMOUNT, "--times", metavar="FILE", help="What measure wrote elsewhere, for --target latency")
@option(
    WHICH,
    "--importance",
    metavar="NAME",
    help="l1, l2, fpgm, lamp, bn-scale, random, synflow; from data obs, wanda, flap, apoz, taylor, fisher, snip, "
    "grasp; of zeros sparsegpt, alps too  [obs or l2]",
)
@option(WHICH, "--permute", is_flag=True, help="Reorder channels first, so that a pattern N:M keeps more")
@option(WHICH, "--seed", type=int, default=0, metavar="N", help="Seed of anything random  [0]")
@option(WHICH, "--only", multiple=True, metavar="REGEX", help="Prune what touches these names; repeatable")
@option(WHICH, "--ignore", multiple=True, metavar="REGEX", help="Leave what touches these names; repeatable")
@option(WHICH, "--mixing", is_flag=True, help="Prune groups of grade mixing too (see inspect)")
@option(WHICH, "--attention", default="heads", metavar="KIND", help="heads, or dims: dimensions within heads  [heads]")
@option(
    WHICH,
    "--shrink",
    multiple=True,
    metavar="REGEX",
    help="Graph inputs and outputs that may lose slices: KV caches; repeatable",
)
@option(
    DATA,
    "--calib",
    metavar="WHAT",
    help="Inputs, labelled or not: FILE.npz, folder of arrays or images, module:function",
)
@option(DATA, "--samples", type=int, metavar="N", help="Use at most N calibration samples  [1024]")
@option(DATA, "--stats", hidden=True)
@option(DATA, "--steps", type=int, default=1, hidden=True)
@option(DATA, "--memory", default="1GB", hidden=True)
@option(AMOUNT, "--depth", default="0", hidden=True)
@option(
    DATA,
    "--repair",
    default="auto",
    metavar="MODE",
    help="none, data-free, calibrated, distilled; auto: by data  [auto]",
)
@option(DATA, "--epochs", type=int, default=40, hidden=True)
@option(DATA, "--minutes", type=float, hidden=True)
@option(
    CHECKS,
    "--gate",
    multiple=True,
    metavar="KIND=X",
    help="No model is written beyond drift=0.05, cosine=0.99, agreement=0.98, drift:OUTPUT=0.1; repeatable",
)
@option(
    CHECKS,
    "--max-drop",
    type=float,
    metavar="X",
    help="No model is written that may lose more of the metric on held-out samples: 0.01 is a point of top1",
)
@option(
    CHECKS,
    "--metric",
    metavar="NAME",
    help="top1, top5, mse, psnr, auc, NAME:OUTPUT, or module:function  [top1 with labels]",
)
@option(CHECKS, "--keep-anyway", is_flag=True, help="Write a model that misses a gate or --max-drop")
@option(CHECKS, "--search", is_flag=True, help="Find the smallest model within --max-drop and the gates")
@option(CHECKS, "--drift-search", is_flag=True, hidden=True)
@option(CHECKS, "--strict", is_flag=True, help="Write no model that comes with a warning")
@option(CHECKS, "--time-limit", type=float, metavar="SECONDS", help="End the run, with nothing written, after so long")
@option(CHECKS, "--run-seconds", type=float, default=600, hidden=True)
@option(CHECKS, "--run-memory", hidden=True)
@option(CHECKS, "--no-verify", is_flag=True, help="Do not run both models and compare them")
@option(CHECKS, "--no-time", is_flag=True, help="Do not time both models")
@option(
    CHECKS, "--input-shape", multiple=True, metavar="NAME:1,3,8,8", help="Shape to run and count MACs at; repeatable"
)
@option(CHECKS, "--scheduler", hidden=True)
@option(CHECKS, "--work", hidden=True)
@option(FILES, "-o", "--output", metavar="FILE", help="What to write  [MODEL.pruned.onnx]")
@option(FILES, "--sparse-storage", is_flag=True, hidden=True)
@option(FILES, "--data-chunk", hidden=True)
@option(FILES, "--force", is_flag=True, help="Replace MODEL.pruned.onnx where it exists")
@option(FILES, "--dry-run", is_flag=True, help="Plan only: show what would go, write no model")
@option(FILES, "--plan", metavar="FILE", help="Write what is removed and why as JSON")
@option(FILES, "--json", "as_json", is_flag=True, help="Report as JSON on stdout, words on stderr")
@html_option(FILES)
@option(FILES, "--quiet", is_flag=True, help="No report; warnings and errors only")
@option(FILES, "--progress/--no-progress", default=None, help="Show how far the run is  [on a terminal]")
@option(FILES, "--verbose", is_flag=True, help="Log on stderr what is done meanwhile")
@option(
    FILES,
    "--recipe",
    metavar="FILE",
    is_eager=True,
    callback=parsing.load_recipe,
    expose_value=False,
    help="Any of these options from a TOML or JSON file",
)
@option(
    "Other",
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit",
)
@click.pass_context
def prune(
    ctx: click.Context,
    /,
    model: str,
    extra: tuple[str, ...],
    output: str | None,
    force: bool,
    dry_run: bool,
    plan: str | None,
    as_json: bool,
    html: str | None,
    data_chunk: str | None,
    quiet: bool,
    verbose: bool,
    progress: bool | None,
    scheduler: str | None,
    work: str | None,
    **_: Any,
) -> None:
    """Takes channels out of a trained ONNX model and writes a smaller one."""
    if extra:
        raise InputError(f"one model at a time: {extra[0]!r} is too many", _meant(model))
    options, chunk = parsing.options(ctx), parsing.data_chunk(data_chunk)
    if dry_run and work is not None:
        raise InputError("a dry run takes few steps, and keeps none", "leave --work or --dry-run away")
    others = parsing.files_read(ctx)
    path = None if dry_run else target(model, output, *others, force=force)
    plan_path = _plan_path(plan, model, *others)
    page = page_path(html, model, *others)
    from onnxprune import api
    from onnxprune.runtime.distributed.connect import connected

    with logging_on_stderr(verbose), announcing(quiet or verbose, progress) as stage, connected(scheduler) as client:
        if dry_run:
            result = api.dry_run(model, options, progress=stage, client=client)
        else:
            result = api.run(model, options, progress=stage, client=client, work=work)
        if result.stopped is not None:
            path = plan_path = None
        with written(plan_path, "" if plan_path is None else result.plan.to_json()):
            if path is not None:
                save(result, path, stage, chunk)
    names = {"model": model, "output": str(path) if path else None, "plan": str(plan_path) if plan_path else None}
    if result.stopped is None:
        write_run(page, model, names["output"], result, options)
    show(result.report, names, as_json=as_json, quiet=quiet, strict=options.checks.strict)
    if result.stopped is not None:
        ctx.exit(GateError.exit_code)
    if result.report.missed:
        ctx.exit(1)


def _meant(first: str) -> str:
    """The hint after a second file name."""
    if first == "prune":
        return "pruning has no verb: onnxprune MODEL --ratio 0.5"
    import difflib

    verbs = [line.split()[0] for line, _ in NOTES[0][1]]
    near = difflib.get_close_matches(first, verbs, n=1)
    return f"did you mean the verb {near[0]!r}?" if near else "the output is named with -o FILE"


def _plan_path(plan: str | None, *inputs: str) -> Path | None:
    if plan is None:
        return None
    path = Path(plan)
    writable(path, *inputs)
    return path
