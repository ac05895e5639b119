"""Whatever ends a run, and whenever: the target holds the old model or the new one, and the next run leaves no rest.

ONNXPRUNE_KILLS and ONNXPRUNE_KILL_MB set how often a run is killed, and how much it writes (default: 20 and 4).
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import InputError, OutputError
from onnxprune.model import load, save
from onnxprune.replacing import data_file, drafts
from tests.commands import Cli, assert_refused, contents, tiny

KILLS = int(os.environ.get("ONNXPRUNE_KILLS", "20"))
MEGABYTES = int(os.environ.get("ONNXPRUNE_KILL_MB", "4"))


def chain(width: int, layers: int, seed: int = 0) -> onnx.ModelProto:
    """A chain of matrix products with weights of width * width * 4 bytes."""
    rng = np.random.default_rng(seed)
    weights = [numpy_helper.from_array(rng.standard_normal((width, width), "f"), f"w{i}") for i in range(layers)]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(layers)]
    ends = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [1, width]) for i in (0, layers)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def external(folder: Path, name: str = "in.onnx", **sizes: int) -> Path:
    """A chain with its weights in a data file of another kind of name than ours."""
    path = folder / name
    onnx.save(chain(**sizes), path, save_as_external_data=True, location=f"{name}.weights", size_threshold=0)
    return path


def saved_as(path: Path) -> dict[str, bytes]:
    """A saved model with the data files that it refers to, by name; loading it is part of the question."""
    return {f.name: f.read_bytes() for f in (path, *load(path).data_files)}


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two models of one shape and other weights, outside the folder of the target."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    return (external(tmp_path / "in", "a.onnx", width=32, layers=3, seed=1),
            external(tmp_path / "in", "b.onnx", width=32, layers=3, seed=2))


def test_a_second_model_takes_the_place_of_the_first(two: tuple[Path, Path], tmp_path: Path) -> None:
    """Model and data, and nothing else, are there afterwards; a second save leaves files of the same size."""
    target = tmp_path / "out" / "net.onnx"
    sizes = []
    for source in (two[0], two[1], two[1]):
        save(load(source), target)
        assert contents(target.parent) == saved_as(target)
        sizes.append(sorted(f.stat().st_size for f in target.parent.iterdir()))
    assert sizes[0] == sizes[1] == sizes[2]
    save(load(tiny()), target)  # without external data
    assert list(contents(target.parent)) == ["net.onnx"]


def test_the_name_of_data_is_its_content(two: tuple[Path, Path], tmp_path: Path) -> None:
    """So that one model gives one set of bytes, whatever was there before."""
    target = tmp_path / "out" / "net.onnx"
    save(load(two[0]), target)
    (data,) = load(target).data_files
    assert data == data_file(target, hashlib.sha256(data.read_bytes()).hexdigest())


def test_data_that_a_copy_still_needs_stays(two: tuple[Path, Path], tmp_path: Path) -> None:
    """Only data that no model in the folder mentions is removed."""
    target = tmp_path / "out" / "net.onnx"
    save(load(two[0]), target)
    for copy in ("other.onnx", "net.onnx.bak"):
        (target.parent / copy).write_bytes(target.read_bytes())
    before = saved_as(target.parent / "other.onnx")
    save(load(two[1]), target)
    assert saved_as(target.parent / "other.onnx") == before
    (target.parent / "other.onnx").unlink()
    save(load(two[1]), target)
    assert saved_as(target.parent / "net.onnx.bak").keys() - {"net.onnx.bak"} == before.keys() - {"other.onnx"}
    (target.parent / "net.onnx.bak").unlink()
    save(load(two[1]), target)
    assert contents(target.parent) == saved_as(target)


HOLD = """
import sys
from pathlib import Path
from onnxprune.replacing import drafts
with drafts(Path(sys.argv[1])) as made:
    made.new().write(b"half")
    print(flush=True)
    sys.stdin.read()
"""


def test_a_live_run_keeps_its_drafts_and_a_dead_one_does_not(tmp_path: Path) -> None:
    """The drafts of a run that still writes to the same name are let alone."""
    target = tmp_path / "net.onnx"
    with subprocess.Popen([sys.executable, "-c", HOLD, target], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as live:
        assert live.stdout is not None
        live.stdout.readline()
        save(load(tiny()), target)
        assert len(contents(tmp_path)) == 2
        live.kill()
    assert len(contents(tmp_path)) == 2
    save(load(tiny()), target)
    assert list(contents(tmp_path)) == ["net.onnx"]


def test_files_of_other_names_are_let_alone(tmp_path: Path) -> None:
    """Only what has the form of our own rests of this very target is removed."""
    for name in (".net.onnx.0123abcd.tm", ".net.onnx.0123abcg.tmp", ".other.onnx.0123abcd.tmp", "net.onnx.data",
                 "net.onnx.0123456789abcdeg.data", "other.onnx.0123456789abcdef.data"):
        (tmp_path / name).write_text("precious")
    (tmp_path / ".net.onnx.0123abcd.tmp").mkdir()
    before = contents(tmp_path)
    save(load(tiny()), tmp_path / "net.onnx")
    assert contents(tmp_path).keys() == {*before, "net.onnx"}
    (tmp_path / ".net.onnx.01234567.tmp").write_text("rest")
    (tmp_path / "net.onnx.0123456789abcdef.data").write_text("rest")
    save(load(tiny()), tmp_path / "net.onnx")
    assert contents(tmp_path).keys() == {*before, "net.onnx"}


STEPS = ["fsync", "replace", "open"]


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=type)
def test_a_fault_at_any_step(two: tuple[Path, Path], tmp_path: Path, fault: BaseException,
                             monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call that may fail fails once: the old model is whole, or the new one, and nothing else is there."""
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
        except (OutputError, KeyboardInterrupt):
            assert contents(target.parent) in (old, new)
            saved_as(target)
    assert seen > 8
    assert contents(target.parent) == new


SERVER = """
import os, sys
import onnxprune.api
from onnxprune.cli import main
from onnxprune.model import load, save

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
        self.process = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

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


def test_a_death_at_any_step(two: tuple[Path, Path], tmp_path: Path, server: Server) -> None:
    """A process that dies before any one of its calls to the system leaves the old model or the new one."""
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


def test_kill_at_random_moments(tmp_path: Path, server: Server) -> None:
    """SIGKILL at moments spread over whole runs of the command: old or new, and no rest after the next run."""
    layers = 8
    width = int((MEGABYTES * 1e6 / 4 / layers) ** 0.5 / 0.8)  # 0.8 of each inner axis stays, or more
    source = external(tmp_path, width=width, layers=layers)
    target = tmp_path / "out" / "net.onnx"
    target.parent.mkdir()
    commands = [[source, f"--ratio={ratio}", "--repair=none", "--no-verify", "--quiet", "-o", target]
                for ratio in (0.1, 0.2)]
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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 160 kB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k,mode=755", "none", folder], capture_output=True,
                          text=True)
    if made.returncode:
        pytest.skip(f"cannot mount a file system here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_full_disk(cli: Cli, small_disk: Path, tmp_path: Path) -> None:
    """Where the new model does not fit beside the old one, that is said, and the old one stays."""
    source = external(tmp_path, width=64, layers=8)  # 128 kB
    target = small_disk / "net.onnx"
    run = ["--no-verify", "--quiet", "--repair", "none", "-o", target]
    assert cli(source, "--ratio", 0.3, *run).code == 0
    old = contents(small_disk)
    for command in ([source, "--ratio", 0.1], [source, "--ratio", 0, "--plan", small_disk / "plan.json"]):
        said = assert_refused(cli(*command, *run))
        assert "cannot be written: No space left on device" in said
        assert "hint: make room" in said
        assert contents(small_disk) == old == saved_as(target)
    assert cli(source, "--ratio", 0.6, *run).code == 0
    assert contents(small_disk) == saved_as(target) != old
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert "is not writable" in assert_refused(cli(source, "--ratio", 0.5, *run))
    with pytest.raises(OutputError, match="Read-only file system"):
        save(load(source), target)


LIMITED = """
import resource, sys
from onnxprune.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(main(sys.argv[2:]))
"""


def test_file_too_large(tmp_path: Path) -> None:
    """As a full disk, where the system limits the size of a file."""
    source = external(tmp_path, width=64, layers=8)
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "net.onnx"
    save(load(tiny()), target)
    before = contents(target.parent)
    done = subprocess.run([sys.executable, "-c", LIMITED, "50000", source, "--ratio", "0.1", "--no-verify", "-o", target],
                          capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == f"error: {target}: cannot be written: File too large"
    assert contents(target.parent) == before


@pytest.fixture
def closed_folder() -> Iterator[Path]:
    """A folder that everybody may read and this process may not write to, with a model in it."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        onnx.save(tiny(), folder / "net.onnx")
        (folder / "there.onnx").write_bytes(b"old")
        folder.chmod(0o555)
        mine = os.geteuid()
        if mine == 0:  # whom permissions do not hold back
            os.seteuid(65534)
        try:
            yield folder
        finally:
            os.seteuid(mine)
            folder.chmod(0o755)


def test_without_permission(cli: Cli, closed_folder: Path) -> None:
    """Who may not write is told so before any work is done; the API tells it when it saves."""
    for where in ([], ["-o", closed_folder / "there.onnx"], ["-o", closed_folder / "new.onnx"]):
        said = assert_refused(cli(closed_folder / "net.onnx", "--ratio", 0.5, *where))
        assert f"the folder {closed_folder} is not writable" in said
    with pytest.raises(OutputError, match="cannot be written: Permission denied") as caught:
        save(load(tiny()), closed_folder / "new.onnx")
    assert caught.value.exit_code == 2
    assert caught.value.hint == "name a file where you may write"
    assert sorted(contents(closed_folder)) == ["net.onnx", "there.onnx"]


def test_an_unreadable_model(cli: Cli, closed_folder: Path) -> None:
    """A model that may not be read."""
    secret = closed_folder / "net.onnx"
    mine = os.geteuid()
    os.seteuid(os.getuid())
    secret.chmod(0)
    os.seteuid(mine)
    assert "cannot be read: Permission denied" in assert_refused(cli(secret, "--ratio", 0.5, "--dry-run"))


WATCHED = """
import os, sys
opened = []

def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        opened.append((os.path.realpath(arguments[0]), arguments[2]))

sys.addaudithook(watch)
from onnxprune.cli import main
code = main(sys.argv[2:])
flags = [flags for path, flags in opened if path.startswith(os.path.realpath(sys.argv[1]))]
assert len(flags) >= 2, opened
assert not any(f & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC) for f in flags), opened
sys.exit(code)
"""


def test_the_input_is_opened_for_reading_only(tmp_path: Path) -> None:
    """Neither the model nor its data is ever opened in a way that could change it."""
    source = external(tmp_path, width=16, layers=3)
    done = subprocess.run([sys.executable, "-c", WATCHED, source, source, "--ratio", "0.5", "--quiet", "-o",
                           tmp_path / "out.onnx"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_plan_and_a_model_appear_together(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the model cannot be written, its plan is not there either."""

    def fail(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = contents(model.parent)
    monkeypatch.setattr("onnxprune.model.write_data", fail)
    monkeypatch.setattr("onnxprune.model.goes_outside", lambda model: True)
    assert_refused(cli(model, "--ratio", 0.5, "--no-verify", "--plan", model.parent / "plan.json"))
    assert contents(model.parent) == before


def test_a_name_that_no_model_can_hold(two: tuple[Path, Path], tmp_path: Path) -> None:
    """A file name that is not UTF-8 cannot be written into a model."""
    with pytest.raises(InputError, match="not UTF-8"):
        save(load(two[0]), tmp_path / "out" / os.fsdecode(b"\xff.onnx"))
    assert contents(tmp_path / "out") == {}


def test_drafts_take_their_order(tmp_path: Path) -> None:
    """The last draft is the commit point."""
    with drafts(tmp_path / "b") as made:
        made.new().write(b"first")
        made.new().write(b"second")
        assert len(contents(tmp_path)) == 2
        made.publish(tmp_path / "a", tmp_path / "b")
    assert contents(tmp_path) == {"a": b"first", "b": b"second"}
