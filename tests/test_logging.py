"""The log: by the standard library, silent unless somebody listens."""

from __future__ import annotations

import ast
import logging
from pathlib import Path

import onnx
import pytest

import onnxprune
from tests.support.commands import Cli, tiny
from tests.support.sources import FILES, parsed


@pytest.mark.slow
def test_the_package_prints_nothing(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    """A library leaves the streams to its caller, even where a gate is missed and where there is a warning to log."""
    onnxprune.prune(tiny(), 0.5, gate={"drift": 0.0})
    refused = tiny()  # onnxruntime does not load it, so it stays unverified
    refused.opset_import.append(onnx.helper.make_opsetid("custom", 1))
    output = refused.graph.output[0]
    refused.graph.node.append(onnx.helper.make_node("Unknown", [output.name], ["unknown"], domain="custom"))
    output.name = "unknown"
    onnxprune.prune(refused, 0.5, repair="none")
    assert "WARNING" in {record.levelname for record in caplog.records}
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_only_the_command_line_writes_to_streams() -> None:
    for path in FILES:
        calls = [n.func for n in ast.walk(parsed(path)) if isinstance(n, ast.Call)]
        assert "print" not in [f.id for f in calls if isinstance(f, ast.Name)], path


def test_what_is_done_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="onnxprune"):
        onnxprune.prune(tiny(), 0.5, repair="none")
    said = {(r.name, r.levelname) for r in caplog.records}
    assert {
        ("onnxprune.pipeline.prepare", "INFO"),
        ("onnxprune.verification.check", "INFO"),
        ("onnxprune.pipeline.progress", "DEBUG"),
    } <= said
    assert all(r.name.startswith("onnxprune.") for r in caplog.records if "onnxprune" in r.pathname)


def test_the_command_shows_the_log_where_it_is_asked_to(cli: Cli, model: Path) -> None:
    """On stderr, and only while it runs."""
    ended = cli(model, "--ratio", 0.5, "--verbose", "--json", "--repair", "none")
    assert ended.code == 0 and "INFO onnxprune.pipeline.prepare: " in ended.err and ended.out.startswith("{")
    ended = cli(model, "--ratio", 0.5, "--json", "--force", "--repair", "none")
    assert ended.code == 0 and "INFO" not in ended.err
