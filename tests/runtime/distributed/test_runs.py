"""A calibrated run whose statistics and trials are done by workers makes the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.common.progress import Progress
from onnxprune.errors import InputError
from onnxprune.runtime.distributed.connect import connected
from tests.support.classifier import classifier, samples
from tests.support.commands import Cli
from tests.support.dask_cluster import BLIND, dask_cluster

pytest.importorskip("distributed", reason="Dask is not installed: pip install 'onnxprune[distributed]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    """A model with data in its folder, and data in files."""
    path = tmp_path / "net.onnx"
    onnx.save(classifier(), path, save_as_external_data=True, location="net.data", size_threshold=0)
    np.savez(tmp_path / "data.npz", **samples())
    return {"model": path, "target": {"macs": 0.5}, "calib": str(tmp_path / "data.npz"), "time": False}


@pytest.fixture
def alone(given: dict[str, Any], tmp_path: Path) -> dict[str, bytes]:
    """What is made in this process."""
    return saved(onnxprune.prune(**given), tmp_path / "alone")


def saved(result: onnxprune.Result, folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    result.save(folder / "small.onnx")
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_same_bytes(workers: int, given: dict[str, Any], alone: dict[str, bytes], tmp_path: Path) -> None:
    """From one, two and four workers as from none."""
    with connected(f"local:{workers}") as client:
        assert saved(onnxprune.prune(**given, client=client), tmp_path / "many") == alone


def test_sensitivity(given: dict[str, Any]) -> None:
    """A task a group and share."""
    del given["target"], given["time"]
    here = onnxprune.sensitivity(**given)
    with connected("local:2") as client:
        there = onnxprune.sensitivity(**given, client=client)
    assert {**here.to_dict(), "seconds": 0} == {**there.to_dict(), "seconds": 0}


@pytest.mark.parametrize("killed", ["worker", "scheduler"])
def test_what_is_killed_while_it_scores(
    killed: str, given: dict[str, Any], alone: dict[str, bytes], tmp_path: Path
) -> None:
    """The other worker, which lacks the files, takes over; without a scheduler the run ends, with one line."""
    with dask_cluster(tmp_path / "dask", workers=1) as cluster, connected(cluster.address) as client:
        cluster.add_worker(preload=BLIND)
        struck: list[str] = []

        def strike(progress: Progress) -> None:
            if progress.stage == "score" and progress.item and not struck:
                struck.append(progress.item)
                (cluster.workers[0] if killed == "worker" else cluster.scheduler).kill()

        if killed == "worker":
            made = onnxprune.prune(**given, client=client, progress=strike)
            assert saved(made, tmp_path / "many") == alone
        else:
            with pytest.raises(InputError, match="the scheduler is gone"):
                onnxprune.prune(**given, client=client, progress=strike)
        assert struck


def test_on_the_command_line(cli: Cli, given: dict[str, Any], alone: dict[str, bytes], tmp_path: Path) -> None:
    """``--scheduler``, which ``--help`` does not show."""
    (tmp_path / "many").mkdir()
    words = [given["model"], "--target", "macs=0.5", "--calib", given["calib"], "--no-time"]
    ended = cli(*words, "-o", tmp_path / "many" / "small.onnx", "--scheduler", "local:1")
    assert ended.code == 0 and not ended.err
    assert {file.name: file.read_bytes() for file in (tmp_path / "many").iterdir()} == alone
    assert "--scheduler" not in cli("--help").out
