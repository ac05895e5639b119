"""The verb ``measure``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxprune.cli import parsing
from onnxprune.cli.command import Command, option
from onnxprune.cli.output import announcing, draw, print_json
from onnxprune.cli.paths import writable, written
from onnxprune.engines.profiles import DEFAULT
from onnxprune.errors import InputError

if TYPE_CHECKING:
    from onnxprune.engines.times import Times

HOW, WHAT = "How", "What"


@click.command(cls=Command, forms=["onnxprune measure MODEL [options]"])
@click.argument("model")
@option(WHAT, "-o", "--output", metavar="FILE", help="What to write; continued if it exists  [MODEL.times.json]")
@option(WHAT, "--copies", type=int, default=48, metavar="N", help="Sliced copies that are timed  [48]")
@option(WHAT, "--mixing", is_flag=True, help="As for the pruning that the times are for")
@option(WHAT, "--shrink", multiple=True, metavar="REGEX", help="As for pruning; repeatable")
@option(WHAT, "--attention", default="heads", metavar="KIND", help="heads or dims, as for pruning  [heads]")
@option(WHAT, "--input-shape", multiple=True, metavar="NAME:1,3,8,8", help="Shape to run at; repeatable")
@option(WHAT, "--batch", type=int, default=1, metavar="N", help="Size of a free batch axis  [1]")
@option(HOW, "--threads", type=int, default=1, metavar="N", help="0: onnxruntime's own number  [1]")
@option(
    HOW,
    "--provider",
    multiple=True,
    metavar="NAME",
    help="Execution provider: CUDA:device_id=0, say; repeatable  [CPU]",
)
@option(HOW, "--engine", metavar="COMMAND", help="Another engine: a command that prints ms, or module:function")
@option("Words", "--json", "as_json", is_flag=True, help="The table as JSON")
@option("Words", "--quiet", is_flag=True, help="No table")
@option("Words", "--progress/--no-progress", default=None, help="Show how far it is  [on a terminal]")
def measure(
    model: str,
    output: str | None,
    copies: int,
    mixing: bool,
    shrink: tuple[str, ...],
    attention: str,
    input_shape: tuple[str, ...],
    batch: int,
    threads: int,
    provider: tuple[str, ...],
    engine: str | None,
    as_json: bool,
    quiet: bool,
    progress: bool | None,
) -> None:
    """Measures what this device takes for a model at many widths, for a target of latency.

    It runs on the device that the model is for, needs neither data nor labels there, and takes seconds to a few
    minutes. The times hold for every checkpoint of the architecture. A call that was ended continues where it was.

    With --engine another engine is measured: a command line that is given the path of a model file in place of {model},
    or at its end, and prints milliseconds; or a function of the path, as module:function.
    """
    shapes = parsing.shapes(input_shape)
    path = Path(output) if output is not None else Path(model).with_suffix(".times.json")
    writable(path, model)
    if engine is not None and (provider or threads != 1):
        raise InputError("--engine times another engine than onnxruntime", "leave --provider and --threads away")
    from onnxprune import api
    from onnxprune.report.times import summary, tables

    analysis = api.analyze(model, mixing=mixing, attention=attention, shrink=shrink)
    with announcing(quiet or as_json, progress) as stage:
        times = api.measure(
            model,
            engine=DEFAULT if engine is None else engine,
            providers=[_provider(text) for text in provider] or ["CPUExecutionProvider"],
            threads=threads,
            batch=batch,
            input_shapes=shapes,
            copies=copies,
            mixing=mixing,
            attention=attention,
            shrink=shrink,
            before=_earlier(path),
            measured=lambda times: _write(path, times),
            progress=stage,
        )
    if as_json:
        print_json({"model": model, "output": str(path), **summary(times, analysis.coupling)})
    elif not quiet:
        draw(tables(times, analysis.coupling, str(path)))


def _earlier(path: Path) -> Times | None:
    """The times of an earlier call.

    Raises:
        InputError: The file holds something else, which is not replaced.
    """
    from onnxprune.engines.times import Times

    if not path.exists():
        return None
    try:
        return Times.from_json(path.read_text(encoding="utf-8"))
    except (InputError, OSError, UnicodeDecodeError):
        raise InputError(f"{path} exists, and holds no times", "name another file, or remove it") from None


def _write(path: Path, times: Times) -> None:
    with written(path, times.to_json()):
        pass


def _provider(text: str) -> str | tuple[str, dict[str, Any]]:
    """``CUDA``, ``CUDAExecutionProvider``, or either with ``:key=value,key=value``."""
    name, colon, rest = text.partition(":")
    full = name if name.endswith("ExecutionProvider") else f"{name}ExecutionProvider"
    if not colon:
        return full
    pairs = [pair.partition("=") for pair in rest.split(",")]
    if not all(equals for _, equals, _ in pairs):
        raise InputError(f"provider {text!r}: options are KEY=VALUE, with commas between them")
    return full, {key: value for key, _, value in pairs}
