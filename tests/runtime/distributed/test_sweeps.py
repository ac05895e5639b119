"""A sweep on workers makes what it makes alone, whatever happens to them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.common.progress import Progress
from onnxprune.errors import InputError
from onnxprune.report.sweep import SweepReport
from onnxprune.runtime.distributed.connect import connected
from onnxprune.runtime.distributed.worker import Call, _Teller
from tests.support.classifier import classifier, samples
from tests.support.dask_cluster import BLIND, DaskCluster, dask_cluster

pytest.importorskip("distributed", reason="Dask is not installed: pip install 'onnxprune[distributed]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # Dask's own, of sockets at its end

RATIOS = (0.2, 0.4, 0.6, 0.8)


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    """A model with its data in files, and what is asked of it."""
    onnx.save(classifier(), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", **samples())
    return {
        "model": tmp_path / "net.onnx",
        "ratio": RATIOS,
        "importance": ("obs", "l2"),
        "calib": str(tmp_path / "data.npz"),
        "time": False,
        "keep_models": "all",
    }


def models(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.onnx"))}


def without_times(report: SweepReport) -> list[dict[str, Any]]:
    return [{**variant.to_dict(), "seconds": 0.0} for variant in report.variants]


@pytest.fixture
def alone(given: dict[str, Any], tmp_path: Path) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """What the sweep makes in this process."""
    report = onnxprune.sweep(**given, folder=tmp_path / "alone")
    return models(tmp_path / "alone"), without_times(report)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_on_any_number_of_workers(
    workers: int, given: dict[str, Any], alone: tuple[Any, Any], tmp_path: Path
) -> None:
    """Models byte for byte, rows in the order that was asked for, and progress that ends at its end."""
    seen: list[Progress] = []
    with connected(f"local:{workers}") as client:
        found = onnxprune.sweep(**given, folder=tmp_path / "many", client=client, progress=seen.append)
    assert (models(tmp_path / "many"), without_times(found)) == alone
    assert len(alone[0]) == len(RATIOS) * 2
    shares = [p.done / p.total for p in seen]
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1)
    assert any(p.item.startswith("ratio 0.2, obs") for p in seen)


def test_a_worker_tells_what_it_does() -> None:
    """At once, and then now and then."""
    told: list[Any] = []
    worker = SimpleNamespace(log_event=lambda topic, event: told.append((topic, event)))
    teller = _Teller(worker, Call("run", 3, 1.0, None))
    for done in (1.0, 2.0):
        teller.tell(Progress("repair", "w", done, 4.0, 0.0, None))
    assert told == [("run", (3, "w", 0.25))]


def test_data_and_criteria_of_a_caller(given: dict[str, Any], alone: tuple[Any, Any], tmp_path: Path) -> None:
    """A model in memory, arrays and a function of a script are sent."""

    def smallest(group: onnxprune.GroupView) -> Any:
        return np.min([np.abs(rows).min(axis=1) for rows in group.rows()], axis=0)

    given |= {"model": onnx.load(given["model"]), "calib": samples(), "importance": (smallest,)}
    here = onnxprune.sweep(**given, folder=tmp_path / "here")
    with connected("local:1") as client:
        there = onnxprune.sweep(**given, folder=tmp_path / "there", client=client)
    assert without_times(here) == without_times(there)
    assert models(tmp_path / "here") == models(tmp_path / "there")


def run_with(cluster: DaskCluster, given: dict[str, Any], folder: Path, then: Callable[[int], None]) -> SweepReport:
    """A sweep on a cluster; `then` is called with the number of variants each time that there are more."""

    def watch() -> None:
        done, ended = 0, time.monotonic() + 120
        while done < len(RATIOS) * 2 and time.monotonic() < ended:
            time.sleep(0.02)
            if (folder / "sweep.json").exists():
                now = len(json.loads((folder / "sweep.json").read_text())["variants"])
                if now > done:
                    then(now)
                    done = now

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    with connected(cluster.address) as client:
        return onnxprune.sweep(**given, folder=folder, client=client)


def test_a_worker_that_is_killed_costs_its_task(given: dict[str, Any], alone: tuple[Any, Any], tmp_path: Path) -> None:
    """The others do it, and one that comes later helps."""
    with dask_cluster(tmp_path / "dask", workers=2) as cluster:

        def kill(done: int) -> None:
            if done == 2:
                cluster.workers[0].kill()
                cluster.add_worker()

        found = run_with(cluster, given, tmp_path / "many", kill)
        assert cluster.workers[0].wait() != 0
    assert (models(tmp_path / "many"), without_times(found)) == alone


def test_a_scheduler_that_is_killed_ends_the_run_and_what_is_done_stays(
    given: dict[str, Any], alone: tuple[Any, Any], tmp_path: Path
) -> None:
    """One line; the same sweep with another scheduler goes on from there."""
    with dask_cluster(tmp_path / "dask", workers=1) as cluster:

        def kill(done: int) -> None:
            if done == 2:
                cluster.scheduler.kill()

        with pytest.raises(InputError, match="the scheduler is gone"):
            run_with(cluster, given, tmp_path / "many", kill)
    done = json.loads((tmp_path / "many" / "sweep.json").read_text())["variants"]
    assert 2 <= len(done) < len(RATIOS) * 2
    with dask_cluster(tmp_path / "other", workers=1) as cluster, connected(cluster.address) as client:
        found = onnxprune.sweep(**given, folder=tmp_path / "many", client=client)
    assert (models(tmp_path / "many"), without_times(found)) == alone


def test_a_worker_without_the_files_is_sent_them_once(
    given: dict[str, Any], alone: tuple[Any, Any], tmp_path: Path
) -> None:
    """Model and data; what it has after the first task serves the others."""
    with dask_cluster(tmp_path / "dask") as cluster:
        cluster.add_worker(preload=BLIND)
        with connected(cluster.address) as client:
            found = onnxprune.sweep(**given, folder=tmp_path / "many", client=client)
            copies = sorted(p.name for p in cluster.folder.rglob("onnxprune/*/*"))
    assert (models(tmp_path / "many"), without_times(found)) == alone
    assert copies == ["data.npz", "net.onnx"]


def test_a_scheduler_without_workers(given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run waits for one for a while, and then says what to do."""
    monkeypatch.setattr("onnxprune.runtime.distributed.dask_executor.PATIENCE", 1.0)
    cluster = dask_cluster(tmp_path / "dask")
    with cluster as dask, connected(dask.address) as client, pytest.raises(InputError, match="has no workers"):
        onnxprune.sweep(**given, client=client)


@pytest.mark.parametrize("where", ["elsewhere", "local:0", "local:many", "tcp:9"])
def test_what_is_no_scheduler(where: str) -> None:
    """One line before any work."""
    with pytest.raises(InputError, match="is no scheduler"), connected(where):
        pass


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address, and what to start."""
    monkeypatch.setattr("onnxprune.runtime.distributed.connect.SECONDS", 1.0)
    with pytest.raises(InputError, match="no scheduler answers"), connected("tcp://127.0.0.1:9"):
        pass


def test_what_is_no_client(given: dict[str, Any]) -> None:
    """An address is for the command line."""
    with pytest.raises(InputError, match=r"must be a dask.distributed.Client"):
        onnxprune.sweep(**given, client="tcp://127.0.0.1:9")
