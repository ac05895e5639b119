"""Losses that no other worker makes up for: all workers gone, and a task that ends each of them."""

from __future__ import annotations

import os
import signal
import time
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
from tests.support.dask_cluster import SECONDS, dask_cluster

pytest.importorskip("distributed", reason="Dask is not installed: pip install 'onnxprune[distributed]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    """A model with its data in files."""
    onnx.save(classifier(), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", **samples())
    return {"model": tmp_path / "net.onnx", "calib": str(tmp_path / "data.npz"), "time": False}


def test_all_workers_gone(given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run waits for others for a while."""
    with dask_cluster(tmp_path / "dask", workers=1) as cluster, connected(cluster.address) as client:
        client.wait_for_workers(1, timeout=SECONDS)
        monkeypatch.setattr("onnxprune.runtime.distributed.dask_executor.PATIENCE", 3.0)

        def strike(progress: Progress) -> None:
            if progress.stage == "score":  # before its first task, which may be done before there is news of it
                cluster.workers[0].kill()

        with pytest.raises(InputError, match="the scheduler has lost its workers"):
            onnxprune.prune(**given, target={"macs": 0.5}, client=client, progress=strike)


def test_a_variant_that_ends_every_worker(given: dict[str, Any], tmp_path: Path) -> None:
    """It fails, and the others are made."""
    tries = tmp_path / "tries"
    tries.touch()

    def deadly(outputs: dict[str, np.ndarray], labels: np.ndarray | None) -> float:
        from distributed import get_worker

        try:
            get_worker()
        except ValueError:
            return 1.0  # in the run itself, of the original
        with tries.open("a") as file:
            file.write(".")
        if tries.stat().st_size <= 4:
            time.sleep(4)  # a nanny starts no other worker in the place of one that it has not seen start
            os.kill(os.getpid(), signal.SIGKILL)
        return 1.0

    with connected("local:1") as client:
        found = onnxprune.sweep(**given, ratio=(0.3, 0.6), metric=deadly, client=client)
    assert [v.failed for v in found.variants] == ["making it ended 4 workers one after another", None]


@pytest.mark.parametrize(
    ("preload", "says"),
    [
        ("import sys\nsys.modules['onnxprune'] = None\n", "has no onnxprune"),
        ("import onnxprune.runtime.distributed.worker as worker\nworker.__version__ = '0.0'\n", "has onnxprune 0.0"),
    ],
)
def test_workers_without_the_same_version(preload: str, says: str, given: dict[str, Any], tmp_path: Path) -> None:
    """One line before any work."""
    with dask_cluster(tmp_path / "dask") as cluster:
        cluster.add_worker(preload=preload)
        with connected(cluster.address) as client, pytest.raises(InputError, match=says):
            onnxprune.prune(**given, ratio=0.5, client=client)
