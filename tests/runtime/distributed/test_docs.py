"""docs/distributed.md keeps its word: what it shows runs, and its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import Cli
from tests.support.dask_cluster import dask_cluster
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "distributed.md"
TEXT = PAGE.read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, flags=re.M | re.S)


def test_links() -> None:
    """Every relative link leads to a file."""
    targets = [t.partition("#")[0] for t in re.findall(r"\]\(([^)\s]+)\)", TEXT) if not t.startswith("https://")]
    assert all((PAGE.parent / target).exists() for target in targets)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_commands_run(cli: Cli, clone: Path) -> None:
    """Those of onnxprune, in their order; the scheduler that some name is one of ours."""
    pytest.importorskip("distributed", reason="Dask is not installed: pip install 'onnxprune[distributed]'")
    shutil.copy("models/sk_mlp.onnx", "model.onnx")
    shutil.copy("models/digits_test_flat.npz", "data.npz")
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("onnxprune ")]
    assert len(lines) == 3
    with dask_cluster(clone / "dask", workers=1) as cluster:
        for line in lines:
            ended = cli(*shlex.split(line.replace("tcp://HOST:8786", cluster.address))[1:])
            assert ended.code == 0, ended.err
    assert (clone / "small.onnx").exists() and (clone / "steps" / "run.json").exists()


@pytest.mark.slow
def test_code_runs(clone: Path) -> None:
    """As a script."""
    pytest.importorskip("distributed", reason="Dask is not installed: pip install 'onnxprune[distributed]'")
    (block,) = blocks("python")
    (clone / "script.py").write_text(block)
    subprocess.run([sys.executable, "script.py"], cwd=clone, check=True, timeout=120, env=None)
