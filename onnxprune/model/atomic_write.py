"""Atomic, crash-safe file writes.

A file is written under a temporary name (a draft) in the target folder, synced to disk, and renamed. A model and its
data file cannot be renamed in one step, so the name of a data file contains the hash of its content: it is published
first, replaces no other model's data, and is unused until the model file, the commit point, refers to it. Data files
that no model refers to any more are removed afterwards.

Drafts of killed processes are removed by the next run that writes to the same name. A run holds a lock on each of its
drafts, which the system releases when the process ends: a draft without a lock is a leftover. Drafts are created,
renamed and removed under a lock on their folder, so concurrent runs may write to the same name.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import re
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
    """Files that are published together in one folder; see `atomic_write`."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._paths: list[Path] = []
        self._streams: list[BinaryIO] = []

    def new(self) -> BinaryIO:
        """Opens a stream for the content of one more file."""
        path = self._target.with_name(f".{self._target.name}.{os.urandom(4).hex()}.tmp")
        with _folder_lock(self._target.parent):  # no other run may see the draft before it is locked
            self._paths.append(path)
            self._streams.append(open(path, "xb"))  # noqa: SIM115 (closed by `publish` or `discard`)
            _lock(self._streams[-1].fileno(), wait=False)
        return self._streams[-1]

    def publish(self, *files: Path) -> None:
        """Renames the drafts to these files, in the order of their creation; the last one is the commit point.

        Each file is synced before it is renamed, and each rename before the next.
        """
        for stream in self._streams:
            stream.flush()
            os.fsync(stream.fileno())
        with _folder_lock(self._target.parent) as folder:
            for stream in self._streams:
                stream.close()
            for draft, file in zip(self._paths, files, strict=True):
                os.replace(draft, file)
                if folder is not None:
                    os.fsync(folder)

    def discard(self) -> None:
        """Removes drafts that have not been published."""
        for stream in self._streams:
            with contextlib.suppress(OSError):  # closing flushes the buffer, and the disk may be full
                stream.close()
        for path in self._paths:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_write(target: Path, keep: Collection[Path] = ()) -> Iterator[AtomicWrite]:
    """Context manager for writing one file, or several that are replaced together.

    Args:
        target: The file that refers to the others, if there are any. Its folder must exist.
        keep: Files that are never removed as leftovers.

    Yields:
        Drafts of the files, which `AtomicWrite.publish` gives their names.

    Raises:
        OutputError: Writing failed, for example because the disk is full; existing files are unchanged.
    """
    write = AtomicWrite(target)
    try:
        _remove_leftovers(target, keep)
        try:
            yield write
        finally:
            write.discard()
            _remove_leftovers(target, keep)
    except OSError as error:
        raise OutputError(
            f"{target}: cannot be written: {error.strerror or error}", _HINTS.get(error.errno or 0)
        ) from error


def data_file_path(target: Path, digest: str) -> Path:
    """Returns the path of a model's data file, given the hexadecimal hash of its content.

    For example ``MODEL.onnx.0123456789abcdef.data``.
    """
    return target.with_name(f"{target.name}.{digest[:16]}.data")


def _remove_leftovers(target: Path, keep: Collection[Path]) -> None:
    """Removes drafts of this target that no run has locked, and its data files that no model refers to."""
    name = re.escape(target.name)
    with _folder_lock(target.parent):
        names = os.listdir(target.parent)
        for draft in filter(re.compile(rf"\.{name}\.[0-9a-f]{{8}}\.tmp").fullmatch, names):
            _remove_abandoned(target.with_name(draft))
        owned = set(filter(re.compile(rf"{name}\.[0-9a-f]{{16}}\.data").fullmatch, names))
        models = [n for n in names if n not in owned and (n.startswith(target.name) or n.endswith(".onnx"))]
        for data in (target.with_name(n) for n in owned):
            if data.resolve() not in keep and not _is_referenced(data.name, [target.with_name(n) for n in models]):
                with contextlib.suppress(OSError):
                    data.unlink(missing_ok=True)


def _remove_abandoned(draft: Path) -> None:
    """Removes a draft that is not locked; it is kept if the lock cannot be checked."""
    with contextlib.suppress(OSError):
        if not stat.S_ISREG(draft.lstat().st_mode):
            return
        descriptor = os.open(draft, os.O_RDWR)
        try:
            if _lock(descriptor, wait=False):
                draft.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _is_referenced(name: str, models: Sequence[Path]) -> bool:
    """Whether one of these files contains the name; an unreadable file counts as one that does."""
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
def _folder_lock(folder: Path) -> Iterator[int | None]:
    """Excludes other runs from creating, renaming and removing drafts in a folder; yields its descriptor, if any."""
    if sys.platform == "win32":  # folders cannot be opened on Windows
        yield None
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, wait=True)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Locks an open file or folder until it is closed or the process ends; returns whether that succeeded."""
    if sys.platform == "win32":  # an open file cannot be removed on Windows, so no lock is needed
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # locked by another process, or a file system without locks
        return False
    return True
