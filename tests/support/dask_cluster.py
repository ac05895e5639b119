"""Dask as processes that tests can kill: ``dask scheduler`` and ``dask worker``."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECONDS = 120.0
"""How long tests wait for what must come."""
BLIND = "import onnxprune.common.shared_files as files; files._is_same = lambda *given: False"
"""What a worker begins with that finds no file where it lies."""


def until(true: Callable[[], bool], what: str) -> None:
    """Waits for something."""
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end, f"no {what} after {SECONDS:g} s"
        time.sleep(0.05)


@dataclass
class DaskCluster:
    """A scheduler with workers."""

    folder: Path
    scheduler: subprocess.Popen[bytes] = field(init=False)
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self._file = self.folder / "scheduler.json"
        self.scheduler = self._start("dask_scheduler", "--port", "0", "--interface", "lo")
        until(self._is_written, "scheduler")

    def _start(self, module: str, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.{module}", "--scheduler-file", str(self._file)]
        with open(self.folder / f"{module}-{len(self.workers)}.log", "wb") as log:
            return subprocess.Popen([*command, "--no-dashboard", *words], stdout=log, stderr=log, cwd=self.folder)

    def _is_written(self) -> bool:
        """Whether the scheduler's file is whole: Dask does not write it at once."""
        try:
            return bool(self.address)
        except (FileNotFoundError, json.JSONDecodeError):
            return False

    @property
    def address(self) -> str:
        """Where the scheduler listens."""
        address = json.loads(self._file.read_text())["address"]
        assert isinstance(address, str)
        return address

    def add_worker(self, *, preload: str | None = None, nanny: bool = False) -> subprocess.Popen[bytes]:
        """Starts a worker with one thread."""
        words = ["--nthreads", "1", "--local-directory", str(self.folder), "--nanny" if nanny else "--no-nanny"]
        if preload is not None:
            (self.folder / "preload.py").write_text(preload)
            words += ["--preload", str(self.folder / "preload.py")]
        worker = self._start("dask_worker", *words)
        self.workers.append(worker)
        return worker

    def close(self) -> None:
        """Ends all processes."""
        for process in (*self.workers, self.scheduler):
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()


@contextlib.contextmanager
def dask_cluster(folder: Path, workers: int = 0) -> Iterator[DaskCluster]:
    """A scheduler with some workers while the block lasts."""
    cluster = DaskCluster(folder)
    try:
        for _ in range(workers):
            cluster.add_worker()
        yield cluster
    finally:
        cluster.close()
