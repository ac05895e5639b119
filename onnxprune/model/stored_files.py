"""The files that a model is stored in, with sizes and checksums."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from onnxprune.common.shared_files import SharedFiles, sha256
from onnxprune.errors import InputError
from onnxprune.model.external_data import locations
from onnxprune.model.model import Model, load


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


def shared_files(model: str | os.PathLike[str]) -> SharedFiles:
    """The same for another process: the folder that it finds is that of the model's file.

    Raises:
        InputError: One of them cannot be read.
    """
    path = Path(model)
    try:
        return SharedFiles.of([path, *(path.parent / name for name in locations(load(path).proto))])
    except OSError as error:
        raise _unreadable(Path(error.filename or path), error) from None


def _described(path: Path) -> StoredFile:
    try:
        return StoredFile(str(path), path.stat().st_size, sha256(path))
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be read: {error.strerror or error}")
