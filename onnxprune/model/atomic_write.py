"""Files that appear whole or not at all, whatever ends the run.

A file is drafted under a temporary name in the folder where it is to appear, forced to disk, and renamed. A model and
its data file cannot be renamed in one step, so a data file bears the hash of its content in its name: it appears
first, takes no other model's place, and counts for nothing until the model, the one commit point, refers to it. Data
that no model mentions any more goes afterwards.

What killed runs left behind goes when the next run writes to the same name. A run holds a lock on each of its drafts,
which the system drops when the process ends, however it ends: a draft without one is a left-over. Drafts are made,
renamed and removed under a lock on their folder, so runs that write to one name at the same time do not meet.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import re
import secrets
import stat
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from onnxprune.errors import OutputError

_HINTS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room, or name a file on another disk"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "name a file where you may write"),
    errno.ENAMETOOLONG: "choose a shorter name",
}


class AtomicWrite:
    """Files that are to appear together in one folder; see `drafts`."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._paths: list[Path] = []
        self._streams: list[BinaryIO] = []

    def new(self) -> BinaryIO:
        """A stream for the content of one more file."""
        path = self._target.with_name(f".{self._target.name}.{secrets.token_hex(4)}.tmp")
        with _alone(self._target.parent):  # nobody may find it while it has no lock yet
            self._paths.append(path)
            self._streams.append(open(path, "xb"))  # noqa: SIM115 (closed by `publish` or `discard`)
            _lock(self._streams[-1].fileno(), wait=False)
        return self._streams[-1]

    def publish(self, *files: Path) -> None:
        """Gives the drafts their names, in the order in which they were made; the last one is the commit point.

        Each file is on disk before it is named, and each name before the next.
        """
        for stream in self._streams:
            stream.flush()
            os.fsync(stream.fileno())
        with _alone(self._target.parent) as folder:
            for stream in self._streams:
                stream.close()
            for draft, file in zip(self._paths, files, strict=True):
                os.replace(draft, file)
                if folder is not None:
                    os.fsync(folder)

    def discard(self) -> None:
        """Removes what has not been published."""
        for stream in self._streams:
            with contextlib.suppress(OSError):  # closing writes what is left, and the disk may be full
                stream.close()
        for path in self._paths:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def drafts(target: Path, keep: Collection[Path] = ()) -> Iterator[AtomicWrite]:
    """Room to write a file, or several that belong together, before they take the place of older ones.

    Args:
        target: The file that will refer to the others, if there are others. Its folder must exist.
        keep: Files that are never taken for left-overs.

    Raises:
        OutputError: Writing failed, say because the disk is full; what was there before is still there.
    """
    made = AtomicWrite(target)
    try:
        _sweep(target, keep)
        try:
            yield made
        finally:
            made.discard()
            _sweep(target, keep)
    except OSError as error:
        raise OutputError(
            f"{target}: cannot be written: {error.strerror or error}", _HINTS.get(error.errno or 0)
        ) from error


def data_file(target: Path, digest: str) -> Path:
    """The data file of a model, by the hexadecimal hash of its content: ``MODEL.onnx.0123456789abcdef.data``."""
    return target.with_name(f"{target.name}.{digest[:16]}.data")


def _sweep(target: Path, keep: Collection[Path]) -> None:
    """Removes drafts of this target that no run holds, and its data files that no model mentions."""
    name = re.escape(target.name)
    with _alone(target.parent):
        names = os.listdir(target.parent)
        for draft in filter(re.compile(rf"\.{name}\.[0-9a-f]{{8}}\.tmp").fullmatch, names):
            _remove_abandoned(target.with_name(draft))
        owned = set(filter(re.compile(rf"{name}\.[0-9a-f]{{16}}\.data").fullmatch, names))
        models = [n for n in names if n not in owned and (n.startswith(target.name) or n.endswith(".onnx"))]
        for data in (target.with_name(n) for n in owned):
            if data.resolve() not in keep and not _mentioned(data.name, [target.with_name(n) for n in models]):
                with contextlib.suppress(OSError):
                    data.unlink(missing_ok=True)


def _remove_abandoned(draft: Path) -> None:
    """Removes a draft whose lock is free; where that cannot be told, it stays."""
    with contextlib.suppress(OSError):
        if not stat.S_ISREG(draft.lstat().st_mode):
            return
        descriptor = os.open(draft, os.O_RDWR)
        try:
            if _lock(descriptor, wait=False):
                draft.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _mentioned(name: str, models: Sequence[Path]) -> bool:
    """Whether one of these files has the name in it; one that cannot be read may."""
    for model in models:
        try:
            if model.is_file() and model.stat().st_size:
                with open(model, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    if content.find(os.fsencode(name)) >= 0:
                        return True
        except OSError:
            return True
    return False


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[int | None]:
    """Keeps other runs from making, renaming and removing files of ours in a folder; yields its descriptor."""
    if sys.platform == "win32":  # folders cannot be opened there
        yield None
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, wait=True)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Takes the lock of an open file or folder, which ends with the process at the latest; whether that worked."""
    if sys.platform == "win32":  # there an open file cannot be removed, which serves as well
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # held by another, or a file system without locks
        return False
    return True
