"""The verb ``slice``."""

from __future__ import annotations

from pathlib import Path

import click

from onnxprune.cli.command import Command, option, say, warn
from onnxprune.cli.output import print_json
from onnxprune.cli.paths import read_plan, target


@click.command(cls=Command, forms=["onnxprune slice PLAN CHECKPOINT [options]"])
@click.argument("plan")
@click.argument("checkpoint")
@option("Options", "-o", "--output", metavar="FILE", help="What to write  [beside the input, as NAME.pruned.EXT]")
@option("Options", "--force", is_flag=True, help="Replace NAME.pruned.EXT where it exists")
@option("Options", "--map", "tensor_map", metavar="FILE", help="JSON or TOML: which constants tensors belong to")
@option("Options", "--model", metavar="FILE", help="The model of the plan: tensors are found by their values in it too")
@option("Options", "--json", "as_json", is_flag=True, help="The shapes as JSON on stdout")
@option("Options", "--quiet", is_flag=True, help="No report; warnings and errors only")
def slice(
    plan: str,
    checkpoint: str,
    output: str | None,
    force: bool,
    tensor_map: str | None,
    model: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Slices a checkpoint of a training framework as a plan slices the model that was exported from it.

    CHECKPOINT is .npz, .safetensors, .pt (PyTorch), .h5 or .keras. Tensors have the names of the model's constants, or
    a map says which they are. States of an optimizer and averages of the weights beside them are sliced too.
    """
    reads = [plan, *(name for name in (tensor_map, model) if name is not None)]
    path = target(checkpoint, output, *reads, force=force, suffix=Path(checkpoint).suffix)
    from onnxprune.planning.checkpoints.slice import slice_checkpoint
    from onnxprune.planning.plan import Plan

    sliced = slice_checkpoint(Plan.from_json(read_plan(plan)), checkpoint, path, tensor_map=tensor_map, model=model)
    if as_json:
        shapes = {name: {"before": list(a), "after": list(b)} for name, (a, b) in sliced.shapes.items()}
        print_json(
            {
                "checkpoint": checkpoint,
                "output": str(path),
                "tensors": sliced.tensors,
                "sliced": shapes,
                "warnings": list(sliced.warnings),
            }
        )
    elif not quiet:
        say(f"{checkpoint} -> {path}\n{len(sliced.shapes)} of {sliced.tensors} tensors sliced")
    for warning in sliced.warnings:
        warn(warning)
