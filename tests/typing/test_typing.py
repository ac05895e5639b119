"""The public API under a type checker: what is right is known, what is wrong is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

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
