"""The verb ``finetune``."""

from __future__ import annotations

from functools import partial

import click

from onnxprune.cli import parsing
from onnxprune.cli.command import Command, option
from onnxprune.cli.output import announcing, present
from onnxprune.cli.paths import target
from onnxprune.errors import GateError


@click.command(cls=Command, forms=["onnxprune finetune MODEL --calib DATA [options]"])
@click.pass_context
@click.argument("model")
@option("Options", "--calib", metavar="WHAT", required=True, help="Training data, labelled or not, as for pruning")
@option("Options", "--teacher", metavar="FILE", help="A model whose outputs are learnt: the one before pruning")
@option("Options", "--loss", metavar="NAME", help="cross-entropy, bce, mse, ctc, module:function  [as labels tell]")
@option("Options", "-o", "--output", metavar="FILE", help="What to write  [MODEL.finetuned.onnx]")
@option("Options", "--force", is_flag=True, help="Replace MODEL.finetuned.onnx where it exists")
@option("Options", "--epochs", type=int, default=20, metavar="N", help="Train for N epochs  [20]")
@option("Options", "--minutes", type=float, metavar="M", help="Begin no further epoch after M minutes of training")
@option("Options", "--rate", type=float, metavar="R", help="Largest step, a share of weights  [0.004, 0.001 of labels]")
@option("While training", "--schedule", metavar="KIND", help="Prune while the model is trained: cubic, linear")
@option("While training", "--start", type=float, metavar="S", help="Share that is pruned at once  [0]")
@option("While training", "--end", type=float, metavar="R", help="Share that is pruned in the end")
@option("While training", "--steps", type=int, metavar="N", help="In how many steps  [10]")
@option("While training", "--pattern", metavar="KIND", help="channels, weights, 2:4, 4x1  [channels]")
@option("While training", "--importance", metavar="NAME", help="l2, l1, movement, ...  [l2]")
@option("Options", "--samples", type=int, metavar="N", help="Use at most N samples  [all]")
@option("Options", "--metric", metavar="NAME", help="top1, top5, mse, psnr, auc, module:function  [top1 with labels]")
@option("Options", "--seed", type=int, default=0, metavar="N", help="Seed of anything random  [0]")
@option("Options", "--strict", is_flag=True, help="Write no model that comes with a warning")
@option(
    "Options", "--time-limit", type=float, metavar="SECONDS", help="End the run, with nothing written, after so long"
)
@option("Options", "--work", metavar="DIR", help="Keep the state of the training: a run that was killed goes on")
@option("Options", "--json", "as_json", is_flag=True, help="Report as JSON on stdout, words on stderr")
@option("Options", "--quiet", is_flag=True, help="No report; warnings and errors only")
def finetune(
    ctx: click.Context,
    model: str,
    calib: str,
    teacher: str | None,
    loss: str | None,
    output: str | None,
    force: bool,
    epochs: int,
    minutes: float | None,
    rate: float | None,
    schedule: str | None,
    start: float | None,
    end: float | None,
    steps: int | None,
    pattern: str | None,
    importance: str | None,
    samples: int | None,
    metric: str | None,
    seed: int,
    strict: bool,
    time_limit: float | None,
    work: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Trains all weights of a model, pruned or not, on labels, on the outputs of another model, or on both.

    Shapes and zeros stay, unless a schedule prunes while the model is trained.

    Weights are taken from the epoch that is the best on samples that were held back, and only if they are surely better
    than before; with a schedule from the best one after it.
    """
    reads = [*([teacher] if teacher else []), *parsing.data_files(calib)]
    path = target(model, output, *reads, force=force, kind="finetuned")
    from onnxprune.pipeline.finetune import finetune as train
    from onnxprune.report.finetune import finetuned

    with announcing(quiet or as_json) as stage:
        result = train(
            model,
            calib,
            teacher=teacher,
            loss=loss,
            epochs=epochs,
            minutes=minutes,
            rate=rate,
            schedule=schedule,
            start=start,
            end=end,
            steps=steps,
            pattern=pattern,
            importance=importance,
            metric=metric,
            samples=samples,
            seed=seed,
            strict=strict,
            time_limit=time_limit,
            progress=stage,
            work=work,
        )
        if result.stopped is None:
            result.save(path)
    written = str(path) if result.stopped is None else None
    report, names = result.report, {"model": model, "output": written, "teacher_model": teacher}
    parts = partial(finetuned, report, model, written)
    present(report.to_dict(), parts, report.warnings, names, as_json=as_json, quiet=quiet, strict=strict)
    if result.stopped is not None:
        ctx.exit(GateError.exit_code)
