"""Finished steps of a run in a folder, from which a run that was killed goes on.

A run with the same input, options and seed takes the same steps in the same order. So a step is known by its number
and its name, and what it found before serves again; all in between is computed anew.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar, cast

from onnxprune.common.storable import from_bytes, to_bytes
from onnxprune.errors import InputError, OutputError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
RUN = "run.json"
"""What the folder says of its run."""
MISSING = object()
"""Stands for a step that is not done."""


class Checkpoints:
    """The steps of one run."""

    def __init__(self, folder: Path, run: Mapping[str, str]) -> None:
        """Opens or makes the folder.

        Args:
            folder: The folder.
            run: Checksums of what the run depends on, by what that is.

        Raises:
            InputError: It cannot be made, or has something else in it: another run, say.
            OutputError: It cannot be written to.
        """
        self._folder, self._number = folder, 0
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: is a file, not a folder", "name a folder for the steps of the run")
        if not folder.parent.is_dir():
            raise InputError(f"{folder}: the folder {folder.parent} does not exist", "create it first")
        try:
            folder.mkdir(exist_ok=True)
            self._check(run)
        except OSError as error:
            raise _unwritable(folder, error) from error

    def _check(self, run: Mapping[str, str]) -> None:
        told = self._folder / RUN
        if not told.exists():
            if any(self._folder.iterdir()):
                raise InputError(f"{self._folder}: has other files in it", "name a new folder, or an empty one")
            self._write(RUN, json.dumps(dict(run), indent=2).encode())
            return
        try:
            known = json.loads(told.read_text(encoding="utf-8"))
            others = [what for what, checksum in run.items() if known.get(what) != checksum]
        except (ValueError, AttributeError):
            others = [RUN]
        if others:
            words = " and ".join(others)
            raise InputError(
                f"{self._folder}: has the steps of another run: it differs in {words}", "name another folder"
            )

    def begin(self) -> int:
        """The number of the next step."""
        self._number += 1
        return self._number

    def read(self, number: int, name: str, part: int | None = None) -> Any:
        """What a step, or a part of it, found; `MISSING` where it is not done."""
        path = self._folder / _file(number, part)
        try:
            stored = from_bytes(path.read_bytes())
        except (OSError, ValueError):
            return MISSING  # never written, or the machine lost its power
        return stored[1] if isinstance(stored, list) and stored[0] == name else MISSING

    def write(self, number: int, name: str, found: Any, part: int | None = None) -> None:
        """Stores what a step found.

        Raises:
            OutputError: The disk is full, say.
        """
        self._write(_file(number, part), to_bytes([name, found]))

    def _write(self, name: str, content: bytes) -> None:
        draft = self._folder / f"{name}.tmp"
        try:
            draft.write_bytes(content)
            os.replace(draft, self._folder / name)
        except OSError as error:
            raise _unwritable(self._folder, error) from error


_current: ContextVar[Checkpoints | None] = ContextVar("checkpoints", default=None)


@contextlib.contextmanager
def keeping(checkpoints: Checkpoints | None) -> Iterator[None]:
    """Keeps the steps of the block, and takes those that are kept already."""
    token = _current.set(checkpoints)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Checkpoints | None:
    """Where steps are kept; None where they are not."""
    return _current.get()


def step_of_run(name: str, make: Callable[[], Result]) -> Result:
    """What `make` finds, or found before in a run that goes on; it must be storable, see `storable`.

    Args:
        name: Name of the step.
        make: Does it, and changes nothing besides. Steps inside of it are not kept by themselves.
    """
    kept = current()
    if kept is None:
        return make()
    number = kept.begin()
    found = kept.read(number, name)
    if found is MISSING:
        with keeping(None):
            found = make()
        kept.write(number, name, found)
    else:
        logger.debug("taken from before: %s", name)
    return cast(Result, found)


class LongStep:
    """A step of a run that is long, of which the latest state is kept: a run that was killed goes on inside of it."""

    def __init__(self, name: str) -> None:
        """Begins the step; where no steps are kept, neither is its state."""
        self._name, self._kept = name, current()
        self._number = self._kept.begin() if self._kept is not None else 0

    def latest(self) -> Any:
        """The state that was kept last; `MISSING` where there is none."""
        return MISSING if self._kept is None else self._kept.read(self._number, self._name)

    def keep(self, state: Callable[[], Any]) -> None:
        """Keeps a state in the place of the one before, where steps are kept; it must be storable, see `storable`."""
        if self._kept is not None:
            self._kept.write(self._number, self._name, state())


def _file(number: int, part: int | None) -> str:
    return f"{number:06}.npz" if part is None else f"{number:06}-{part:06}.npz"


def _unwritable(folder: Path, error: OSError) -> OutputError:
    return OutputError(f"{folder}: cannot be written: {error.strerror or error}", "make room, or name another folder")
