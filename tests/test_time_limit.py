"""A limit on the time of a run: it ends everywhere, soon, in one line, and leaves nothing."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.common import time_limit as limits
from onnxprune.common.time_limit import remaining, time_limit
from onnxprune.errors import TimeLimitError
from onnxprune.runtime.limits import limited
from onnxprune.runtime.process import warm_up
from onnxprune.runtime.session import session
from tests.support.commands import Cli, assert_refused, contents, tiny

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""What arrives in a callback of the garbage collector, those of hypothesis for one, Python drops with this warning; it is
raised again."""

ENDLESS = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,16,16] x) => (float[N,3,16,16] y) {
  turns = Constant <value: tensor = int64 {1152921504606846976}> ()
  go = Constant <value: tensor = bool {1}> ()
  y = Loop (turns, go, x) <body = one (int64 i, bool c, float[N,3,16,16] v) => (bool d, float[N,3,16,16] w) {
    d = Identity (c)
    w = Relu (v)
  }>
}"""


def busy() -> None:
    while True:
        sum(range(1000))


def swallows_errors() -> None:
    while True:
        with contextlib.suppress(Exception):
            busy()


def arithmetic() -> None:
    while True:
        np.linalg.svd(np.ones((100, 100)))


def a_model_that_does_not_end() -> None:
    session(onnx.parser.parse_model(ENDLESS)).run(None, {"x": np.zeros((1, 3, 16, 16), np.float32)})


WORK = [busy, swallows_errors, arithmetic, a_model_that_does_not_end]


@pytest.mark.slow
@pytest.mark.parametrize("work", WORK)
def test_whatever_runs_is_ended(work: Callable[[], None]) -> None:
    warm_up()
    start = time.monotonic()
    with pytest.raises(TimeLimitError, match=r"time limit of 0\.2 s"), limited(), time_limit(0.2):
        work()
    assert time.monotonic() - start < 8


@pytest.mark.slow
def test_a_thread_is_ended_by_its_own_limit() -> None:
    """The limit is that of the thread that runs, not of the main one."""
    ended: list[object] = []

    def run() -> None:
        try:
            with time_limit(0.2):
                busy()
        except TimeLimitError as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(8)
    assert len(ended) == 1


def test_a_block_that_ends_late_has_reached_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the thread that watches the time had no turn."""
    monkeypatch.setattr(limits, "_raise_in", lambda thread, kind: None)
    for outer, inner in ((None, 0.01), (0.01, 60)):
        with pytest.raises(TimeLimitError, match=r"limit of 0\.01 s"), time_limit(outer), time_limit(inner):
            time.sleep(0.02)
        assert remaining() == float("inf")


@pytest.mark.slow
def test_nothing_arrives_after_the_block() -> None:
    """Many blocks that end at about the time of their limit: an exception belongs to its block."""
    for i in range(200):
        with contextlib.suppress(TimeLimitError), time_limit(0.002):
            time.sleep(0.0015 + 0.000005 * i)
        assert remaining() == float("inf")
    time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("outer", "inner", "said"), [(0.2, 60, "0.2 s"), (60, 0.2, "0.2 s")])
def test_the_earlier_limit_counts(outer: float, inner: float, said: str) -> None:
    with pytest.raises(TimeLimitError, match=said), time_limit(outer), time_limit(inner):
        assert remaining() <= 0.2
        busy()


@pytest.mark.slow
def test_an_exception_that_python_drops_is_raised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "AGAIN", 0.1)
    with pytest.raises(TimeLimitError), time_limit(0.1):
        with contextlib.suppress(BaseException):
            busy()
        busy()


@pytest.mark.parametrize("kept", [None, b"precious"])
def test_the_command_writes_nothing(cli: Cli, model: Path, kept: bytes | None) -> None:
    """Exit code 5, one line and a hint; what was there before is still there."""
    target = model.parent / "net.pruned.onnx"
    if kept is not None:
        target.write_bytes(kept)
    before = contents(model.parent)
    ended = cli(model, "--ratio", 0.5, "--force", "--plan", model.parent / "p.json", "--time-limit", 0.01)
    said = assert_refused(ended, code=5)
    assert "the time limit of 0.01 s is reached; nothing was written" in said
    assert contents(model.parent) == before


@pytest.mark.slow
def test_applying_a_plan_has_a_limit_too(cli: Cli, model: Path) -> None:
    plan, output = model.parent / "p.json", model.parent / "out.onnx"
    assert cli(model, "--ratio", 0.5, "--repair", "none", "--no-time", "--plan", plan, "-o", output).code == 0
    before = contents(model.parent)
    said = assert_refused(cli("apply", plan, model, "-o", output, "--time-limit", 1e-4), code=5)
    assert "the time limit of 0.0001 s is reached; nothing was written" in said
    assert contents(model.parent) == before
    assert_refused(cli("apply", plan, model, "-o", output, "--time-limit", 0))
    with pytest.raises(TimeLimitError):
        onnxprune.apply(onnxprune.Plan.from_json(plan.read_text()), tiny(), time_limit=1e-6)


@pytest.mark.slow
def test_enough_time_changes_nothing() -> None:
    limited_, free = (
        onnxprune.prune(tiny(), 0.5, repair="none", time=False, time_limit=limit) for limit in (600, None)
    )
    assert limited_.proto == free.proto and limited_.report.warnings == free.report.warnings


def test_python_raises() -> None:
    for act in (
        lambda: onnxprune.prune(tiny(), 0.5, time_limit=1e-6),
        lambda: onnxprune.plan(onnxprune.analyze(tiny()), 0.5, time_limit=1e-6),
        lambda: onnxprune.score(onnxprune.analyze(tiny()), "l2", time_limit=1e-6),
    ):
        with pytest.raises(TimeLimitError):
            act()


@pytest.mark.slow
def test_a_thread_that_is_being_started_is_not_ended_in_place_of_its_starter() -> None:
    """Its starter would wait for it without end."""
    for _ in range(20):
        with pytest.raises(TimeLimitError), time_limit(0.02):
            while True:
                with limits.starting_threads():
                    threading.Thread(target=int, daemon=True).start()
