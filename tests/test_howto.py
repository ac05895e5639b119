"""The pages of docs/howto keep their word: every command on them runs, and every link leads somewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import howto_data
from tests.support.paths import ROOT

FOLDER = ROOT / "docs" / "howto"
PAGES = sorted(p for p in FOLDER.glob("*.md") if p.name != "README.md")


def commands(page: Path) -> list[str]:
    """Every line of the shell blocks of a page."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [line for block in blocks for line in block.splitlines()]


def test_every_page_is_listed() -> None:
    listed = re.findall(r"\]\(([a-z-]+\.md)\)", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == [p.name for p in PAGES] and len(PAGES) == 11


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_are_short_and_their_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 50 and text.startswith("# ") and commands(page)
    assert all((FOLDER / target).exists() for target in re.findall(r"\]\(([^)#]+)\)", text))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_run(page: Path, tmp_path: Path) -> None:
    """In their order, as a shell runs them; what they name with -o, --html, --graph and > is there afterwards."""
    shutil.copytree(ROOT / "models", tmp_path / "models")
    howto_data.write(tmp_path)
    for line in commands(page):
        words = re.sub(r"^onnxprune ", f"{sys.executable} -m onnxprune ", line)
        ended = subprocess.run(["bash", "-c", words], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, f"{line}\n{ended.stdout}{ended.stderr}"
        for written in re.findall(r"(?:-o|--html|--graph|--plan|>) (\S+)", line):
            assert (tmp_path / written).exists(), written
