"""Files take each other's place whole: names, left-overs, full disks and closed folders."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnx
import pytest
import xxhash

import onnxprune
from onnxprune.errors import InputError, OutputError
from onnxprune.model.atomic_write import atomic_write, data_file_path
from onnxprune.model.model import load
from onnxprune.model.save import save
from tests.support.commands import Cli, assert_refused, contents, tiny
from tests.support.error_rows import DISK_FULL, NOT_READABLE, NOT_WRITABLE
from tests.support.saved_models import external, saved_as


def test_a_second_model_replaces_the_first(two: tuple[Path, Path], tmp_path: Path) -> None:
    """Only the model and its data file exist afterwards; a second save gives files of the same size."""
    target = tmp_path / "out" / "net.onnx"
    sizes = []
    for source in (two[0], two[1], two[1]):
        save(load(source), target)
        assert contents(target.parent) == saved_as(target)
        sizes.append(sorted(f.stat().st_size for f in target.parent.iterdir()))
    assert sizes[0] == sizes[1] == sizes[2]
    save(load(tiny()), target)  # without external data
    assert list(contents(target.parent)) == ["net.onnx"]


def test_the_name_of_a_data_file_is_the_hash_of_its_content(two: tuple[Path, Path], tmp_path: Path) -> None:
    """Equal models give equal bytes, whatever files existed before."""
    target = tmp_path / "out" / "net.onnx"
    save(load(two[0]), target)
    (data,) = load(target).data_files
    assert data == data_file_path(target, xxhash.xxh3_128(data.read_bytes()).hexdigest())


def test_data_files_that_another_model_refers_to_are_kept(two: tuple[Path, Path], tmp_path: Path) -> None:
    """Only data files that no model in the folder refers to are removed."""
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
from onnxprune.model.atomic_write import atomic_write
with atomic_write(Path(sys.argv[1])) as made:
    made.new().write(b"half")
    print(flush=True)
    sys.stdin.read()
"""


def test_only_drafts_of_dead_processes_are_removed(tmp_path: Path) -> None:
    """Drafts of a run that is still writing to the same name are kept."""
    target = tmp_path / "net.onnx"
    with subprocess.Popen([sys.executable, "-c", HOLD, target], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as live:
        assert live.stdout is not None
        live.stdout.readline()
        save(load(tiny()), target)
        assert len(contents(tmp_path)) == 2
        live.kill()
    assert len(contents(tmp_path)) == 2
    save(load(tiny()), target)
    assert list(contents(tmp_path)) == ["net.onnx"]


@pytest.mark.slow
def test_concurrent_runs_may_write_to_one_name(two: tuple[Path, Path], tmp_path: Path) -> None:
    """The model of the last run exists with its data file, and no other files; locks belong to open files."""
    target = tmp_path / "out" / "net.onnx"
    known = []
    for source in two:
        save(load(source), target)
        known.append(saved_as(target))

    def write(source: Path) -> None:
        for _ in range(5):
            save(load(source), target)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, two * 2))
    assert contents(target.parent) == saved_as(target)
    assert saved_as(target) in known


def test_a_file_may_be_removed_during_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run may remove it right after."""
    target = tmp_path / "net.onnx"
    target.write_bytes(b"old")
    first, looked = Path.stat, list[Path]()

    def stat(self: Path, **more: bool) -> os.stat_result:
        if self == target and looked:
            raise FileNotFoundError(self)
        looked.extend([self] if self == target else [])
        return first(self, **more)

    monkeypatch.setattr(Path, "stat", stat)
    save(load(tiny()), target)
    assert looked == [target] and target.read_bytes() != b"old"


def test_files_with_other_names_are_not_removed(tmp_path: Path) -> None:
    """Only files named like leftovers of this target are removed."""
    for name in (
        ".net.onnx.0123abcd.tm",
        ".net.onnx.0123abcg.tmp",
        ".other.onnx.0123abcd.tmp",
        "net.onnx.data",
        "net.onnx.0123456789abcdeg.data",
        "other.onnx.0123456789abcdef.data",
    ):
        (tmp_path / name).write_text("precious")
    (tmp_path / ".net.onnx.0123abcd.tmp").mkdir()
    before = contents(tmp_path)
    save(load(tiny()), tmp_path / "net.onnx")
    assert contents(tmp_path).keys() == {*before, "net.onnx"}
    (tmp_path / ".net.onnx.01234567.tmp").write_text("rest")
    (tmp_path / "net.onnx.0123456789abcdef.data").write_text("rest")
    save(load(tiny()), tmp_path / "net.onnx")
    assert contents(tmp_path).keys() == {*before, "net.onnx"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 160 kB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160k,mode=755", "none", folder], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"cannot mount a file system here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_full_disk(cli: Cli, small_disk: Path, tmp_path: Path) -> None:
    """If the new model does not fit on the disk beside the old one, an error is raised and the old one is kept."""
    source = external(tmp_path, width=64, layers=8)  # 128 kB
    target = small_disk / "net.onnx"
    run = ["--no-verify", "--quiet", "--repair", "none", "-o", target]
    assert cli(source, "--ratio", 0.3, *run).code == 0
    old = contents(small_disk)
    for command in ([source, "--ratio", 0.1], [source, "--ratio", 0, "--plan", small_disk / "plan.json"]):
        error, hint = assert_refused(cli(*command, *run)).splitlines()
        assert error == f"error: {DISK_FULL.error.replace('FILE', str(target))}"
        assert hint == f"hint: {DISK_FULL.hint}"
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


@pytest.mark.slow
def test_file_too_large(tmp_path: Path) -> None:
    """A limit of the system on the size of a file is treated like a full disk."""
    source = external(tmp_path, width=64, layers=8)
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "net.onnx"
    save(load(tiny()), target)
    before = contents(target.parent)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, "50000", source, "--ratio", "0.1", "--no-verify", "-o", target],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == f"error: {target}: cannot be written: File too large"
    assert contents(target.parent) == before


@pytest.fixture
def closed_folder() -> Iterator[Path]:
    """A read-only folder with a model in it."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        onnx.save(tiny(), folder / "net.onnx")
        (folder / "there.onnx").write_bytes(b"old")
        onnxprune.prune(folder / "net.onnx", ratio=0.5)  # imports all: later Python's own files may be out of reach
        folder.chmod(0o555)
        mine = os.geteuid()
        if mine == 0:  # whom permissions do not hold back
            os.seteuid(65534)
        try:
            yield folder
        finally:
            os.seteuid(mine)
            folder.chmod(0o755)


@pytest.mark.slow
def test_without_permission(cli: Cli, closed_folder: Path) -> None:
    """The command checks write permission before any work; the API reports it when saving."""
    for where in ([], ["-o", closed_folder / "there.onnx"], ["-o", closed_folder / "new.onnx"]):
        error, hint = assert_refused(cli(closed_folder / "net.onnx", "--ratio", 0.5, *where)).splitlines()
        assert error.endswith(NOT_WRITABLE.error.replace("FOLDER", str(closed_folder)).removeprefix("FILE"))
        assert hint == f"hint: {NOT_WRITABLE.hint}"
    with pytest.raises(OutputError, match="cannot be written: Permission denied") as caught:
        save(load(tiny()), closed_folder / "new.onnx")
    assert caught.value.exit_code == 2
    assert caught.value.hint == "name a file where you may write"
    assert sorted(contents(closed_folder)) == ["net.onnx", "there.onnx"]


@pytest.mark.slow
def test_an_unreadable_model(cli: Cli, closed_folder: Path) -> None:
    """A model that may not be read."""
    secret = closed_folder / "net.onnx"
    mine = os.geteuid()
    os.seteuid(os.getuid())
    secret.chmod(0)
    os.seteuid(mine)
    error, hint = assert_refused(cli(secret, "--ratio", 0.5, "--dry-run")).splitlines()
    assert error == f"error: {NOT_READABLE.error.replace('FILE', str(secret))}"
    assert hint == f"hint: {NOT_READABLE.hint}"


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


@pytest.mark.slow
def test_the_input_is_opened_for_reading_only(tmp_path: Path) -> None:
    """Neither the model nor its data is ever opened in a way that could change it."""
    source = external(tmp_path, width=16, layers=3)
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, source, source, "--ratio", "0.5", "--quiet", "-o", tmp_path / "out.onnx"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_plan_and_a_model_are_written_together(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the model cannot be written, its plan is not written either."""

    def fail(*arguments: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = contents(model.parent)
    monkeypatch.setattr("onnxprune.model.save.write_external_data", fail)
    monkeypatch.setattr("onnxprune.model.save.needs_data_file", lambda model: True)
    assert_refused(cli(model, "--ratio", 0.5, "--no-verify", "--plan", model.parent / "plan.json"))
    assert contents(model.parent) == before


def test_a_file_name_that_is_not_utf8_is_refused(two: tuple[Path, Path], tmp_path: Path) -> None:
    """A file name that is not UTF-8 cannot be written into a model."""
    with pytest.raises(InputError, match="not UTF-8"):
        save(load(two[0]), tmp_path / "out" / os.fsdecode(b"\xff.onnx"))
    assert contents(tmp_path / "out") == {}


def test_drafts_are_published_in_order(tmp_path: Path) -> None:
    """The last draft is the commit point."""
    with atomic_write(tmp_path / "b") as made:
        made.new().write(b"first")
        made.new().write(b"second")
        assert len(contents(tmp_path)) == 2
        made.publish(tmp_path / "a", tmp_path / "b")
    assert contents(tmp_path) == {"a": b"first", "b": b"second"}
