"""Messages name options as their reader writes them: parameters in Python, flags on the command line."""

from __future__ import annotations

import ast
import inspect
import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnxprune
from onnxprune.cli.prune import prune
from onnxprune.errors import InputError, OnnxPruneError, Words, on_command_line, option, spoken
from onnxprune.options import Options
from tests.support.commands import Cli, assert_refused, tiny
from tests.support.paths import PACKAGE
from tests.support.sources import FILES, parsed, source

PARAMETERS = set(inspect.signature(Options.of).parameters)
FLAGS = {flag for p in prune.params if isinstance(p, click.Option) for flag in (*p.opts, *p.secondary_opts)}
FOR_TERMINALS = {PACKAGE / "report" / name for name in ("terminal.py", "inspect_tables.py")}
"""Modules whose text is only ever shown by the command line."""
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*\w")
ELSEWHERE = [p for p in FILES if PACKAGE / "cli" not in p.parents and p not in FOR_TERMINALS]


@pytest.mark.parametrize(
    ("text", "python", "command_line"),
    [
        (option("min_channels"), "min_channels", "--min-channels"),
        (option("global_ranking"), "global_ranking", "--global"),
        (option("calib", ...), "calib=...", "--calib"),
        (option("ratio", 0.5), "ratio=0.5", "--ratio 0.5"),
        (option("pattern", "2:4"), "pattern='2:4'", "--pattern 2:4"),
        (option("verify", False), "verify=False", "--no-verify"),
        (option("mixing", True), "mixing=True", "--mixing"),
        (option("gate", {"drift": 0.05}), "gate={'drift': 0.05}", "--gate drift=0.05"),
        (option("input_shapes", {"x": (1, ...)}), "input_shapes={'x': (1, ...)}", "--input-shape x:1,..."),
        (f"{spoken('a', 'b')} and {option('seed', 3)}.", "a and seed=3.", "b and --seed 3."),
        ("plain --text with {braces}", "plain --text with {braces}", "plain --text with {braces}"),
    ],
)
def test_both_readings(text: str, python: str, command_line: str) -> None:
    words = Words(text)
    assert (str(words), words.command_line, on_command_line(words)) == (python, command_line, command_line)
    assert Words(words).command_line == command_line and Words(words.source) == words
    again = pickle.loads(pickle.dumps(words))
    assert (again, again.command_line) == (python, command_line)
    assert json.loads(json.dumps(words)) == python


@given(st.text(alphabet=st.characters(exclude_characters="\x02\x03\x04")))
def test_other_text_stays(text: str) -> None:
    assert Words(text) == Words(text).command_line == on_command_line(text) == text


def test_errors_speak_to_both() -> None:
    error = InputError(f"{option('seed')} must\nbe 3", f"give {option('seed', 3)}")
    for same in (error, pickle.loads(pickle.dumps(error)), InputError(error.message, error.hint)):
        assert (str(same), same.message, same.hint) == ("seed must be 3", "seed must be 3", "give seed=3")
        assert (same.message.command_line, same.hint.command_line) == ("--seed must be 3", "give --seed 3")


def strings(path: Path) -> Iterator[str]:
    """Every text of a module but its docstrings."""
    tree = parsed(path)
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            yield node.value


def test_no_message_spells_a_flag_out() -> None:
    """Outside of the command line, a message that names an option as a flag is wrong for whoever calls from Python."""
    found = {
        (str(path.relative_to(PACKAGE)), flag)
        for path in ELSEWHERE
        if FLAG.search(source(path))
        for message in strings(path)
        for flag in FLAG.findall(message)
    }
    assert found <= {("errors.py", flag) for flag in ("--help", "--ratio", "--plan", "--anonymise", "--no")}


def calls_of_option() -> Iterator[tuple[str, Any]]:
    """Name and value (`...` where it is computed, None where it is left away) of each call in the package."""
    for path in FILES:
        for node in ast.walk(parsed(path)) if "option(" in source(path) else ():
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "option":
                name, *value = node.args
                if isinstance(name, ast.Constant) and name.value in PARAMETERS:
                    given_ = value[0].value if value and isinstance(value[0], ast.Constant) else ... if value else None
                    yield name.value, given_


@pytest.mark.slow
def test_named_options_are_there() -> None:
    """Each option that a message names is one, in Python and on the command line."""
    found = set(calls_of_option())
    assert {name for name, _ in found} >= {"calib", "repair", "pattern", "input_shapes", "ratio"}
    for name, value in found:
        written = option(name) if value is None else option(name, value)
        assert Words(written).command_line.split()[0] in FLAGS


@pytest.mark.parametrize(
    ("options", "python", "command_line"),
    [
        ({}, "ratio=0.5", "--ratio 0.5"),
        ({"ratio": 0.5, "importance": "wanda"}, "calib=...", "--calib"),
        ({"ratio": 0.5, "min_channels": 0}, "min_channels must", "--min-channels must"),
        ({"ratio": 0.5, "drift_search": True}, "gate={'drift': 0.05}", "--gate drift=0.05"),
        ({"ratio": 0.5, "gate": {"drift": 0.1}, "verify": False}, "verify=False", "--no-verify"),
        ({"ratio": 0.5, "permute": True}, "pattern='2:4'", "--pattern 2:4"),
    ],
)
def test_the_same_mistake_on_both_sides(
    cli: Cli, model: Path, options: dict[str, Any], python: str, command_line: str
) -> None:
    with pytest.raises(OnnxPruneError) as caught:
        onnxprune.prune(tiny(), **options)
    said = f"{caught.value.message}\n{caught.value.hint}"
    assert python in said and "--" not in said
    given_ = {"gate": ["--gate", "drift=0.1"], "verify": ["--no-verify"], "permute": ["--permute"]}
    arguments = [
        part
        for name, value in options.items()
        for part in given_.get(name, [f"--{name.replace('_', '-')}", *([] if value is True else [value])])
    ]
    assert command_line in assert_refused(cli(model, *arguments))


@pytest.mark.parametrize("verb", ["prune", "apply"])
def test_json_names_options_as_python_does(cli: Cli, model: Path, verb: str) -> None:
    """In its warnings as in its `options`; the same lines on stderr, for whoever types, have flags."""
    plan, output = model.parent / "plan.json", model.parent / "out.onnx"
    pruning = [model, "--ratio", 0.5, "--repair", "none", "-o", output]
    ended = cli(*pruning, "--plan", plan, "--json")
    if verb == "apply":
        ended = cli("apply", plan, model, "-o", output, "--json")
    report = json.loads(ended.out)
    assert ended.code == 0 and any("calib=..." in line for line in report["warnings"])
    assert not FLAG.search("\n".join([*report["warnings"], *report["notes"]]))
    assert "give some with --calib" in ended.err and "calib=" not in ended.err
