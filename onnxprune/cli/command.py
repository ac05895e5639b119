"""Output streams, colour and help of commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO, TypeVar

import click

from onnxprune.common.text import short
from onnxprune.errors import on_command_line

HELP_WIDTH = 100
LONGEST = 1000
"""Characters of a message: names in models have any length."""

TYPED = "onnxprune.cli.typed"
"""Key of the command line, as it was typed, in the context of a command."""

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def complain(message: str, hint: str = "") -> None:
    """Writes an error to stderr: one line, and a second one with a hint if there is one."""
    _labelled("error", "red", message)
    if hint:
        _labelled("hint", "cyan", hint)


_shown: set[str] = set()


def warn(message: str) -> None:
    """Writes a warning to stderr in one line, once in a command."""
    if message not in _shown:
        _shown.add(message)
        _labelled("warning", "yellow", message)


def forget_warnings() -> None:
    """Begins a command: warnings of an earlier one in this process are shown again."""
    _shown.clear()


def say(text: str, *, err: bool = False) -> None:
    """Writes lines to stdout or stderr; characters that the stream cannot encode become question marks."""
    stream = sys.stderr if err else sys.stdout
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")


def colourful(stream: TextIO) -> bool:
    """Whether a stream is a terminal that wants colour."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _labelled(label: str, colour: str, message: str) -> None:
    shown = click.style(label, fg=colour, bold=True) if colourful(sys.stderr) else label
    say(f"{shown}: {short(on_command_line(message), LONGEST)}", err=True)


class Option(click.Option):
    """An option that belongs to a section of the help."""

    def __init__(self, *args: Any, section: str = "Other", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Name and help; a flag and its contrary share a name."""
        record = super().get_help_record(ctx)
        if record is None or not self.secondary_opts:
            return record
        return f"--[no-]{self.opts[0].removeprefix('--')}", record[1]


class Command(click.Command):
    """A command whose help groups its options into sections.

    Attributes:
        forms: Lines of usage, the program's name left out.
        notes: Further sections of the help: title and rows of two columns.
    """

    def __init__(
        self,
        *args: Any,
        forms: Sequence[str] = (),
        notes: Sequence[tuple[str, Sequence[tuple[str, str]]]] = (),
        **settings: Any,
    ) -> None:
        settings["context_settings"] = {"max_content_width": HELP_WIDTH}
        super().__init__(*args, **{**settings, "add_help_option": False})
        self.params.append(
            Option(
                ["-h", "--help"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_show_help,
                help="Show this and exit",
            )
        )
        self.forms = forms
        self.notes = notes

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The forms that the command comes in, one a line."""
        for i, form in enumerate(self.forms):
            formatter.write(f"{'Usage:' if i == 0 else '      '} {form}\n")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options by section, then the notes."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.params:
            record = param.get_help_record(ctx)
            if isinstance(param, Option) and record is not None:
                sections.setdefault(param.section, []).append(record)
        for title, rows in [*sections.items(), *self.notes]:
            with formatter.section(title):
                formatter.write_dl(list(rows), col_max=34)


def _show_help(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        say(ctx.get_help())
        ctx.exit()


def option(section: str, *names: str, **settings: Any) -> Callable[[Decorated], Decorated]:
    """Declares an option under a section of the help."""
    return click.option(*names, cls=Option, section=section, **settings)
