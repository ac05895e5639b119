"""From data to what is printed: JSON or tables on stdout, warnings on stderr, the running stage on a terminal."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.cli.words import colourful, say, warn

if TYPE_CHECKING:
    from onnxprune.api import Result


@contextlib.contextmanager
def announcing(silent: bool) -> Iterator[Callable[[str], None]]:
    """Shows on a terminal which stage is running; yields what is to be told its name."""
    if silent or not colourful(sys.stderr):
        yield lambda name: None
        return
    from rich.console import Console

    with Console(stderr=True).status("load", spinner="line") as status:
        yield lambda name: status.update(name)


def save(result: Result, path: Path, stage: Callable[[str], None]) -> None:
    """Writes a pruned model and enters the time that it took."""
    stage("save")
    start = time.perf_counter()
    result.save(path)
    result.report["seconds"]["save"] = round(time.perf_counter() - start, 4)


def show(report: Mapping[str, Any], *, as_json: bool, quiet: bool) -> None:
    """Prints the report of a run, and its warnings whatever else is asked for."""
    from onnxprune.report import terminal

    if as_json:
        print_json(report)
    elif not quiet:
        draw(terminal.run(report))
    for line in terminal.warnings(report):
        warn(line)
    if as_json and not quiet and report["output"]:
        say(f"wrote {report['output']}", err=True)


def print_json(data: Mapping[str, Any]) -> None:
    """Prints strict JSON: ASCII only, no NaN."""
    say(json.dumps(data, indent=2, allow_nan=False))


def draw(parts: list[Any]) -> None:
    """Prints tables and lines: with colour on a terminal, as plain text elsewhere."""
    from onnxprune.report import terminal

    fancy = colourful(sys.stdout)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    say(terminal.text(parts, width=width, colour=fancy))
