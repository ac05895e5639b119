"""The other verbs, each a command in the module of its name, imported when it is called."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

VERBS = (
    "inspect",
    "sensitivity",
    "sweep",
    "apply",
    "slice",
    "finetune",
    "measure",
    "compare",
    "verify",
    "vocabulary",
    "ops",
)


def verb(name: str) -> click.Command:
    """The command of a verb, one of `VERBS`."""
    command: click.Command = getattr(importlib.import_module(f"onnxprune.cli.{name}"), name)
    return command
