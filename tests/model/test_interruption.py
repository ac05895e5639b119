"""Whatever ends a run, and whenever: the target holds the old model or the new one, and the next run leaves no rest.

ONNXPRUNE_KILLS and ONNXPRUNE_KILL_MB set how often a run is killed, and how much it writes (default: 20 and 4).
"""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from onnxprune.errors import OutputError
from onnxprune.model.model import load
from onnxprune.model.save import save
from tests.support.commands import contents
from tests.support.error_rows import DISK_FULL
from tests.support.saved_models import external, saved_as

KILLS = int(os.environ.get("ONNXPRUNE_KILLS", "20"))
MEGABYTES = int(os.environ.get("ONNXPRUNE_KILL_MB", "4"))


STEPS = ["fsync", "replace", "open"]


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=type)
def test_any_system_call_may_fail(
    two: tuple[Path, Path], tmp_path: Path, fault: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each system call fails once: the old model or the new one is complete, and no other files exist."""
    target = tmp_path / "out" / "net.onnx"
    save(load(two[1]), target)
    new = contents(target.parent)
    save(load(two[0]), target)
    old = contents(target.parent)
    real = {name: getattr(os, name) for name in STEPS}
    calls = seen = 0

    def failing(name: str) -> Any:
        def call(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == seen:
                raise fault
            return real[name](*arguments)

        return call

    for name in STEPS:
        monkeypatch.setattr(os, name, failing(name))
    ended = False
    while not ended:
        calls, seen = 0, seen + 1
        try:
            save(load(two[1]), target)
            ended = True
        except (OutputError, KeyboardInterrupt) as error:
            if isinstance(error, OutputError):
                assert (error.message, error.hint) == (DISK_FULL.error.replace("FILE", str(target)), DISK_FULL.hint)
            assert contents(target.parent) in (old, new)
            saved_as(target)
    assert seen > 8
    assert contents(target.parent) == new


SERVER = """
import os, sys
import onnxprune.api
from onnxprune.cli import main
from onnxprune.model.model import load
from onnxprune.model.save import save

def dying(step, *arguments):  # ends at one step of saving, as kill -9 does
    def counted(real):
        def call(*a, **k):
            nonlocal step
            step -= 1
            if step < 0:
                os._exit(9)
            return real(*a, **k)
        return call
    for name in ("open", "fsync", "replace", "unlink", "close"):
        setattr(os, name, counted(getattr(os, name)))
    save(load(arguments[0]), arguments[1])

for line in sys.stdin:
    verb, *arguments = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if child == 0:
        if verb == "die":
            dying(int(arguments[0]), *arguments[1:])
            os._exit(0)
        os._exit(main(arguments))
    print(child, flush=True)
    sys.stdin.readline()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Server:
    """A process that runs one command after the other, each in a process of its own that may be killed."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def _ask(self, line: str) -> int:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def run(self, *arguments: object, kill_after: float | None = None) -> int:
        """Runs a command to its end, or kills it after some seconds; its exit status."""
        child = self._ask("\t".join(map(str, arguments)))  # which stays a zombie until the next line
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)
        return self._ask("")


@pytest.fixture
def server() -> Iterator[Server]:
    """A server for one test."""
    made = Server()
    yield made
    made.process.communicate()


@pytest.mark.slow
def test_a_process_may_die_at_any_system_call(two: tuple[Path, Path], tmp_path: Path, server: Server) -> None:
    """A process that dies before any of its system calls leaves the old model or the new one."""
    target = tmp_path / "out" / "net.onnx"
    save(load(two[1]), target)
    new = saved_as(target)
    save(load(two[0]), target)
    old = saved_as(target)
    found = []
    for step in range(200):
        code = server.run("die", step, two[1], target)
        found.append(saved_as(target))
        assert found[-1] in (old, new)
        save(load(two[0]), target)
        assert contents(target.parent) == old
        if code == 0:
            break
    assert code == 0
    assert found[0] == old
    assert [f == new for f in found] == sorted(f == new for f in found)  # one point from which on it is the new one


@pytest.mark.slow
def test_kill_at_random_moments(tmp_path: Path, server: Server) -> None:
    """SIGKILL at times spread over a run leaves the old model or the new one; the next run removes leftovers."""
    layers = 8
    width = int((MEGABYTES * 1e6 / 4 / layers) ** 0.5 / 0.8)  # 0.8 of each inner axis stays, or more
    source = external(tmp_path, width=width, layers=layers)
    target = tmp_path / "out" / "net.onnx"
    target.parent.mkdir()
    commands = [
        [source, f"--ratio={ratio}", "--repair=none", "--no-verify", "--quiet", "-o", target] for ratio in (0.1, 0.2)
    ]
    known = []
    for command in commands:
        start = time.perf_counter()
        assert server.run("main", *command) == 0
        seconds = time.perf_counter() - start
        known.append(saved_as(target))
        assert sum(map(len, known[-1].values())) > MEGABYTES * 1e6
    state = 1
    rng = random.Random(0)
    for i in range(KILLS):
        server.run("main", *commands[1 - state], kill_after=(i % 20 + rng.random()) / 20 * seconds)
        found = saved_as(target)
        assert found in known
        state = known.index(found)
    assert server.run("main", *commands[0]) == 0
    assert contents(target.parent) == known[0]
