"""Tables of named entries that anyone may add to: by a decorator, or by an entry point of an installed package."""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from onnxprune.errors import InputError

logger = logging.getLogger(__name__)

Entry = TypeVar("Entry")

failures: list[str] = []
"""Plug-ins that could not be loaded in this process, a line each."""
_loaded: set[str] = set()
_lock = threading.RLock()  # a module that is loaded asks for names itself


class Registry(Generic[Entry]):
    """Entries of one kind by name. The package's own come first, then those of plug-ins, each loaded on first use.

    Args:
        kind: What an entry is called in errors, in the words of the option that names it: ``importance``.
        entry_points: Group of the entry points whose loading adds entries.
        home: Module whose import adds the package's own entries; "" for none.
        elsewhere: What entries are called in other tools, for hints: name there -> name here.
    """

    def __init__(
        self, kind: str, *, entry_points: str, home: str = "", elsewhere: Mapping[str, str] | None = None
    ) -> None:
        self.kind = kind
        self._elsewhere = elsewhere or {}
        self._entry_points = entry_points
        self._home = home
        self._entries: dict[str, Entry] = {}

    def add(self, name: str, entry: Entry) -> Entry:
        """Adds an entry; a later one of the same name takes its place.

        Raises:
            InputError: The name is empty or no string, or holds what an option cannot: spaces, ``=`` or ``,``.
        """
        if not isinstance(name, str) or not name or set(name) & set(" \t\n=,"):
            raise InputError(
                f"{name!r} cannot be the name of an entry for {self.kind}", "use letters, digits and dashes"
            )
        self._entries[name] = entry
        return entry

    def remove(self, name: str) -> None:
        """Withdraws an entry, in a test or a notebook, say; nothing where there is none."""
        self._entries.pop(name, None)

    def get(self, name: str) -> Entry:
        """The entry of a name.

        Raises:
            InputError: There is none; the hint has the closest match.
        """
        return self._all()[one_of(self.kind, name, self.names(), self._elsewhere)]

    def names(self) -> list[str]:
        """Every name, the package's own first."""
        return list(self._all())

    def __contains__(self, name: object) -> bool:
        return name in self._all()

    def _all(self) -> dict[str, Entry]:
        with _lock:
            if self._home and self._home not in _loaded:
                added, self._entries = self._entries, {}
                load_home(self._home)
                self._entries |= added
            load_plugins(self._entry_points)
            return self._entries


def load_home(module: str) -> None:
    """Imports the module with the package's own entries, once: it is above the modules that look entries up."""
    with _lock:
        if module not in _loaded:
            _loaded.add(module)
            importlib.import_module(module)


def load_plugins(group: str) -> None:
    """Loads the entry points of a group, once in a process: what they import registers itself.

    An entry point that cannot be loaded is left out, with a warning in the log.
    """
    with _lock:
        if group in _loaded:
            return
        _loaded.add(group)
        from importlib import metadata  # slow to import, and --help needs none of it

        for point in sorted(metadata.entry_points(group=group), key=lambda point: point.name):
            try:
                point.load()
            except Exception as error:  # any code may be in there
                failures.append(
                    f"plug-in {point.name} of {group} is left out: {type(error).__name__}: {error}".replace("\n", " ")
                )
                logger.warning("%s", failures[-1])


def one_of(kind: str, value: object, known: Sequence[str], elsewhere: Mapping[str, str] | None = None) -> str:
    """The value, if it is a known name.

    Args:
        kind: What it names, for the error.
        value: The value.
        known: Names.
        elsewhere: What other tools call them: name there -> name here.

    Raises:
        InputError: It is no string, or unknown; the hint has the closest match.
    """
    if isinstance(value, str) and value in known:
        return value
    import difflib

    close = difflib.get_close_matches(value, known, n=1) if isinstance(value, str) else []
    if isinstance(value, str) and elsewhere and value.lower().replace("_", "-") in elsewhere:
        close = [elsewhere[value.lower().replace("_", "-")]]
    meant = f"did you mean {close[0]!r}? " if close else ""
    raise InputError(f"unknown {kind} {value!r}", f"{meant}one of {', '.join(known)}")
