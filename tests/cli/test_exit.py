"""How a command ends when something is in the way: failed verification, faults of its own, signals, pipes."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from onnxprune import api
from onnxprune.cli.output import announcing
from onnxprune.cli.signals import Terminated, interruptible
from onnxprune.errors import VerificationError
from tests.support.commands import Cli, assert_refused, contents
from tests.support.error_rows import INTERNAL, NOT_VERIFIED

WAITING = """
import signal, sys, time
from pathlib import Path
import onnxprune.api
from onnxprune.cli import main

def wait(model, options, **others):
    temporary = Path(model + ".tmp")
    try:
        temporary.write_text("half")
        print("ready", flush=True)
        time.sleep(60)
    finally:
        temporary.unlink()

signal.signal(signal.SIGINT, signal.default_int_handler)
onnxprune.api.run = wait
sys.exit(main([sys.argv[1], "--ratio", "0.5"]))
"""


@pytest.mark.slow
def test_failed_verification(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that fails is not written, nor is its plan: exit code 3."""

    def fail(*arguments: Any, **options: Any) -> None:
        raise VerificationError("the pruned model does not run in onnxruntime: told so")

    monkeypatch.setattr("onnxprune.pipeline.verify.check", fail)
    before = contents(model.parent)
    said = assert_refused(cli(model, "--ratio", 0.5, "--plan", model.parent / "p.json"), code=3)
    assert said == f"error: {NOT_VERIFIED.error.replace('WHY', 'told so')}\nhint: {NOT_VERIFIED.hint}\n"
    assert contents(model.parent) == before


def test_internal_error(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the program ends with its traceback and exit code 4."""

    def fail(*arguments: Any, **options: Any) -> None:
        raise ZeroDivisionError("no such\nluck")

    monkeypatch.setattr(api, "run", fail)
    before = contents(model.parent)
    ended = cli(model, "--ratio", 0.5)
    assert (ended.code, ended.out) == (4, "")
    assert ended.err.startswith("Traceback (most recent call last):")
    error = INTERNAL.error.replace("KIND", "ZeroDivisionError").replace("WHY", "no such luck")
    assert ended.err.endswith(f"\nerror: {error}\nhint: {INTERNAL.hint}\n")
    assert contents(model.parent) == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals(model: Path, number: signal.Signals) -> None:
    """A signal clears away what is half done, says nothing, and ends the process as that signal does."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, str(model)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == -number  # which a shell shows as 128 + number
    assert (out, err) == ("", "")
    assert list(contents(model.parent)) == ["net.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["ops"], ["ops", "--json"], ["--help"]])
def test_closed_pipe(arguments: list[str]) -> None:
    """Who reads no further is not shouted at."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "onnxprune", *arguments], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert done.returncode == -signal.SIGPIPE
    assert done.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [True, False])
def test_colour_on_a_terminal(model: Path, wanted: bool) -> None:
    """A terminal gets colour, unless NO_COLOR is set."""
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm"}
    if not wanted:
        environment["NO_COLOR"] = "1"
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "onnxprune", "inspect", str(model)]
    done = subprocess.run(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
    shown = os.read(master, 100_000).decode()
    os.close(slave)
    os.close(master)
    assert done.returncode == 0
    assert "w1:0" in shown
    assert ("\x1b[" in shown) == wanted


@pytest.fixture
def heeded() -> Iterator[None]:
    """Interrupts are not ignored, as they are in a shell's background jobs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_in_a_finalizer_ends_the_run_at_its_next_step(number: int, kind: type[BaseException]) -> None:
    """Python drops what is raised in one: here each release of a session is one."""

    class Held:
        pass

    with interruptible(), announcing(silent=True) as show:
        show("before")
        held = Held()
        weakref.finalize(held, os.kill, os.getpid(), number)
        del held
        with pytest.raises(kind):
            show("after")
        show("cleared away")  # once only: what clears away is left to end


@pytest.mark.usefixtures("heeded")
def test_handlers_of_signals_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with interruptible():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_ignored_interrupts_stay_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
