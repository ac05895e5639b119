"""How a sweep scales with the workers of Dask: ``python -m tools.scaling MODEL CALIB --workers 1,2``.

Each worker has one core for itself, onnxruntime included, as far as there are cores; the run that asks for the work may
use any. Besides the wall time, which others on the machine make longer, it shows the processor time of each worker: the
longest of them is what the wall time would be without the others, but for the start and what the run does alone.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

import onnxprune
from onnxprune.runtime.distributed.connect import connected

RATIOS, CRITERIA = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7), ("obs", "l2")


def pinned(command: list[str], core: int, folder: str) -> subprocess.Popen[bytes]:
    """A process, with those that it starts, on one core."""
    cores = sorted(os.sched_getaffinity(0))

    def pin() -> None:
        os.sched_setaffinity(0, {cores[core % len(cores)]})

    log = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, preexec_fn=pin)


@contextlib.contextmanager
def cluster(workers: int) -> Iterator[tuple[str, list[psutil.Process]]]:
    """The address of a scheduler, and its workers, which have begun."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        file = Path(folder, "scheduler.json")
        dask = [sys.executable, "-m", "dask"]
        named = ["--scheduler-file", str(file), "--no-dashboard"]
        scheduler = subprocess.Popen([*dask, "scheduler", *named, "--port", "0"], cwd=folder, stderr=subprocess.DEVNULL)
        stack.callback(scheduler.kill)
        while not file.exists():
            time.sleep(0.1)
        found = []
        for number in range(workers):
            worker = pinned([*dask, "worker", *named, "--nthreads", "1", "--no-nanny"], number, folder)
            stack.callback(worker.kill)
            found.append(psutil.Process(worker.pid))
        with connected(_address(file)) as client:
            assert client is not None
            client.wait_for_workers(workers)
            client.run(_ready)
        yield _address(file), found


def _address(file: Path) -> str:
    return str(json.loads(file.read_text())["address"])


def _ready() -> None:
    """Imports what a task needs, and starts onnxruntime."""
    import onnxprune.pipeline.variants  # noqa: F401
    from onnxprune.runtime.process import warm_up

    warm_up()


def seconds(process: psutil.Process) -> float:
    """Processor time of a process and those that it started."""
    times = [p.cpu_times() for p in (process, *process.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def sweep(model: str, calib: str, samples: int, client: object = None) -> tuple[float, str]:
    """Wall time of a sweep, and a checksum of its models."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        onnxprune.sweep(
            model,
            RATIOS,
            importance=CRITERIA,
            calib=calib,
            repair_samples=samples,
            time=False,
            folder=folder,
            keep_models="all",
            client=client,
        )
        wall = time.perf_counter() - start
        models = b"".join(path.read_bytes() for path in sorted(Path(folder).glob("*.onnx")))
    return wall, hashlib.sha256(models).hexdigest()[:12]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("calib")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--repair-samples", type=int, default=256)
    parser.add_argument("--alone", action="store_true", help="first without workers, on all cores")
    given = parser.parse_args()
    print("workers   wall   processor time of each   models         load")
    if given.alone:
        wall, models = sweep(given.model, given.calib, given.repair_samples)
        print(f"   none {wall:6.1f}                            {models}   {os.getloadavg()[0]:.1f}", flush=True)
    for count in map(int, given.workers.split(",")):
        with cluster(count) as (address, workers), connected(address) as client:
            before = [seconds(worker) for worker in workers]
            wall, models = sweep(given.model, given.calib, given.repair_samples, client)
            spent = [seconds(worker) - b for worker, b in zip(workers, before, strict=True)]
        each = " ".join(f"{s:.1f}" for s in spent)
        print(f"{count:7} {wall:6.1f}   {each:24} {models}   {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
