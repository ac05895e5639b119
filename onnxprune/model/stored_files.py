"""The files that a model is stored in, with sizes and checksums."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from onnxprune.errors import InputError
from onnxprune.model.model import Model, load

BLOCK = 2**20
"""Bytes that are read at a time."""


@dataclass(frozen=True)
class StoredFile:
    """One file of a model.

    Attributes:
        path: Its path.
        bytes: Its size.
        sha256: SHA-256 of its content, in hexadecimal digits.
    """

    path: str
    bytes: int
    sha256: str


def stored_files(model: str | os.PathLike[str]) -> list[StoredFile]:
    """The file of a model, then the files of its external data.

    Raises:
        InputError: One of them cannot be read.
    """
    path = Path(model)
    return [_described(file) for file in (path, *sorted(load(path).data_files))]


def stored_bytes(model: Model) -> int | None:
    """Size of the files that a model was loaded from; None where it came from no file, or they are gone."""
    if model.path is None:
        return None
    try:
        return sum(file.stat().st_size for file in (model.path, *model.data_files))
    except OSError:
        return None


def _described(path: Path) -> StoredFile:
    digest, size = hashlib.sha256(), 0
    try:
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
                size += len(block)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    return StoredFile(str(path), size, digest.hexdigest())
