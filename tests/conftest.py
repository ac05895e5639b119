"""Fixtures of more than one module."""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import settings

from onnxprune.cli import main
from tests.support.commands import Cli, Ended, tiny
from tests.support.paths import ROOT
from tests.support.saved_models import external

settings.register_profile("all", deadline=None)  # an example may take longer on a busy machine
settings.register_profile("fast lane", settings.get_profile("all"), max_examples=25)


def pytest_configure(config: pytest.Config) -> None:
    """The fast lane draws fewer examples, as it takes fewer rows of long tables."""
    settings.load_profile("fast lane" if config.option.markexpr == "not slow" else "all")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests run first, so that no process waits for them in the end."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command line in this process."""

    def run(*arguments: object) -> Ended:
        capfd.readouterr()
        code = main([str(a) for a in arguments])
        return Ended(code, *capfd.readouterr())

    return run


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the models in it, to run commands in."""
    shutil.copytree(ROOT / "models", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers of one test: the same whichever other tests run, in whatever order and process."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small model in a folder of its own."""
    path = tmp_path / "net.onnx"
    onnx.save(tiny(), path)
    return path


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two models of one shape and other weights, outside the folder of the target."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    return (
        external(tmp_path / "in", "a.onnx", width=32, layers=3, seed=1),
        external(tmp_path / "in", "b.onnx", width=32, layers=3, seed=2),
    )
