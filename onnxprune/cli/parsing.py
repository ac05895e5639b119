"""Converts command-line arguments and recipes to `Options`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from onnxprune.cli import recipe
from onnxprune.common.text import amount
from onnxprune.errors import InputError, option

if TYPE_CHECKING:
    from onnxprune.options import Options


def shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Shapes by input name from texts such as ``NAME:1,3,224,224`` or ``NAME:1x3x224x224``.

    The name ends at the last colon: names may hold colons themselves.

    Raises:
        InputError: A text is none of that form, or an input is named twice.
    """
    found: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, _, sizes = text.rpartition(":")
        parts = sizes.replace("x", ",").split(",")
        if not name or not all(p.strip().isdecimal() and int(p) > 0 for p in parts):
            raise InputError(f"--input-shape: {text!r} is not a name and sizes", "NAME:1,3,224,224 or NAME:1x3x224x224")
        if name in found:
            raise InputError(f"--input-shape: {name!r} is given twice")
        found[name] = tuple(int(p) for p in parts)
    return found


def load_recipe(ctx: click.Context, param: click.Parameter, path: str | None) -> str | None:
    """Makes the options of a recipe the defaults of the command line, which therefore wins."""
    if path is not None:
        names = {p.opts[-1].lstrip("-"): str(p.name) for p in ctx.command.params if isinstance(p, click.Option)}
        ctx.meta[__name__] = path
        ctx.default_map = {names[key]: value for key, value in recipe.read(path).items()}
    return path


def files_read(ctx: click.Context) -> list[str]:
    """Files that a run reads besides the model, as far as the options name them: they are never changed."""
    others = [name for name in (ctx.params["stats"], ctx.params["times"], ctx.meta.get(__name__)) if name]
    return [*data_files(ctx.params["calib"]), *others]


def data_files(calib: str | None) -> list[str]:
    """Files that a calibration spec names: the data, and the list of classes."""
    head, *options = (calib or "").split(",")
    classes = [option.removeprefix("classes=") for option in options if option.startswith("classes=")]
    return [name for name in (head, *classes) if name]


def options(ctx: click.Context) -> Options:
    """The options of a run.

    Raises:
        InputError: A value is out of range or unknown, or not exactly one of them says how much.
    """
    from onnxprune.options import Options

    given = ctx.params
    ratio, pattern, target = _amount(given, {name: ctx.get_parameter_source(name) for name in HOW_MUCH})
    return Options.of(
        ratio,
        pattern=pattern,
        verify=not given["no_verify"],
        time=not given["no_time"],
        target=targets(target),
        keep=keep(given["keep"]),
        gate=gates(given["gate"]),
        memory=size(given["memory"]),
        run_memory=None if given["run_memory"] is None else size(given["run_memory"]),
        input_shapes=shapes(given["input_shape"]),
        round_to=whole_or_word(given["round_to"]),
        depth=whole_or_word(given["depth"]),
        **{name: given[name] for name in AS_GIVEN},
    )


def whole_or_word(text: str) -> int | str:
    """A whole number; ``auto`` as it is."""
    return int(text) if text.strip().isdecimal() else text


AS_GIVEN = (
    "global_ranking",
    "importance",
    "min_channels",
    "engine",
    "times",
    "steps",
    "permute",
    "seed",
    "only",
    "ignore",
    "mixing",
    "attention",
    "shrink",
    "calib",
    "samples",
    "stats",
    "repair",
    "epochs",
    "minutes",
    "metric",
    "max_drop",
    "keep_anyway",
    "strict",
    "time_limit",
    "search",
    "drift_search",
    "sparse_storage",
    "run_seconds",
)
"""Options that the command line has under their names in `Options.of`, with values of the same kind."""


def targets(texts: Sequence[str]) -> dict[str, str]:
    """``macs=0.5`` and the like as a mapping."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value:
            raise InputError(f"target {text!r} does not say how much", "latency=0.6, macs=0.5 or bytes=4MB, say")
        if name in found:
            raise InputError(f"target {name!r} is given twice", "give it once")
        found[name] = value
    return found


def gates(texts: Sequence[str]) -> dict[str, float]:
    """``drift=0.05`` and the like as a mapping."""
    example = "drift=0.05, drift:OUTPUT=0.05, cosine=0.99, say"
    return _numbers(texts, "gate {!r} does not say how far", example, "gate {!r} is given twice")


def keep(texts: Sequence[str]) -> dict[str, float]:
    """``REGEX=0.8`` and the like as a mapping."""
    example = "--keep 'stem=0.8' keeps 80% of it"
    return _numbers(texts, "--keep: {!r} is not an expression and a share", example, "--keep: {!r} is given twice")


def _numbers(texts: Sequence[str], unclear: str, example: str, twice: str) -> dict[str, float]:
    """Texts ``NAME=NUMBER`` as a mapping; the number follows the last ``=``, names may hold some themselves.

    Args:
        texts: The texts.
        unclear: What is wrong with a text that has another form, with a place for it.
        example: How it should look.
        twice: What is wrong with a name that is given twice, with a place for it.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            name = ""
        if not name:
            raise InputError(unclear.format(text), example)
        if name in found:
            raise InputError(twice.format(name), "give it once")
        found[name] = number
    return found


def size(text: str, what: str = "memory") -> int:
    """A number of bytes such as ``500MB`` or ``2GB``.

    Args:
        text: The number.
        what: What has this size.

    Raises:
        InputError: It is none.
    """
    found = amount(text)
    if found is None or not math.isfinite(found):
        raise InputError(f"{what} {text!r} is no size", "500MB or 2GB, say")
    return int(found)


def data_chunk(text: str | None) -> int | None:
    """The largest size of a data file; None where none was given.

    Raises:
        InputError: It is no size, or it has no room for anything.
    """
    if text is None:
        return None
    found = size(text, "data chunk")
    if found < 1:
        raise InputError(f"{option('data_chunk')} must be above 0, not {found}", "2GB, say")
    return found


HOW_MUCH = ("ratio", "pattern", "target")


def _amount(
    given: Mapping[str, Any], sources: Mapping[str, ParameterSource | None]
) -> tuple[float | None, Sequence[str], Sequence[str]]:
    """Ratio, patterns and targets; an amount on the command line overrides one in a recipe."""
    from onnxprune.extensions.patterns import CHANNELS

    ratio: float | None = given["ratio"]
    patterns: Sequence[str] = given["pattern"] or (CHANNELS,)
    target: Sequence[str] = given["target"]
    typed = {name for name, source in sources.items() if source is ParameterSource.COMMANDLINE}
    if typed & {"ratio", "target"} and "pattern" not in typed and CHANNELS not in patterns:
        patterns = (CHANNELS,)
    if "target" in typed or ("pattern" in typed and CHANNELS not in patterns):
        ratio = ratio if "ratio" in typed else None
    if "ratio" in typed or ("pattern" in typed and CHANNELS not in patterns):
        target = target if "target" in typed else ()
    return ratio, patterns, target


def listed(texts: Sequence[str]) -> list[str]:
    """The parts of texts that commas divide."""
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def ratios(texts: Sequence[str]) -> list[float]:
    """``0.2,0.3`` and the like as numbers."""
    try:
        return [float(part) for part in listed(texts)]
    except ValueError:
        raise InputError(f"--ratio: {','.join(texts)!r} are not numbers", "--ratio 0.2,0.3,0.5, say") from None


def limits(texts: Sequence[str]) -> dict[str, list[str]]:
    """``macs=0.5,0.7`` and the like as a mapping from the cost to its limits."""
    found: dict[str, list[str]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not listed([values]):
            raise InputError(f"target {text!r} does not say how much", "latency=0.8,0.6 or macs=0.5, say")
        found.setdefault(name, []).extend(listed([values]))
    return found
