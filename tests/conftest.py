"""Fixtures of the command line's tests."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from onnxprune.cli import main
from tests.commands import Cli, Ended, tiny


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command line in this process."""

    def run(*arguments: object) -> Ended:
        capfd.readouterr()
        code = main([str(a) for a in arguments])
        return Ended(code, *capfd.readouterr())

    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small model in a folder of its own."""
    path = tmp_path / "net.onnx"
    onnx.save(tiny(), path)
    return path
