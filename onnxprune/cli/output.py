"""Prints JSON or tables on stdout, and warnings on stderr."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.cli.command import colourful, complain, say, warn
from onnxprune.cli.progress import Show, announcing

__all__ = ["announcing", "draw", "files", "logging_on_stderr", "present", "print_json", "save", "show"]
__all__ += ["terminal_width"]

if TYPE_CHECKING:
    from onnxprune.api import Result
    from onnxprune.report.report import Report


@contextlib.contextmanager
def logging_on_stderr(wanted: bool) -> Iterator[None]:
    """Shows the log of the package on stderr while the block lasts."""
    logger, handler = logging.getLogger("onnxprune"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    level = logger.level
    if wanted:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def save(result: Result, path: Path, stage: Show, data_chunk: int | None = None) -> None:
    """Writes a pruned model and enters the time that it took."""
    stage("save")
    start = time.perf_counter()
    result.save(path, data_chunk=data_chunk)
    result.report.seconds["save"] = round(time.perf_counter() - start, 4)


def show(report: Report, names: Mapping[str, str | None], *, as_json: bool, quiet: bool, strict: bool = False) -> None:
    """Prints the report of a run, and its warnings whatever else is asked for.

    Args:
        report: The report.
        names: File names: ``model``, ``output`` and ``plan``; None for what was not written.
        as_json: Whether to print JSON.
        quiet: Whether to print no report.
        strict: Whether warnings are errors.
    """
    from onnxprune.report import terminal

    def parts() -> list[Any]:
        return terminal.run(report, str(names["model"]), names["output"])

    present(report.to_dict(), parts, report.warnings, names, as_json=as_json, quiet=quiet, strict=strict)


def present(
    data: dict[str, Any],
    parts: Callable[[], list[Any]],
    warnings: Iterable[str],
    names: Mapping[str, str | None],
    *,
    as_json: bool,
    quiet: bool,
    strict: bool,
) -> None:
    """Prints what a run did as JSON or as tables, then its warnings.

    Args:
        data: The report as JSON.
        parts: The tables.
        warnings: The warnings.
        names: File names, as those of `show`.
        as_json: Whether to print JSON.
        quiet: Whether to print no report.
        strict: Whether warnings are errors.
    """
    if as_json:
        head = {key: data.pop(key) for key in ("schema", "version")}
        print_json({**head, **names, "files": files(names), **data})
    elif not quiet:
        draw(parts())
    for line in warnings:
        complain(line) if strict else warn(line)
    if as_json and not quiet and names["output"]:
        say(f"wrote {names['output']}", err=True)


def files(names: Mapping[str, str | None]) -> dict[str, list[dict[str, Any]]]:
    """Path, size and SHA-256 of each file of the models, external data included."""
    from onnxprune.model.stored_files import stored_files

    models = {role: names[role] for role in ("model", "output")}
    return {role: [vars(file) for file in stored_files(name)] for role, name in models.items() if name is not None}


def print_json(data: Mapping[str, Any]) -> None:
    """Prints strict JSON: ASCII only, no NaN."""
    say(json.dumps(data, indent=2, allow_nan=False))


def draw(parts: list[Any]) -> None:
    """Prints tables and lines: with colour on a terminal, as plain text elsewhere."""
    from onnxprune.report import tables

    say(tables.text(parts, width=terminal_width(), colour=colourful(sys.stdout)))


def terminal_width() -> int | None:
    """Columns of the terminal that stdout is; None where it is none, and lines may have any length."""
    import shutil  # loading it costs every call, --help too, several milliseconds

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
