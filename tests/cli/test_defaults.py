"""The command line has no defaults of its own: those of its options are those of `Options.of`."""

from __future__ import annotations

import inspect
import re
from typing import Any

import click
import pytest

from onnxprune.cli import parsing, recipe
from onnxprune.cli.command import Option
from onnxprune.cli.prune import prune
from onnxprune.extensions.points import criteria, repairs
from onnxprune.options import Options
from tests.support.paths import ROOT

OPTIONS = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
DEFAULTS = {name: p.default for name, p in inspect.signature(Options.of).parameters.items()}
FLAGS = {"no_verify": "verify", "no_time": "time", "input_shape": "input_shapes"}
"""Options that are called otherwise in Python."""
NO_OPTIONS_OF_RUNS = {
    "output",
    "data_chunk",
    "force",
    "dry_run",
    "plan",
    "as_json",
    "html",
    "quiet",
    "verbose",
    "progress",
    "recipe",
    "version",
    "help",
    "scheduler",
    "work",
}
PARAMS = {str(p.name): p for p in prune.params if isinstance(p, click.Option) and p.name not in NO_OPTIONS_OF_RUNS}
OUR_CRITERIA = [
    n
    for n in criteria.names()
    if criteria.get(n).function is None or "onnxprune" in criteria.get(n).function.__module__
]  # type: ignore[union-attr]


def test_every_option_is_there() -> None:
    assert {FLAGS.get(name, name) for name in PARAMS} == set(DEFAULTS)


def nothing_given() -> Options:
    """What a command line without options asks for, but for the amount."""
    with prune.make_context("onnxprune", ["model.onnx", "--ratio", "0.5"]) as context:
        return parsing.options(context)


def test_defaults_are_those_of_python() -> None:
    assert nothing_given() == Options.of(0.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, p in PARAMS.items() if not p.hidden])
def test_help_tells_the_default(name: str) -> None:
    """Where there is one that a number or a word says."""
    param, default = PARAMS[name], DEFAULTS[FLAGS.get(name, name)]
    assert isinstance(param, Option) and param.help
    told = re.search(r"\[([^\]]*)\]$", param.help)
    if isinstance(default, (int, float, str)) and not isinstance(default, bool) and name != "seed":
        assert told is not None and told[1] == str(default)


def test_names_of_criteria_and_repairs_are_told() -> None:
    shown: dict[str, Any] = {name: param.help for name, param in PARAMS.items()}
    for name in OUR_CRITERIA:
        assert re.search(rf"\b{name}\b", shown["importance"]), name
        assert f"`{name}`" in OPTIONS
    for name in ("none", "data-free", "calibrated", "distilled"):
        assert name in repairs and name in shown["repair"]


def test_recipes_know_every_option() -> None:
    assert {p.opts[-1].lstrip("-") for p in PARAMS.values()} <= set(recipe.KEYS)
