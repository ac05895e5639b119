"""Samples that a program makes as they are asked for: iterables, functions, onnxruntime's data readers."""

from __future__ import annotations

import importlib
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from onnxprune.calibration.disk_cache import Spill
from onnxprune.calibration.model_input import Feed
from onnxprune.calibration.samples import Chosen, Source, taken
from onnxprune.calibration.signature import Interface
from onnxprune.errors import DataError, InputError, OnnxPruneError

Checked = tuple[Feed, "int | None", tuple[str, ...]]
"""A feed as the model takes it, the samples in it where it can be cut, and names that mean nothing to the model."""
_AGAIN = "give data in a fixed order (no shuffling), or a one-shot iterator, which is kept: iter(data)"


class Stream(Source):
    """Feeds from an object that is iterated anew for every pass, or kept where it can be read only once.

    Nothing else is held but one feed. The first feed is read right away, so that what does not fit shows early.

    Args:
        origin: An iterable, a callable that returns one, or an object with `get_next()`.
        interface: The model's inputs.
        where: What to call the source in messages.
        memory: Bytes of memory for what is kept; the rest goes to temporary files.

    Raises:
        InputError: There is no first feed, or it does not fit.
    """

    random = False

    def __init__(self, origin: Any, interface: Interface, where: str, memory: int) -> None:
        self.where = where
        self.axes = interface.axes if interface.safe else None
        self._interface = interface
        self._passes, kept = _passes(origin, where)
        self._digest: int | None = None
        self._broken: OnnxPruneError | None = None
        self._spill = Spill(interface, memory) if kept else None
        self._source = _checked(self._passes(), interface, where)
        try:
            self._first: Checked | None = next(self._source)
        except StopIteration:
            raise DataError(f"{where}: has no samples") from None
        self.unused = self._first[2]
        if self._spill is not None:
            self._spill.append(self._first[0])

    def feeds(self, chosen: Chosen, batch: int) -> Iterator[Feed]:
        """See `Source`."""
        start = 0
        feeds = self._anew() if self._spill is None else self._replayed(self._spill)
        while not chosen.ended(start):
            entry = next(feeds, None)
            if entry is None:
                self.count = self.seen = start
                return
            feed, rows, _ = entry
            count = 1 if rows is None else rows
            places = chosen.within(start, start + count)
            start += count
            self.seen = max(self.seen, start)
            if len(places):
                yield feed if rows is None or self.axes is None else taken(feed, self.axes, places)

    def _anew(self) -> Iterator[Checked]:
        """One pass: what was begun to look at the first feed, or a new one that must begin the same."""
        if self._first is not None:
            first, self._first = self._first, None
            self._digest = _digest(first[0])
            yield first
            yield from self._source
            return
        feeds = _checked(self._passes(), self._interface, self.where)
        first_again = next(feeds, None)
        if first_again is None or _digest(first_again[0]) != self._digest:
            what = "nothing" if first_again is None else "other samples"
            raise InputError(f"{self.where}: gives {what} the second time it is read", _AGAIN)
        yield first_again
        yield from feeds

    def _replayed(self, spill: Spill) -> Iterator[Checked]:
        """What was kept, then what was not read yet; passes may interleave."""
        index = 0
        while True:
            if index == len(spill):
                if self._broken:  # a generator that raised looks like one that ended
                    raise self._broken
                try:
                    entry = next(self._source, None)
                    if entry is None:
                        return
                    spill.append(entry[0])
                except OnnxPruneError as error:
                    self._broken = error
                    raise
            feed = spill[index]
            index += 1
            yield feed, self._interface.rows({name: a.shape for name, a in feed.items()}, self.where), self.unused


def _checked(items: Iterator[Any], interface: Interface, whole: str) -> Iterator[Checked]:
    """Feeds as the model takes them; whatever the caller's code raises becomes an InputError."""
    start = 0
    while True:
        where = f"{whole}: sample {start}"
        try:
            item = next(items)
        except StopIteration:
            return
        except OnnxPruneError:
            raise
        except Exception as error:
            raise DataError(f"{where} (from 0) could not be read: {type(error).__name__}: {error}") from error
        feed, rows = interface.read(item, where)
        # A copy: makers of samples are free to use the same array for the next one.
        yield {name: array.copy() for name, array in feed.items()}, rows, interface.extra(interface.named(item, where))
        start += 1 if rows is None else rows


def _digest(feed: Feed) -> int:
    total = 0
    for array in feed.values():
        plain = array.astype(str) if array.dtype == object else array
        total = zlib.crc32(np.ascontiguousarray(plain).tobytes(), total)
    return total


def _passes(origin: Any, where: str) -> tuple[Callable[[], Iterator[Any]], bool]:
    """What begins a pass, and whether there can only be one."""
    if hasattr(origin, "get_next"):
        reader = _Reader(origin, where)
        return reader.begin, not hasattr(origin, "rewind")
    if callable(origin):
        return lambda: _called(origin, where), False
    iterator = _iterator(origin, where)
    if iterator is origin:
        return lambda: iterator, True
    return lambda: _iterator(origin, where), False


class _Reader:
    """An object with `get_next()`, and mostly `rewind()`: there is one place in it, so one pass at a time."""

    def __init__(self, reader: Any, where: str) -> None:
        self._reader, self._where, self._pass = reader, where, 0

    def begin(self) -> Iterator[Any]:
        self._pass += 1
        own = self._pass
        if own > 1:
            self._reader.rewind()
        while (item := self._reader.get_next()) is not None:
            yield item
            if own != self._pass:
                raise InputError(f"{self._where}: was rewound while it was being read", "finish one pass first")


def _called(function: Callable[[], Any], where: str) -> Iterator[Any]:
    try:
        made = function()
    except OnnxPruneError:
        raise
    except Exception as error:
        raise DataError(f"{where}: calling it failed: {type(error).__name__}: {error}") from error
    if hasattr(made, "get_next"):
        return _Reader(made, where).begin()
    return _iterator(made, where)


def _iterator(origin: Any, where: str) -> Iterator[Any]:
    try:
        return iter(origin)
    except Exception as error:
        raise InputError(
            f"{where}: is {type(origin).__name__}, which gives no samples",
            "give dicts of arrays, one after the other, by input name",
        ) from error


def imported(word: str) -> Any:
    """What `module:name` stands for; modules in the current folder come first.

    Raises:
        InputError: The module cannot be imported, or has no such name.
    """
    name, _, attribute = word.partition(":")
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        importlib.invalidate_caches()
        found: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        hint = f"is there a file {name.replace('.', '/')}.py in this folder?" if missing == name else None
        raise InputError(f"{word}: there is no module {missing}", hint) from error
    except Exception as error:
        raise DataError(f"{word}: module {name} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:  # at the end: functions may import what lies beside them later
            sys.path.append(folder)
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [n for n in vars(found) if not n.startswith("_")] if hasattr(found, "__dict__") else []
            hint = f"it has {', '.join(public)}" if public else None
            raise InputError(f"{word}: module {name} has no '{attribute}'", hint)
        found = getattr(found, part)
    return found
