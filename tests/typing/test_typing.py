"""The public API under a type checker: what is right is known, what is wrong is refused."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import onnxprune
from tests.support.paths import ROOT

HERE = Path(__file__).parent


def checked(name: str) -> list[tuple[int, str, str]]:
    """What mypy says of a file: line, severity, message."""
    pytest.importorskip("mypy")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--no-error-summary",
        "--config-file",
        str(ROOT / "pyproject.toml"),
    ]
    done = subprocess.run([*command, str(HERE / name)], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout or done.returncode == 0, done.stderr
    lines = re.findall(r"^[^:\n]+:(\d+): (\w+): (.*)$", done.stdout, flags=re.M)
    return [(int(line), severity, said) for line, severity, said in lines]


def marked(name: str, mark: str) -> dict[int, str]:
    """What stands behind a mark, by line."""
    lines = (HERE / name).read_text().splitlines()
    return {i: line.split(f"# {mark}: ")[1] for i, line in enumerate(lines, 1) if f"# {mark}: " in line}


@pytest.mark.slow
def test_what_is_wrong_is_refused() -> None:
    found: dict[int, set[str]] = {}
    for line, severity, said in checked("wrong.py"):
        if severity == "error":
            found.setdefault(line, set()).add(said.rsplit("[", 1)[-1].rstrip("]"))
    expected = marked("wrong.py", "E")
    assert found.keys() == expected.keys()
    assert all(code in found[line] for line, code in expected.items())


@pytest.mark.slow
def test_what_is_right_is_known() -> None:
    found = checked("right.py")
    assert not [said for said in found if said[1] == "error"]
    revealed = {line: re.sub(r'^Revealed type is "(.*)"$', r"\1", said) for line, _, said in found}
    expected = marked("right.py", "R")
    assert revealed.keys() == expected.keys()
    for line, said in expected.items():
        assert revealed[line].startswith(said), line


def test_the_program_of_a_user_uses_every_public_name() -> None:
    tree = ast.parse((HERE / "user.py").read_text())
    named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert set(onnxprune.__all__) <= named | called


@pytest.mark.slow
def test_a_strict_program_is_right_for_mypy() -> None:
    assert checked("user.py") == []


@pytest.mark.slow
def test_a_strict_program_is_right_for_pyright() -> None:
    """Pyright needs Node.js, which it may have to download."""
    pytest.importorskip("pyright")
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]
    if subprocess.run([*command, "--version"], capture_output=True).returncode:
        pytest.skip("pyright cannot be started: there is no Node.js")
    done = subprocess.run([*command, str(HERE / "user.py")], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout
