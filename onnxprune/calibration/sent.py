"""Calibration data on their way to another process: files by name where that has the same, else copies of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from onnxprune.common.shared_files import SharedFiles
from onnxprune.errors import InputError


@dataclass(frozen=True)
class SentFiles:
    """A calibration spec (see `spec`) that names files.

    Attributes:
        files: The files.
        parts: The parts of the spec between its commas: a text, or the text before a path and the path below the folder
            of the files.
    """

    files: SharedFiles
    parts: tuple[str | tuple[str, str], ...]


def sent(data: Any) -> Any:
    """What stands for calibration data in a pickle.

    Raises:
        InputError: They cannot be read.
    """
    if not isinstance(data, str):
        return data
    split = [data] if os.path.exists(data) else data.split(",")
    heads = [part[: len(part) - len(_path(part, i))] for i, part in enumerate(split)]
    paths = {i: _path(part, i) for i, part in enumerate(split) if _path(part, i)}
    if not paths:
        return data
    try:
        files = SharedFiles.of(list(paths.values()))
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror or error}") from None
    below = {i: os.path.relpath(path, files.folder) for i, path in paths.items()}
    return SentFiles(files, tuple((heads[i], below[i]) if i in paths else part for i, part in enumerate(split)))


def received(data: Any) -> Any:
    """The data in the process that was sent them.

    Raises:
        FilesMissing: They are to be sent.
    """
    if not isinstance(data, SentFiles):
        return data
    folder = data.files.here()
    return ",".join(part if isinstance(part, str) else part[0] + str(folder / part[1]) for part in data.parts)


def _path(part: str, number: int) -> str:
    """The path in a part of a spec; "" where there is none."""
    path = part if number == 0 else part.strip().removeprefix("classes=") if "classes=" in part else ""
    return path if path and os.path.exists(path) else ""
