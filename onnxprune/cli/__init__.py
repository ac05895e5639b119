"""The command line: words, no logic.

Nothing heavy is imported before a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from onnxprune.cli.exit import guarded
from onnxprune.cli.prune import prune
from onnxprune.cli.verbs import VERBS, verb

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line.

    Args:
        arguments: What follows the program's name; default: that of this process.

    Returns:
        The exit status. A signal ends the process as that signal does.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in VERBS:
        return guarded(verb(given[0]), f"onnxprune {given[0]}", given[1:])
    return guarded(prune, "onnxprune", given)
