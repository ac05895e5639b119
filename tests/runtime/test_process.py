"""What happens in onnxruntime stays there: crashes, endless loops and hunger for memory."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.errors import InputError, RunError, VerificationError
from onnxprune.runtime import local_session
from onnxprune.runtime import process as isolation
from onnxprune.runtime.limits import limited
from onnxprune.runtime.local_session import LocalSession
from onnxprune.runtime.process import Session
from onnxprune.verification.check import check
from tests.support.commands import Cli, contents, tiny

ENDLESS = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,16,16] x) => (float[N,3,16,16] y)
{{
  n = Constant <value: tensor = int64 {{{count}}}> ()
  go = Constant <value: tensor = bool {{1}}> ()
  y = Loop (n, go, x) <body = again (int64 i, bool more, float[N,3,16,16] a) => (bool on, float[N,3,16,16] b)
    {{ on = Identity (more)  b = Neg (a) }}>
}}
"""
HUNGRY = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,16,16] x) => (float[M] y)
{{
  n = Constant <value: tensor = int64[1] {{{count}}}> ()
  zeros = ConstantOfShape (n)
  one = ReduceMax <keepdims = 0> (x)
  y = Add (zeros, one)
}}
"""
INNER = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,16,16] x) => (float y)
{{
  n = Constant <value: tensor = int64[1] {{{count}}}> ()
  zeros = ConstantOfShape (n)
  one = ReduceMax <keepdims = 0> (x)
  many = Add (zeros, one)
  y = ReduceMax <keepdims = 0> (many)
}}
"""
FEEDS = {"x": np.ones((1, 3, 16, 16), np.float32)}


def model(text: str, count: int) -> onnx.ModelProto:
    return onnx.parser.parse_model(text.format(count=count))


def loaded(text: str, count: int) -> Session:
    return Session(model(text, count).SerializeToString())


def pid() -> int:
    assert isolation._current is not None
    return isolation._current.process.pid


def held(process: int) -> int:
    """Bytes of memory of its own that a process has in use."""
    status = Path(f"/proc/{process}/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:")))


@pytest.mark.slow
def test_a_run_beyond_the_time_limit_is_stopped() -> None:
    assert np.array_equal(loaded(ENDLESS, 2).run(None, FEEDS)[0], FEEDS["x"])
    start = time.perf_counter()
    with limited(seconds=2), pytest.raises(RunError, match="longer than 2 s") as caught:
        loaded(ENDLESS, 2**60).run(None, FEEDS)
    assert caught.value.fatal and time.perf_counter() - start < 20
    assert np.array_equal(loaded(ENDLESS, 2).run(None, FEEDS)[0], FEEDS["x"])  # the next one finds a new worker


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux bounds what a process holds")
def test_a_run_that_takes_too_much_memory_is_refused() -> None:
    count = 2**27
    with limited(memory=2**33):
        assert loaded(HUNGRY, 4).run(None, FEEDS)[0].shape == (4,)
    with limited(memory=2**29), pytest.raises(RunError):
        loaded(HUNGRY, count).run(None, FEEDS)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads what a process holds from /proc")
@pytest.mark.parametrize("arena", [False, True])
def test_the_memory_of_a_run_is_released(arena: bool) -> None:
    """Unless the memory arena is requested, as for timings."""
    one = Session(model(INNER, 2**26).SerializeToString(), arena=arena)
    before = held(pid())
    assert one.run(None, FEEDS)[0] == 1
    assert (held(pid()) - before < 2**26) != arena  # it made 2**28 bytes on the way


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_a_crash_is_an_error() -> None:
    session = loaded(ENDLESS, 2**60)
    killer = threading.Timer(0.5, os.kill, (pid(), signal.SIGSEGV))
    killer.start()
    with pytest.raises(RunError, match="crashed") as caught:
        session.run(None, FEEDS)
    assert caught.value.fatal and f"signal {signal.SIGSEGV:d}" in str(caught.value)
    with pytest.raises(RunError):  # what was loaded is gone with it
        session.run(None, FEEDS)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_the_worker_ends_with_the_program(tmp_path: Path) -> None:
    """Even during a run, without a message from the program."""
    path = tmp_path / "endless.onnx"
    onnx.save(model(ENDLESS, 2**60), path)
    code = f"""
import numpy as np
from onnxprune.runtime import process as isolation
s = isolation.Session({str(path)!r})
print(isolation._current.process.pid, flush=True)
s.run(None, {{"x": np.ones((1, 3, 16, 16), np.float32)}})
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        worker = int(program.stdout.readline())
        time.sleep(0.2)
        program.kill()
    for _ in range(100):
        if not running(worker):
            break
        time.sleep(0.1)
    assert not running(worker)


def running(process: int) -> bool:
    """Whether a process exists and is not a zombie."""
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{process}/stat")
        if state.exists():
            return state.read_text().rpartition(")")[2].split()[0] != "Z"
        if not Path("/proc").exists():
            os.kill(process, 0)
            return True
    return False


@pytest.mark.slow
def test_an_interrupted_answer_is_not_read_as_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during a run stops the worker; the next session starts a new one."""
    session = loaded(ENDLESS, 2)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(isolation.pickle, "load", interrupt)
        session.run(None, FEEDS)
    assert np.array_equal(loaded(ENDLESS, 2).run(None, FEEDS)[0], FEEDS["x"])


def test_results_are_in_the_order_of_the_batches() -> None:
    feeds = [{"x": np.full((1 + i % 3, 3, 16, 16), i, np.float32)} for i in range(30)]
    session, other = loaded(ENDLESS, 2), loaded(ENDLESS, 1)
    both = zip(feeds, session.each(feeds), other.each(feeds), strict=True)
    for given, (same,), (negative,) in both:
        assert np.array_equal(given["x"], same) and np.array_equal(-given["x"], negative)


def test_results_that_nobody_waits_for_are_not_kept() -> None:
    """Whoever stops early leaves requests under way; the answers of those that follow are still their own."""
    session = loaded(ENDLESS, 2)
    runs = session.each(iter([FEEDS] * 4))
    next(runs)
    runs.close()
    for i in range(100):
        assert np.array_equal(session.run(None, {"x": i * FEEDS["x"]})[0], i * FEEDS["x"])
    assert not session._worker._answers and not session._worker._forgotten


@pytest.mark.parametrize(("room", "most"), [(1, 1), (2**30, 4)])
def test_fewer_batches_run_concurrently_if_their_outputs_are_large(
    monkeypatch: pytest.MonkeyPatch, room: int, most: int
) -> None:
    """Two until the size of the outputs is known, then between one and four."""
    monkeypatch.setattr(local_session, "IN_FLIGHT", room)
    session = LocalSession(model(ENDLESS, 2).SerializeToString())
    drawn, ahead = 0, []

    def batches() -> Iterator[dict[str, np.ndarray]]:
        nonlocal drawn
        for drawn in range(1, 13):
            yield {"x": drawn * FEEDS["x"]}

    for i, (y,) in enumerate(session.each(batches(), ahead=4), start=1):
        assert np.array_equal(np.abs(y), i * FEEDS["x"])
        ahead.append(drawn - i)
    assert ahead[0] == 2 and max(ahead[1:]) == most


def test_threads_share_the_worker() -> None:
    found: dict[int, bool] = {}

    def work(i: int) -> None:
        session = loaded(ENDLESS, 2)
        x = np.full((1, 3, 16, 16), i, np.float32)
        found[i] = all(np.array_equal(session.run(None, {"x": x})[0], x) for _ in range(10))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(6), True)


@pytest.mark.slow
def test_an_original_beyond_the_time_limit_leaves_the_result_unverified() -> None:
    with limited(seconds=2):
        start = time.perf_counter()
        found = check(model(ENDLESS, 2**60), model(ENDLESS, 2**60))
    assert not found.verified and found.reason is not None and "longer than 2 s" in found.reason
    assert time.perf_counter() - start < 20  # no other sizes are tried


@pytest.mark.slow
def test_a_limit_that_the_result_alone_exceeds_leaves_it_unverified() -> None:
    """Nothing is wrong with the result then, as far as anybody knows."""
    with limited(seconds=2):
        found = check(model(ENDLESS, 2), model(ENDLESS, 2**60))
    assert not found.verified and found.reason is not None and "longer than 2 s" in found.reason


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux bounds what a process holds")
def test_memory_that_the_result_alone_lacks_leaves_it_unverified() -> None:
    with limited(memory=2**29):
        found = check(model(INNER, 4), model(INNER, 2**27))
    assert not found.verified and found.reason is not None and "pruned model" in found.reason


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_a_crash_in_the_result_leaves_it_unverified(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        run = Session.run
        runs = 0

        def crashing(self: Session, *arguments: Any) -> Any:
            nonlocal runs
            runs += 1
            if runs == 2:
                os.kill(pid(), signal.SIGSEGV)
            return run(self, *arguments)

        patch.setattr(Session, "run", crashing)
        found = check(model(ENDLESS, 2), model(ENDLESS, 2))
    assert runs == 2 and not found.verified and found.reason is not None and "crashed" in found.reason


@pytest.mark.slow
def test_a_result_that_onnxruntime_refuses_is_a_failure() -> None:
    """On inputs that the original takes."""
    wrong = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N,3,16,16] x) => (float[N,3,16,16] y) {
          s = Constant <value: tensor = int64[2] {7, 11}> ()
          z = Reshape (x, s)
          shape = Shape (x)
          y = Reshape (z, shape)
        }
        """
    )
    with pytest.raises(VerificationError, match="does not run"):
        check(model(ENDLESS, 2), wrong)


@pytest.mark.slow
def test_the_command_respects_the_time_limit(cli: Cli, tmp_path: Path) -> None:
    """A model that hangs is written unverified, but not if it has gates, which cannot be measured."""
    endless = model(ENDLESS, 2**60)
    endless.graph.output[0].name = "z"
    endless.graph.node.append(onnx.helper.make_node("Conv", ["y", "w"], ["z"]))
    endless.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "w"))
    onnx.save(endless, tmp_path / "endless.onnx")
    recipe = tmp_path / "r.toml"
    recipe.write_text("run-seconds = 2\nrun-memory = '4GB'\n")
    ended = cli(tmp_path / "endless.onnx", "--ratio", 0.5, "--recipe", recipe, "--repair", "none")
    assert ended.code == 0 and "longer than 2 s" in ended.err
    (tmp_path / "endless.pruned.onnx").unlink()
    before = contents(tmp_path)
    ended = cli(tmp_path / "endless.onnx", "--ratio", 0.5, "--recipe", recipe, "--gate", "drift=1e9")
    assert ended.code == 5 and contents(tmp_path) == before


def test_inputs_that_do_not_fit_are_input_errors() -> None:
    """What onnxruntime says of calibration data reaches the caller as an error of input."""
    text = tiny()
    with pytest.raises(InputError):
        onnxprune.prune(text, 0.5, calib=[{"x": np.ones((1, 3, 1, 1), np.float32)}] * 3)


def test_an_output_that_is_an_input_is_an_array_of_its_own() -> None:
    """It is still what it was when what was fed is something else."""
    graph = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] x, float[2] y) { y = Neg(x) }'
    session = LocalSession(onnx.parser.parse_model(graph).SerializeToString())
    feeds = {"x": np.array([1, 2], np.float32)}
    same, _ = session.run(None, feeds)
    feeds["x"][:] = 7
    np.testing.assert_array_equal(same, [1, 2])
