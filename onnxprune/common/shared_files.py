"""Files that another process reads too: where they lie if it has the same there, else a copy that it is sent."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path

BLOCK = 2**20
"""Bytes that are read at a time."""

_copies: ContextVar[Path | None] = ContextVar("copies", default=None)


@dataclass(frozen=True)
class SharedFiles:
    """Some files below a folder.

    Attributes:
        folder: The folder, an absolute path.
        files: Path of each file below it, its size in bytes and the SHA-256 of its content.
    """

    folder: str
    files: tuple[tuple[str, int, str], ...]

    @classmethod
    def of(cls, paths: Sequence[str | os.PathLike[str]]) -> SharedFiles:
        """Files, and all that is in folders.

        Raises:
            OSError: One of them cannot be read.
        """
        given = [Path(os.path.abspath(path)) for path in paths]
        folder = Path(os.path.commonpath([path.parent for path in given]))
        inside = (sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path] for path in given)
        files = (file for part in inside for file in part)
        return cls(str(folder), tuple((str(f.relative_to(folder)), f.stat().st_size, sha256(f)) for f in files))

    @property
    def key(self) -> str:
        """A name that no other files have."""
        return hashlib.sha256(repr(self.files).encode()).hexdigest()

    def here(self) -> Path:
        """A folder of this machine that has them.

        Raises:
            FilesMissing: There is none.
        """
        copies = _copies.get()
        if copies is None:
            return Path(self.folder)
        if (copies / self.key).is_dir():
            return copies / self.key
        if all(_is_same(Path(self.folder, name), size, known) for name, size, known in self.files):
            return Path(self.folder)
        raise FilesMissing(self)

    def contents(self) -> dict[str, bytes]:
        """What is in each file, by its path below the folder."""
        return {name: Path(self.folder, name).read_bytes() for name, _, _ in self.files}

    def copy(self, contents: Mapping[str, bytes]) -> None:
        """Writes a copy that `here` finds."""
        copies = _copies.get()
        assert copies is not None
        if (copies / self.key).is_dir():
            return
        copies.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=copies))
        for name, content in contents.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_bytes(content)
        try:
            made.rename(copies / self.key)
        except OSError:  # another process was faster
            shutil.rmtree(made, ignore_errors=True)


class FilesMissing(Exception):
    """Files that are to be sent first.

    Attributes:
        files: These.
    """

    def __init__(self, files: SharedFiles) -> None:
        super().__init__(files.folder)
        self.files = files


@contextlib.contextmanager
def copies_in(folder: Path) -> Iterator[None]:
    """Lets copies of shared files be in a folder while the block lasts, in a process that others send them to."""
    token = _copies.set(folder)
    try:
        yield
    finally:
        _copies.reset(token)


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal digits; read again only where size or time are others than before."""
    stat = os.stat(path)
    return _sha256(os.fspath(path), stat.st_size, stat.st_mtime_ns)


@cache
def _sha256(path: str, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _is_same(path: Path, size: int, known: str) -> bool:
    try:
        return path.is_file() and path.stat().st_size == size and sha256(path) == known
    except OSError:
        return False
